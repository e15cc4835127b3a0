"""Options that several commands share, and the types that check them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from .. import registry
from ..config.kinds import ATTACK
from ..config.recipes import FINETUNINGS
from ..config.zoo import NORMALIZATIONS, normalization_of
from ..runner.overrides import SAME, parse_setting
from ..store.metrics import METRICS
from ..util.epsilons import parse_epsilons, parse_models
from ..util.errors import InvalidValue
from . import types

STORE = "rossbench-store"
FILE = "rossbench scenario file"
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _matching(pattern: str, expected: str, parse: Callable[[str], Any] = str) -> types.Text:
    """Text that matches a pattern, parsed by a function that may raise ValueError."""

    def convert(text: str) -> Any:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return parse(text)

    return types.Text(convert, expected)


def _parse_seeds(text: str) -> tuple[int, ...]:
    seeds = tuple(map(int, text.split(",")))
    if len(set(seeds)) < len(seeds):
        raise ValueError(text)
    return seeds


def _parse_shard(text: str) -> tuple[int, int]:
    number, total = map(int, text.split("/"))
    if not 1 <= number <= total:
        raise ValueError(text)
    return number, total


def _parse_epsilon(text: str) -> float:
    found = parse_epsilons(text)
    if len(found) != 1:
        raise click.BadParameter(f"expected one epsilon, got {text}")
    return found[0]


def _parse_weights(text: str) -> str:
    """What can be known of --encoder-weights without torch."""
    kind, _, name = text.partition(":")
    name = os.path.expanduser(name)
    known = {"hf-hub": re.fullmatch(r"[\w./@-]+", name), "local-dir": os.path.isfile(os.path.join(name, "config.json"))}
    if kind in known:
        if not known[kind]:
            raise click.BadParameter(f"expected a model that timm can load, got {text!r:.200}")
        return f"{kind}:{name}"
    source = os.path.expanduser(text)
    if not os.path.isfile(source) and not os.path.isdir(source):  # which reading says more of
        expected = "expected a file, hf-hub:NAME or local-dir:PATH"
        raise click.BadParameter(f"{expected}, got {text!r:.200}, and there is no such file")
    return source


def _parse_kind(text: str) -> str:
    registry.check_kind(text)
    return text


_DEVICE = _matching(r"auto|cpu|mps|cuda(:\d{1,3})?", "auto, cpu, cuda, cuda:N or mps")
_ADDRESS = _matching(r"auto|local|[\w.-]{1,250}:\d{1,5}", "auto, local or host:port")
_SEEDS = _matching(r"\d{1,18}(,\d{1,18})*", "different whole numbers such as 0,1,2", _parse_seeds)
_SHARD = _matching(r"\d{1,5}/\d{1,5}", "K/N with K from 1 to N, such as 2/8", _parse_shard)
_MEAN_STD = f"{', '.join(NORMALIZATIONS)} or mean/std as R,G,B/R,G,B with std above 0"
_NORMALIZATION = types.Text(normalization_of, _MEAN_STD, "norm")
_WEIGHTS = types.Text(_parse_weights, name="source")
EPSILONS, EPSILON, MODELS = types.Text(parse_epsilons), types.Text(_parse_epsilon), types.Text(parse_models)
_OR_SAME = types.Text(lambda text: text if text == SAME else parse_epsilons(text))
_COUNT = types.Whole(min=1)
_FILE = types.Path(dir_okay=False, path_type=Path)
FOLDER = types.Path(file_okay=False, path_type=Path)


def _load_scenario_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        if not value.is_file():  # reading a device or a pipe may never end
            raise click.BadParameter(f"expected a file, got {value}")
        registry.load_file(value)
        ctx.meta[FILE] = value


def check_writable(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A folder that can be written to or created, checked before the work whose results go there."""
    nearest = value and next(path for path in (value.absolute(), *value.absolute().parents) if path.exists())
    if nearest and not os.access(nearest, os.W_OK):
        raise click.BadParameter(f"expected a folder to write to, got {value}")
    return value


def _check_folder_exists(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Checked before the work that the file is for, which may take minutes."""
    if value is not None and not (value.parent.is_dir() and os.access(value.parent, os.W_OK)):
        raise click.BadParameter(f"expected a file in a folder that exists, got {value}")
    return value


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of scenarios and suites, for the completion of a shell."""
    known = [*registry.names(), *(suite.name for suite in registry.suites())]
    return [name for name in known if name.startswith(incomplete)]


def together(*decorators: Decorator) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def complete_encoders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [one.name for one in registry.encoders() if one.name.startswith(incomplete)]


option = click.option
name = click.argument("name", shell_complete=complete_names)
name_or_zoo = click.argument("name", required=False, shell_complete=complete_names)
some_names = click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_names)
debug_option = option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
json_option = option("--json", "as_json", is_flag=True, help="Print JSON.")
_kinds: dict[str, Any] = {"type": types.Text(_parse_kind, name="kind"), "multiple": True, "default": [ATTACK]}
kinds = option("--kind", "kinds", **_kinds, help="What to evaluate, as list names it; repeatable.  [default: attack]")
no_audit = option("--no-audit", is_flag=True, help="Do not audit the models; rossbench audit does it later.")
threads = option("--threads", type=types.Whole(1, 1024), help="Threads on the CPU; moves the last bits of results.")
quiet = option("--quiet", is_flag=True, help="Print results and errors only, no progress.")
scenario_file = option(
    "--scenario-file",
    type=types.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_load_scenario_file,
    help="Python file that registers your own scenarios.",
)
always = together(scenario_file, debug_option)
"""Of every command that names scenarios."""
_of_store: dict[str, Any] = {
    "default": STORE,
    "show_default": True,
    "envvar": "ROSSBENCH_STORE",
    "show_envvar": True,
    "help": "Folder of artifacts and records.",
}
store = option("--out", "--store", "store", type=FOLDER, **_of_store)
store_alone = option("--store", "store", type=FOLDER, **_of_store)
"""Of a command whose --out is a file."""
stores = option("--out", "--store", "stores", type=FOLDER, multiple=True, **_of_store | {"default": [STORE]})
"""Read together."""
store_to_write = option("--out", "--store", "store", type=FOLDER, callback=check_writable, **_of_store)
data_dir = option("--data-dir", type=FOLDER, help="[default: ROSSBENCH_DATA or ~/.cache/rossbench/data]")
tensorboard = option(
    "--tensorboard", type=FOLDER, callback=check_writable, help="Log loss and accuracy per epoch here."
)
device = option("--device", type=_DEVICE, default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
metric = option("--metric", type=types.Choice(list(METRICS)), help="[default: top1; robust for --attacked correct]")
protocol = option("--protocol", metavar="HASH", help="Only runs under the protocol with this hash.")
_share = types.Number(0, 10**6)
workers = together(
    option("--shard", type=_SHARD, default="1/1", metavar="K/N", help="Run part K of N.  [default: 1/1]"),
    option(
        "--ray",
        is_flag=False,
        flag_value="auto",
        type=_ADDRESS,
        metavar="[ADDRESS]",
        help="Run on a Ray cluster: auto, host:port, or local to start one here.  [default address: auto]",
    ),
    option("--cpus-per-task", "cpus", type=_share, help="CPUs per Ray task.  [default: 1]"),
    option("--gpus-per-task", "gpus", type=_share, help="GPUs per Ray task, such as 0.25.  [default: 0]"),
)
costs = together(
    option("--cost", is_flag=True, help="FLOPs and bytes, in total and of what is still to run."),
    option(
        "--rate",
        type=types.Number(0, min_open=True),
        metavar="FLOP/S",
        help="With --cost: estimate time at this rate, such as 50e12.",
    ),
    option("--calibrate", is_flag=True, help="With --cost: estimate time from steps measured on --device."),
)
overrides = together(
    option("--train-eps", "train_epsilons", type=EPSILONS, help="Pretraining epsilons: 0,1 or 0:1:0.2 or 8/255."),
    option("--finetune-eps", "finetune_epsilons", type=_OR_SAME, help="Finetuning epsilons; same: as pretrained."),
    option("--eval-eps", "eval_epsilons", type=EPSILONS, help="Evaluation epsilons."),
    option("--epochs", type=_COUNT, help="Pretraining epochs."),
    option("--finetune-epochs", type=_COUNT, help="Finetuning epochs."),
    option("--train-limit", type=_COUNT, help="Number of training images, class-balanced."),
    option("--test-limit", type=_COUNT, help="Number of test images, class-balanced."),
    option("--size", type=_COUNT, help="Height and width in pixels to which images are resized."),
    option("--seed", type=types.Whole(0, 2**62), help="Random seed."),
    option("--seeds", type=_SEEDS, help="Random seeds, such as 0,1,2; everything runs once per seed."),
    option(
        "--zoo",
        metavar="ENCODER",
        shell_complete=complete_encoders,
        help="The published encoder that the weights are of: its scenario, architecture and finetuning.",
    ),
    option("--encoder", help="Architecture: conv3, a timm model, or a timm ResNet with :cifar or :cifar-pad2."),
    option("--encoder-weights", type=_WEIGHTS, help="Use a pretrained encoder: a file, hf-hub:NAME or local-dir:PATH."),
    option(
        "--encoder-normalization",
        type=_NORMALIZATION,
        help="Its input normalization: none, imagenet, cifar10 or mean/std as R,G,B/R,G,B.  [default: the file's]",
    ),
    option(
        "--encoder-bn",
        type=types.Choice(["clean", "adversarial"]),
        help="Which of its BatchNorms, where it has several.  [default: adversarial]",
    ),
    option("--encoder-prefix", metavar="NAME", help="Which encoder of the file, such as teacher or encoder_q."),
    option("--name", "encoder_name", help="What to call the encoder in tables, figures and comparisons."),
    option("--precision", type=types.Choice(["float32", "bfloat16"]), help="Pretraining precision."),
    option("--attacked", type=types.Choice(["all", "correct"]), help="Attack all or only correctly classified images."),
    option("--attack", help="Evaluation attack: name, settings or both, such as pgd,steps=100,restarts=5."),
    option(
        "--finetuning",
        type=types.Choice(list(FINETUNINGS)),
        help="Standard linear, adversarial linear or full; field-..., deacl-...: as the field or DeACL does it.",
    ),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="FIELD=VALUE",
        type=types.Text(parse_setting),
        help="Set any field that show lists, such as pretraining.learning_rate=1e-3; repeatable, applied last.",
    ),
)


def check_workers(ray: str | None, cpus: float | None, gpus: float | None) -> None:
    """UsageError for Ray's options without --ray, or a fraction above 1 of GPUs."""
    needing = [name for name, value in (("--cpus-per-task", cpus), ("--gpus-per-task", gpus)) if value is not None]
    if ray is None and needing:
        raise click.UsageError(f"{needing[0]} needs --ray")
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise click.UsageError(f"--gpus-per-task: expected at most 1, or a whole number, got {gpus:g}")


def file_option(name: str, help: str) -> Decorator:
    return click.option(f"--{name}", "save", type=_FILE, callback=_check_folder_exists, help=help)


file_argument = click.argument("file", type=_FILE, callback=_check_folder_exists)


def place(given: Path | None, default: str, forms: Sequence[str]) -> Path:
    """The file of --save, or the default; InvalidValue for another suffix than ``forms``."""
    path = given or _FILE.convert(default, None, click.get_current_context())
    if path.suffix.removeprefix(".") not in forms:
        ends = " or ".join(f".{form}" for form in forms)
        raise InvalidValue(f"--save: expected a file that ends in {ends}, got {path}")
    return path


def save(path: Path, content: bytes) -> None:
    """Write a file that the user named, whole or not at all, and print its path. InvalidValue if that fails."""
    final = Path(os.path.realpath(path))  # what a link leads to
    part = final.with_name(f".writing-{os.getpid()}")
    try:
        if path.exists() and not path.is_file():  # such as /dev/stdout
            path.write_bytes(content)
        else:
            part.write_bytes(content)
            part.replace(final)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InvalidValue(f"{path}: expected a place to write to, got {error.strerror}") from error
    click.echo(f"saved {path}")
