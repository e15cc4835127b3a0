"""Independent random streams from one seed, so that a resumed or reordered run draws the same numbers."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, such as ``derive(0, "pretrain", epoch)``.

    Each epoch and batch has a stream of its own, so no generator state has to be saved to resume.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
