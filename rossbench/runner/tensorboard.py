"""Loss and accuracy of every epoch to TensorBoard, while a run goes on. The home of tensorboard, an optional extra."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ..util.errors import InvalidValue
from .progress import Observer, Progress


@contextlib.contextmanager
def logging_to(folder: Path) -> Iterator[Observer]:
    """An observer that writes a TensorBoard run for each training, named by what is trained and its key.

    Raises InvalidValue when tensorboard is not installed or the folder cannot be made. A run that ends by an error
    before it has anything to write leaves no folder.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InvalidValue("tensorboard is not installed: pip install 'rossbench[tensorboard]'") from error
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidValue(f"tensorboard: expected a folder to write to, got {folder}: {error.strerror}") from error
    with contextlib.ExitStack() as writers:
        current: tuple[str, SummaryWriter] | None = None

        def observe(progress: Progress) -> None:
            nonlocal current
            spec = progress.spec
            for entry in progress.tick.history if progress.tick else ():
                if current is None or current[0] != spec.key:
                    writers.close()
                    name = re.sub(r"[^\w.]+", "-", f"{spec}-{spec.key}")
                    # What an interrupted run wrote comes again with the history, so it is struck out.
                    writer = SummaryWriter(str(folder / name), purge_step=0)
                    current = spec.key, writer
                    writers.callback(writer.close)
                for field in ("loss", "top1", "top5", "learning_rate"):
                    current[1].add_scalar(field, entry[field], int(entry["epoch"]))
                current[1].flush()

        try:
            yield observe
        except BaseException:
            with contextlib.suppress(OSError):  # not empty
                for path in made:
                    path.rmdir()
            raise
