"""The command line: options in, tables and figures out. Only what computes imports torch, and when it is called."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from ..util import torchrun
from ..util.errors import RankError, RossbenchError
from ..util.signals import Interrupted, listening
from . import figures, publish, results, run, store, terminal, types, zoo
from .options import debug_option

EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_SIGNAL = 128
"""And the signal's number, as shells say it."""
LONGEST = 2000
_WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""For torch, before it is loaded: threads without work soon sleep. Those that spin slow down a machine that others use;
those that sleep at once (OMP_WAIT_POLICY=PASSIVE) slow down a quiet one by a third."""
_WAITS = {*_WAITING, "OMP_WAIT_POLICY"}
"""Of these a user's own choice stays."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Errors are one line on stderr and exit code 2; --debug shows where they come from."""
    given = sys.argv[1:] if arguments is None else arguments
    if not torchrun.is_rank_zero() and "run" not in given:  # there is nothing to share
        sys.exit()
    if "_ROSSBENCH_COMPLETE" in os.environ:  # a shell asks, and click answers in bytes
        cli.main(given, prog_name="rossbench")
    os.environ.update({"MPLBACKEND": "agg"} | ({} if _WAITS & set(os.environ) else _WAITING))
    with terminal.tolerant() as stdout:
        code = _run(given)
        stdout_lost = terminal.lost(stdout)
        if stdout_lost:
            click.echo(f"rossbench: stdout: expected a place to write to, got {stdout_lost}", err=True)
    sys.exit(code or EXIT_USAGE * bool(stdout_lost))


def _run(given: list[str]) -> int:
    """Run a command line; gives its exit code."""
    try:
        with listening():
            return cli.main(given, prog_name="rossbench", standalone_mode=False) or 0  # a code, where one exits
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        message, code = _explain(error, given)
        shared = isinstance(error, (click.ClickException, RossbenchError, Interrupted))
        if shared and not isinstance(error, RankError) and not torchrun.is_rank_zero():  # rank 0 says it
            return code if isinstance(error, Interrupted) else 0  # torchrun ends rank 0 when another fails
        if "--debug" in given:
            traceback.print_exc()
        click.echo(f"rossbench: {_one_line(message)}", err=True)
        return code


def _one_line(message: str) -> str:
    """Without what moves a cursor, and no longer than anyone reads; what was given may hold anything."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in message).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def _explain(error: BaseException, given: Sequence[str]) -> tuple[str, int]:
    """What to say of an error of a command, and the exit code."""
    if isinstance(error, click.ClickException):
        return types.with_usage(error) if isinstance(error, click.UsageError) else error.format_message(), EXIT_USAGE
    if isinstance(error, RossbenchError):
        return str(error), EXIT_USAGE
    if isinstance(error, Interrupted):
        again = shlex.join(["rossbench", *given])
        return f"interrupted ({error}); all that is done is kept, to go on: {again}", EXIT_SIGNAL + error.number
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return "interrupted; the same command goes on from the last finished epoch", EXIT_SIGNAL + signal.SIGINT
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)", EXIT_UNEXPECTED


@click.group(cls=types.Group, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(package_name="rossbench")
@debug_option
def cli() -> None:
    """How robust are self-supervised encoders, and how does their robustness transfer?"""


_RESULTS = (results.report, results.audit, results.compare, store.store_)
for _command in (run.list_, zoo.zoo, run.show, run.run, *_RESULTS, *figures.COMMANDS, *publish.COMMANDS):
    cli.add_command(_command)
