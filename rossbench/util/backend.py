"""matplotlib's backend. Figures need none; a bad name of one must not stop a run."""

from __future__ import annotations

import contextlib
import os
import sys


def forget_unknown() -> None:
    """Forget an MPLBACKEND that is not there, such as a notebook's in a process that it starts.

    With it matplotlib cannot be imported, nor torchmetrics, which imports it.
    """
    named = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    if named is not None:
        import matplotlib

        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = named
            os.environ["MPLBACKEND"] = named
