"""Every error that rossbench raises on purpose: one line that says what was expected and what came."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path


class RossbenchError(Exception):
    """Base of all errors meant for the user; the command line shows them as one line, exit code 2."""


class InvalidValue(RossbenchError, ValueError):
    """A field, option or file holds a value outside its range."""


class UnknownName(RossbenchError, LookupError):
    """A name that nothing is registered under."""


class DataError(RossbenchError):
    """A data set is not there, or is not what it should be."""


class AttackError(RossbenchError):
    """An attack returned something outside its bounds."""


class StoreError(RossbenchError):
    """The store cannot be read or written, or holds something unexpected."""


class Damaged(StoreError):
    """A file of the store is not what was written."""

    def __init__(self, message: str, place: Path) -> None:
        super().__init__(message)
        self.place = place
        """What is lost with it: the artifact's folder, or the file."""


class Diverged(RossbenchError):
    """Training gave a loss, a weight or a logit that is not finite."""


class OutOfMemory(RossbenchError):
    """A step of training does not fit the device."""


class RankError(RossbenchError):
    """One of several processes that train together is lost, or failed where the others did not."""


class NotComparable(RossbenchError):
    """Runs whose protocol differs from that of the published numbers."""


@contextlib.contextmanager
def error_context(path: object) -> Iterator[None]:
    """What is refused inside is a StoreError that names the file."""
    try:
        yield
    except StoreError:  # which names it already
        raise
    except RossbenchError as error:
        raise StoreError(f"{path}: {error}") from error


def one_line(text: str) -> str:
    """The words of a text, between single spaces."""
    return " ".join(text.split())


def expect(is_so: object, where: str, expected: str, got: object, error: type[RossbenchError] = InvalidValue) -> None:
    """What is wrong where, in one line of one form, unless something is so."""
    if not is_so:
        raise error(f"{where}{': ' * bool(where)}expected {expected}, got {got}")


def check_known(kind: str, name: object, known: Iterable[str], more: str = "") -> None:
    """UnknownName, see ``unknown``, for a name that is none of the known ones."""
    if name not in (there := [*known]):
        raise unknown(kind, name, there, more)


def unknown(kind: str, name: object, known: Iterable[str], more: str = "") -> UnknownName:
    """An UnknownName that suggests the nearest known names, or lists them all when none is near; and says ``more``."""
    known = sorted(known)
    text = str(name)[:100]
    near = difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    if len(text) > 2 and not difflib.get_close_matches(text, near):  # the beginning of a longer one, such as acl
        near = [one for one in known if one.startswith(text)][:3] or near
    rest = f", ... ({len(known)} in all)" if len(known) > 12 else ""
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:12]) or 'none'}{rest}"
    return UnknownName("; ".join(filter(None, [f"unknown {kind} {one_line(f'{name!r:.200}')}", hint, more])))
