"""Small things that many tests need: a scenario of seconds, and a run of it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rossbench import cli, registry
from rossbench.attacks.table import ATTACKS, Attack
from rossbench.config.kinds import KINDS, Kind
from rossbench.config.recipes import Augmentation, Pretraining
from rossbench.config.scenarios import Place, Scenario
from rossbench.config.specs import AuditSpec, EvaluateSpec, FinetuneSpec, PretrainSpec
from rossbench.data import datasets
from rossbench.models.classifier import Classifier
from rossbench.models.encoders import Encoder
from rossbench.runner import run as runner
from rossbench.stages.kinds.subject import Subject
from rossbench.store import results
from rossbench.store.records import Audit, Record, Verdict
from rossbench.store.results import ResultMatrix
from rossbench.store.store import Store
from rossbench.util.errors import RossbenchError
from rossbench.util.values import read

settings.register_profile("rossbench", deadline=None)
settings.load_profile("rossbench")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker a core, four at most, which share the cores; none for files that are named, nor to debug."""
    cores = os.cpu_count() or 1
    if cores == 1 or any(".py" in argument for argument in config.args):
        return 0
    workers = min(4, cores)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // workers))  # else each would start a thread a core
    return workers


LONG = ("test_cluster", "test_docs", "test_package", "test_survival")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of a minute come first, else one worker would be left with them at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def tiny(name: str = "digits", **changes: object) -> Scenario:
    """A registered digits scenario, cut down to seconds: two models, two evaluations, a few images."""
    scenario = registry.get(name)
    recipe = dataclasses.replace(
        scenario.recipe,
        pretraining=dataclasses.replace(scenario.recipe.pretraining, epochs=2, batch_size=20),
        finetuning=dataclasses.replace(scenario.recipe.finetuning, epochs=2, batch_size=20),
    )
    small = {"recipe": recipe, "train_epsilons": (0, 1), "eval_epsilons": (0, 0.5), "train_limit": 60, "test_limit": 40}
    return dataclasses.replace(scenario, **{**small, **changes})  # type: ignore[arg-type]


def subject(encoder: Encoder, images: torch.Tensor, columns: Sequence[float], **changes: Any) -> Subject:
    """What the function of a kind is given of an encoder: images uint8 [n, 3, size, size], of class 0; no training."""
    given = {"labels": torch.zeros(len(images), dtype=torch.int64), "kind": Kind("features"), "train": None} | changes
    frozen = encoder.requires_grad_(False).eval()
    always = {"classifier": None, "seed": 0, "target": "digits", "limit": None, "data_dir": Path(), "source": None}
    return Subject(encoder=frozen, images=images, columns=columns, **always | given)


def least_squares(encoder: Encoder, images: torch.Tensor, labels: torch.Tensor) -> Classifier:
    """A head on an encoder without a training: uint8 [n, 3, size, size], and labels [n] of 10 classes."""
    classifier = Classifier(encoder.requires_grad_(False).eval(), 10)
    features = torch.nn.functional.pad(encoder(images.float() / 255), (0, 1), value=1.0).double()
    gram = features.T @ features + 1e-3 * len(images) * torch.eye(features.shape[1])
    solved = torch.linalg.solve(gram, features.T @ torch.nn.functional.one_hot(labels, 10).double()).float()
    classifier.linear.weight.data, classifier.linear.bias.data = solved[:-1].T.contiguous(), solved[-1]
    return classifier.requires_grad_(False)


def tamper(path: Path, content: str | bytes) -> None:
    """Change a file of an artifact which is of a version without checksums, so that its content is judged."""
    (path.parent / "SHA256SUMS").unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def collapsed(record: Record) -> Record:
    """The record, of an encoder whose loss is that of constant features."""
    pretrain = {**record.provenance["pretrain"], "collapsed": True}
    return dataclasses.replace(record, provenance={**record.provenance, "pretrain": pretrain})


def under(record: Record, **changes: Any) -> Record:
    """The record with another evaluation: fields of its spec."""
    spec = dataclasses.replace(record.spec, **changes)
    return dataclasses.replace(record, spec=spec, key=spec.key)


def comparable(found: dict[Place, Record]) -> dict[Place, dict[str, Any]]:
    """Records without their times."""
    times = ("seconds", "created")
    return {
        place: {name: value for name, value in dataclasses.asdict(record).items() if name not in times}
        for place, record in found.items()
    }


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the tiny digits run is complete. Tests read it; those that write copy it."""
    root = tmp_path_factory.mktemp("finished")
    runner.run(tiny(), store=root, device="cpu")
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Store:
    """A copy of the finished store, to write to: where the command line looks for one."""
    return Store(shutil.copytree(finished, tmp_path / "rossbench-store"))


@pytest.fixture
def matrix(finished: Path) -> ResultMatrix:
    """Of the finished store."""
    return results.load(Store(finished))[0]


@pytest.fixture(scope="session")
def partly(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run that attacked only images that are right without it."""
    evaluation = dataclasses.replace(tiny().recipe.evaluation, attacked="correct")
    root = tmp_path_factory.mktemp("partly") / "store"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("matrices", "evaluate"))
    runner.run(tiny(recipe=dataclasses.replace(tiny().recipe, evaluation=evaluation)), store=root, device="cpu")
    return root


@pytest.fixture(scope="session")
def audited(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished store, and the audits of its models. Tests read it."""
    root = shutil.copytree(finished, tmp_path_factory.mktemp("audited") / "store")
    runner.audit(store=root, device="cpu")
    return root


@pytest.fixture(scope="session")
def measured(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished store, and other evaluation kinds of its models. Tests read it."""
    root = shutil.copytree(finished, tmp_path_factory.mktemp("measured") / "store")
    runner.run(tiny(), store=root, device="cpu", kinds=["features", "corruptions", "minimal,steps=5"])
    return root


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[Place, Record]:
    """The whole digits scenario, as registered: about a minute. Workers of one session share its store."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    return runner.run("digits", store=root / "digits", device="cpu")


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registrations of a test end with it."""
    for name in ("_scenarios", "_suites", "_encoders"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    known = [(names, dict(names)) for names in (ATTACKS, KINDS, datasets.DATASETS)]
    registry._load_plugins.cache_clear()
    yield
    registry._load_plugins.cache_clear()
    for names, before in known:
        names.clear()
        names.update(before)


@pytest.fixture
def rossbench(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_registry: None
) -> Callable[..., tuple[object, str, str]]:
    """Runs a command line in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> tuple[object, str, str]:
        try:
            cli.main([str(argument) for argument in arguments])
            code: object = 0
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def cifar() -> Path:
    """The folder of the real CIFAR files."""
    folder = os.environ.get("ROSSBENCH_DATA")
    if not folder or not (Path(folder) / "cifar-10-batches-py").is_dir():
        pytest.skip("ROSSBENCH_DATA names no folder with cifar-10-batches-py")
    return Path(folder)


class _NoWaiting(TorchDispatchMode):
    """Fails on what a CUDA graph cannot hold: reading a number back, sizes that hang on one, numbers copied there."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        reads = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "repeat_interleave", "equal")
        brings = ("lift_fresh",)  # numbers from the host, as torch.tensor does
        name = operation.overloadpacket.__name__.rstrip("_")
        assert name not in (*reads, *brings), operation
        if name in ("index", "index_put"):  # a mask becomes places, and how many is a number
            assert not any(place is not None and place.dtype == torch.bool for place in arguments[1]), operation
        return operation(*arguments, **(options or {}))


@pytest.fixture
def no_waiting() -> TorchDispatchMode:
    return _NoWaiting()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def refusal(call: Callable[..., object], *arguments: object) -> str | None:
    """What is said, in one line, when a call is refused; None if it is not. Any error but our own is passed on."""
    try:
        call(*arguments)
    except RossbenchError as error:
        said = str(error)
    else:
        return None
    assert len(said.splitlines()) == 1, said
    return said


# --- strategies ----------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=9) | st.text("\n\r\t\u2028 |\\&%$#_{}~^<>\"'=+-@[]/*`:,;a1", max_size=9)
"""Any, and often such as mean something where it is written to."""
_LEAVES = st.none() | st.booleans() | st.integers() | TEXTS


def _json(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)

    return st.recursive(leaves, nest, max_leaves=6)


FINITE = _json(_LEAVES | st.floats(allow_nan=False, allow_infinity=False))
JSON = _json(_LEAVES | st.floats() | st.just(10**400))
"""Whatever json.loads may give: also numbers that are none, and whole ones that no float is."""


def changed(data: st.DataObject, content: object) -> Any:
    """The content with something else in the place of one part of it, wherever."""
    whole = part = {"": json.loads(json.dumps(content))}
    name: Any = ""
    while part[name] and isinstance(part[name], (dict, list)) and (name == "" or data.draw(st.booleans())):
        part = part[name]
        name = data.draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
    part[name] = data.draw(JSON)
    return whole[""]


def reread(cls: type[Any], content: object) -> Any:
    """A value from its dictionary, by way of a file's JSON."""
    return read(cls, json.dumps(content))


def values(cls: type, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Valid values of a class of the package, every field of them drawn."""
    if cls in _OWN and not known:
        return _OWN[cls]
    hints = get_type_hints(cls, include_extras=True)
    drawn = {field.name: _items(hints[field.name]) for field in dataclasses.fields(cls)}
    return st.builds(cls, **drawn | known)


def _items(hint: Any, *metadata: Any) -> st.SearchStrategy[Any]:
    kinds = get_args(hint)
    if get_origin(hint) is Annotated:
        inner = [part for one in kinds[1:] for part in getattr(one, "metadata", [])]
        return _items(kinds[0], *metadata, *inner)
    if NoneType in kinds:
        return st.none() | _items(kinds[0], *metadata)
    if get_origin(hint) is tuple:
        items = _items(kinds[0])
        whole = st.lists(items, max_size=4) if kinds[-1] is Ellipsis else st.tuples(*map(_items, kinds))
        return whole.map(sorted) if len(set(kinds)) == 1 else whole
    if get_origin(hint) is Literal:
        return st.sampled_from(kinds)
    low = max(
        [getattr(one, "ge", None) or (getattr(one, "gt", None) or 0) + 1e-9 * hasattr(one, "gt") for one in metadata]
        or [0]
    )
    high = min([one.le for one in metadata if hasattr(one, "le")] or [math.inf])
    if hint in (int, float):
        whole = st.integers(math.ceil(low), int(min(high, 2**62)))
        return whole if hint is int else st.floats(low, min(high, 1e300)) | whole
    return TEXTS if hint is str else st.booleans() if hint is bool else values(hint)


_OWN: dict[type, st.SearchStrategy[Any]] = {}
_OWN[Attack] = values(
    Attack, name=st.sampled_from(sorted({*ATTACKS, "own"} - {"autoattack-standard"})) | TEXTS
) | values(Attack, name=st.just("autoattack-standard"), steps=st.just(100))
_OWN[Augmentation] = values(Augmentation, jitter=st.tuples(*[st.floats(0, 1)] * 3, st.floats(0, 0.5)))
_OWN[Pretraining] = values(Pretraining, epsilon_warmup=st.floats(0, 0.9))
_SETS = st.sampled_from(["cifar10", "cifar100", "digits"])
_LIMITS = st.none() | st.integers(100, 596)
"""Right for the training and the test split of each."""
_OWN[PretrainSpec] = values(PretrainSpec, source=_SETS, limit=_LIMITS)
_OWN[FinetuneSpec] = values(FinetuneSpec, target=_SETS, limit=_LIMITS)
_OWN[EvaluateSpec] = values(EvaluateSpec, limit=_LIMITS)
_OWN[AuditSpec] = values(AuditSpec, limit=_LIMITS)
_COUNTS = st.integers(0, 100)


def _record(spec: EvaluateSpec, **fields: Any) -> Record:
    return Record(key=spec.key, spec=spec, **fields)


RECORDS = st.builds(
    _record,
    spec=values(EvaluateSpec),
    scenario=TEXTS,
    deviations=st.dictionaries(TEXTS, st.lists(FINITE, min_size=2, max_size=2), max_size=2),
    seed=st.integers(0, 2**62),
    n=st.integers(100, 10_000),
    classes=st.integers(2, 1000),
    robust_right=st.none() | _COUNTS,
    top1_right=st.none() | _COUNTS,
    top5_right=st.none() | _COUNTS,
    mcc=st.none() | st.floats(-1, 1),
    precision=st.none() | st.floats(0, 1),
    recall=st.none() | st.floats(0, 1),
    f1=st.none() | st.floats(0, 1),
    right_by_class=st.none() | st.lists(_COUNTS, max_size=4),
    wilson95=st.dictionaries(TEXTS, st.lists(st.floats(0, 1), min_size=2, max_size=2), max_size=3),
    seconds=st.fixed_dictionaries({"evaluate": st.floats(0, 1e6)}),
    created=TEXTS,
    provenance=st.dictionaries(TEXTS, st.dictionaries(TEXTS, FINITE, max_size=3), max_size=3),
)
_VERDICT = st.builds(Verdict, TEXTS, st.sampled_from(["pass", "warn", "fail"]), TEXTS, TEXTS)
AUDITS = st.builds(
    Audit,
    spec=values(AuditSpec),
    verdicts=st.lists(_VERDICT, min_size=1, max_size=4).map(tuple),
    images=st.integers(0, 10_000),
    seconds=st.floats(0, 1e6),
    created=TEXTS,
    provenance=st.dictionaries(TEXTS, FINITE, max_size=3),
)
SPECS = st.one_of(*map(values, (PretrainSpec, FinetuneSpec, EvaluateSpec, AuditSpec)))
