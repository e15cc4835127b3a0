"""Who builds what, among processes of one machine or of several on a shared folder. The home of filelock."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import StoreError

if TYPE_CHECKING:
    from filelock import SoftFileLease

BEAT = 10.0
"""Seconds between two signs of life of a holder."""
DEAD = 60.0
"""Seconds without one, by the clock of who watches, after which a holder on another machine counts as dead."""


class Locks:
    """The locks of a folder, by key: files with a heartbeat.

    A dead holder's lock is taken over: of this machine at once, of another after ``DEAD`` seconds. A holder that was
    suspended for longer goes on all the same, so what is built under a lock has to appear at once (Store.write).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._leases: dict[str, SoftFileLease] = {}
        """Kept, as each remembers how long it has watched another's heartbeat."""

    def take(self, key: str) -> bool:
        """Whether this process now holds the lock; False if another holds it. Does not wait. Raises StoreError."""
        from filelock import Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lease(key).acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise StoreError(f"store: cannot lock: {error.strerror or error} ({self.folder})") from error
        return True

    def give(self, key: str) -> None:
        """Let go of a lock that this process holds, or once held."""
        with contextlib.suppress(OSError):  # the folder is away; then so is the lock
            self._lease(key).release(force=True)

    def holder(self, key: str) -> str:
        """Who holds a lock, in words."""
        owner = self._lease(key).owner
        return f"process {owner.pid} on {owner.hostname}" if owner else "another run"

    def _lease(self, key: str) -> SoftFileLease:
        if key not in self._leases:
            from filelock import SoftFileLease  # here, since list and report need no lock and start at once

            self._leases[key] = SoftFileLease(
                self.folder / f"{key}.lock", lease_duration=DEAD, heartbeat_interval=BEAT, thread_local=False
            )
        return self._leases[key]
