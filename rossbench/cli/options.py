"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from .. import registry
from ..attacks.table import attack_of
from ..config.scenarios import Scenario
from ..store.results import METRICS
from ..util.epsilons import parse_epsilons, parse_models
from ..util.errors import InvalidValue

SAME = "same"
STORE = "rossbench-store"
FILE = "rossbench scenario file"
FINETUNINGS = ("SLF", "ALF", "AFF")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Normalization = tuple[tuple[float, ...], tuple[float, ...]]
_NORMALIZATIONS: dict[str, Normalization] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


class Number(click.FloatRange):
    """A number in a range, and finite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value!r}", param, ctx)
        return number


class _Path(click.Path):
    """A path that the system can look for, whether it finds it or not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            os.lstat(value)
        except FileNotFoundError:
            if not os.fspath(value):
                self.fail("expected a path, got ''", param, ctx)
        except (OSError, ValueError) as error:  # too long, below a file, with a NUL in it
            reason = getattr(error, "strerror", error)
            self.fail(f"expected a path, got {os.fspath(value)!r:.200}: {reason}", param, ctx)
        return super().convert(value, param, ctx)


def together(*decorators: Decorator) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def epsilons(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    return None if value is None else parse_epsilons(value)


def models(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[tuple[float, float], ...]:
    return () if value is None else parse_models(value)


def _finetune(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | str | None:
    return value if value in (None, SAME) else parse_epsilons(str(value))


def _seeds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    seeds = tuple(map(int, value.split(","))) if re.fullmatch(r"\d{1,18}(,\d{1,18})*", value) else ()
    if not seeds or len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"expected different whole numbers such as 0,1,2, got {value!r}", ctx, param)
    return seeds


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise click.BadParameter(f"expected auto, cpu, cuda, cuda:N or mps, got {value!r}", ctx, param)
    return value


def _normalization(ctx: click.Context, param: click.Parameter, value: str | None) -> Normalization | None:
    if value is None or value in _NORMALIZATIONS:
        return None if value is None else _NORMALIZATIONS[value]
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in value.split("/"))
    except ValueError:
        mean, std = (), ()
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        known = ", ".join(_NORMALIZATIONS)
        raise click.BadParameter(
            f"expected {known} or mean/std as R,G,B/R,G,B with std above 0, got {value!r}", ctx, param
        )
    return mean, std


def _shard(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", value)
    number, total = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= total:
        raise click.BadParameter(f"expected K/N with K from 1 to N, such as 2/8, got {value!r}", ctx, param)
    return number, total


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"auto|local|[\w.-]{1,250}:\d{1,5}", value):
        raise click.BadParameter(f"expected auto, local or host:port, got {value!r}", ctx, param)
    return value


def _load_scenario_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        if not value.is_file():  # a device or a pipe may never end
            raise click.BadParameter(f"expected a file, got {value}", ctx, param)
        registry.load_file(value)
        ctx.meta[FILE] = value


debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")
scenario_file = click.option(
    "--scenario-file",
    type=_Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_load_scenario_file,
    help="Python file that registers scenarios of your own.",
)


def _makeable(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Said before the work whose results go there."""
    there = value and next(path for path in (value.absolute(), *value.absolute().parents) if path.exists())
    if there and not os.access(there, os.W_OK):
        raise click.BadParameter(f"expected a folder to write to, got {value}", ctx, param)
    return value


FOLDER = _Path(file_okay=False, path_type=Path)
_of_store: dict[str, Any] = {"default": STORE, "show_default": True, "help": "Folder of artifacts and records."}
store = click.option("--out", "--store", "store", type=FOLDER, **_of_store)
store_to_write = click.option("--out", "--store", "store", type=FOLDER, callback=_makeable, **_of_store)
tensorboard = click.option(
    "--tensorboard",
    type=FOLDER,
    callback=_makeable,
    help="Folder for loss and accuracy of every epoch, live; needs rossbench[tensorboard].",
)
workers = together(
    click.option(
        "--shard", callback=_shard, default="1/1", metavar="K/N", help="Do the K-th of N parts; runs share a store."
    ),
    click.option(
        "--ray",
        is_flag=False,
        flag_value="auto",
        callback=_address,
        metavar="[ADDRESS]",
        help="On the Ray cluster there, here (auto, as without address), or of this machine alone (local).",
    ),
    click.option("--cpus-per-task", "cpus", type=Number(0, 10**6), help="Of a task on Ray.  [default: 1]"),
    click.option("--gpus-per-task", "gpus", type=Number(0, 10**6), help="The same; 0.25: four on a GPU.  [default: 0]"),
)
metric = click.option(
    "--metric",
    type=click.Choice(list(METRICS)),
    help="[default: top1; robust, where only images that are right without an attack were attacked]",
)
protocol = click.option("--protocol", help="The one of that hash, where a scenario ran under several.")
device = click.option(
    "--device", callback=_device, default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."
)


def _costing(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """An option that means something beside --cost alone, which is read before it."""
    if value and not ctx.params.get("cost"):
        raise click.UsageError(f"--{param.name}: expected --cost beside it", ctx)
    return value


costs = together(
    click.option("--cost", is_flag=True, is_eager=True, help="FLOPs and bytes, of all and of what the store lacks."),
    click.option(
        "--rate",
        type=Number(0, min_open=True),
        callback=_costing,
        metavar="FLOP/S",
        help="With --cost: time at that rate, such as 50e12.",
    ),
    click.option(
        "--calibrate",
        is_flag=True,
        callback=_costing,
        help="With --cost: time measured on --device, in seconds.",
    ),
)
data_dir = click.option(
    "--data-dir",
    type=FOLDER,
    help="Folder of the data sets.  [default: ROSSBENCH_DATA or ~/.cache/rossbench/data]",
)
_count = click.IntRange(min=1)
_FILE = _Path(dir_okay=False, path_type=Path)
overrides = together(
    click.option("--train-eps", "train_epsilons", callback=epsilons, help="Rows, such as 0,1 or 0:1:0.2 or 8/255."),
    click.option(
        "--finetune-eps",
        "finetune_epsilons",
        callback=_finetune,
        help="Of finetuning: a list, or the word same: as pretrained.",
    ),
    click.option("--eval-eps", "eval_epsilons", callback=epsilons, help="Columns, written the same way."),
    click.option("--epochs", type=_count, help="Of pretraining."),
    click.option("--finetune-epochs", type=_count, help="Of finetuning."),
    click.option("--train-limit", type=_count, help="Use that many training images, class-balanced."),
    click.option("--test-limit", type=_count, help="Use that many test images, class-balanced."),
    click.option("--seed", type=click.IntRange(0, 2**62), help="Of weights, order, views and attacks."),
    click.option("--seeds", callback=_seeds, help="Several, such as 0,1,2: all is done for each."),
    click.option("--encoder", help="conv3, a timm model, or a timm ResNet with :cifar appended."),
    click.option(
        "--encoder-weights",
        metavar="SOURCE",
        help="Of an encoder trained elsewhere, in place of pretraining: a file, hf-hub:... or local-dir:...",
    ),
    click.option(
        "--encoder-normalization",
        callback=_normalization,
        metavar="HOW",
        help="Its input's: none, imagenet, cifar10 or mean/std as R,G,B/R,G,B.  [default: none]",
    ),
    click.option(
        "--precision", type=click.Choice(["float32", "bfloat16"]), help="Of pretraining; the rest is float32."
    ),
    click.option(
        "--attacked",
        type=click.Choice(["all", "correct"]),
        help="correct: only images that are right without an attack; gives robust accuracy alone, sooner.",
    ),
    click.option("--attack", help="Of the evaluation: a name, settings, or both, such as pgd,steps=100,restarts=5."),
    click.option(
        "--finetuning",
        type=click.Choice(FINETUNINGS),
        help="Standard or adversarial linear, or adversarial full finetuning.",
    ),
)
_IN_RECIPE = {
    "epochs": ("pretraining", "epochs"),
    "finetune_epochs": ("finetuning", "epochs"),
    "precision": ("pretraining", "precision"),
    "attacked": ("evaluation", "attacked"),
}


def _writable(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Said before the work that the file is for, which may take minutes."""
    if value is not None and not (value.parent.is_dir() and os.access(value.parent, os.W_OK)):
        raise click.BadParameter(f"expected a file in a folder that exists, got {value}", ctx, param)
    return value


def place(given: Path | None, default: str, forms: Sequence[str]) -> Path:
    """The file of --save, or in its absence the default, which too has to be one that can be written."""
    context = click.get_current_context()
    path = given or _FILE.convert(default, None, context)
    if path.suffix.removeprefix(".") not in forms:
        ends = ", ".join(f".{form}" for form in forms[:-1]) + " or " * (len(forms) > 1) + f".{forms[-1]}"
        raise InvalidValue(f"--save: expected a file that ends in {ends}, got {path}")
    return path


def file_option(name: str, help: str) -> Decorator:
    """A file to write."""
    return click.option(f"--{name}", "save", type=_FILE, callback=_writable, help=help)


def save(path: Path, content: bytes) -> None:
    """Write a file that the user named, whole or not at all, and say so. InvalidValue where it cannot be written."""
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


def changed_scenarios(name: str, changed: dict[str, Any]) -> list[Scenario]:
    """The registered scenario, or those of a suite, with the options that were given; for each of several seeds.

    With --encoder-weights they lack those weights yet, as reading them takes torch; see study.
    """
    if changed["seeds"] and changed["seed"] is not None:
        raise click.UsageError("expected --seed or --seeds, got both")
    if changed["encoder_weights"] is None:
        if changed["encoder_normalization"] is not None:
            raise click.UsageError("--encoder-normalization: expected --encoder-weights beside it")
    else:
        _check_given(changed)
        changed = {**changed, "train_epsilons": (0.0,)}
    seeds = changed["seeds"] or (changed["seed"],)
    return [_changed(one, {**changed, "seed": seed}) for seed in seeds for one in registry.members(name)]


def _check_given(changed: dict[str, Any]) -> None:
    """UsageError for options that mean nothing beside --encoder-weights."""
    pretraining = {
        "--epochs": changed["epochs"] is not None,
        "--precision": changed["precision"] is not None,
        "--train-eps": changed["train_epsilons"] not in (None, (0,)),
    }
    for option, there in pretraining.items():
        if there:
            raise click.UsageError(f"{option}: expected none beside --encoder-weights, which leaves pretraining out")
    source: str = changed["encoder_weights"]
    if source.startswith(("hf-hub:", "local-dir:")):
        for option in ("encoder", "encoder_normalization"):
            if changed[option] is not None:
                raise click.UsageError(
                    f"--{option.replace('_', '-')}: expected none beside {source}, which brings its own"
                )


def check_workers(ray: str | None, cpus: float | None, gpus: float | None) -> None:
    """UsageError for options of tasks without a cluster, or fractions that no GPU can be cut into."""
    for option, value in (("--cpus-per-task", cpus), ("--gpus-per-task", gpus)):
        if ray is None and value is not None:
            raise click.UsageError(f"{option}: expected --ray beside it")
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise click.UsageError(f"--gpus-per-task: expected at most 1, or a whole number, got {gpus:g}")


def check_source(source: str | None) -> None:
    """InvalidValue for --encoder-weights that name nothing, which is seen without torch."""
    if source is None:
        return
    kind, _, name = source.partition(":")
    known = {"hf-hub": re.fullmatch(r"[\w./@-]+", name), "local-dir": os.path.isfile(os.path.join(name, "config.json"))}
    if kind in known and not known[kind]:
        raise InvalidValue(f"{source:.200}: expected a model that timm can load, got none there")
    if kind not in known and not os.path.isfile(source):
        raise InvalidValue(
            f"encoder weights: expected a file, or hf-hub:... or local-dir:..., got {source!r:.200}, no such file"
        )


def _changed(scenario: Scenario, changed: dict[str, Any]) -> Scenario:
    fields = ("train_epsilons", "finetune_epsilons", "eval_epsilons", "train_limit", "test_limit", "seed", "encoder")
    top = {field: changed[field] for field in fields if changed[field] is not None}
    if top.get("finetune_epsilons") == SAME:
        top["finetune_epsilons"] = None
    recipe = scenario.recipe
    if changed["finetuning"] is not None:
        top = {"finetune_epsilons": (0,) if changed["finetuning"] == "SLF" else None, **top}
        head = dataclasses.replace(recipe.finetuning, trained="full" if changed["finetuning"] == "AFF" else "linear")
        recipe = dataclasses.replace(recipe, finetuning=head)
    if changed["attack"] is not None:
        attack = attack_of(changed["attack"], recipe.evaluation.attack)
        recipe = dataclasses.replace(recipe, evaluation=dataclasses.replace(recipe.evaluation, attack=attack))
    for option, (part, field) in _IN_RECIPE.items():
        if changed[option] is not None:
            settings = dataclasses.replace(getattr(recipe, part), **{field: changed[option]})
            recipe = dataclasses.replace(recipe, **{part: settings})
    return dataclasses.replace(scenario, recipe=recipe, **top)
