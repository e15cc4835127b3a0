"""Bad input of every kind: one line on stderr, exit code 2, nothing left behind.

All but what needs weights, timm or devices is judged in a process that cannot import torch.
"""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import click
import pytest
import timm
import torch
from conftest import refusal
from safetensors.torch import save_file
from torchvision import datasets as tv

import rossbench as package
from rossbench import cli
from rossbench.config import recipes, scenarios
from rossbench.data import datasets
from rossbench.store.store import SUMS
from rossbench.util.errors import DataError

LONG = "x" * 5000
HUGE = "9" * 5000
ODD = ["", "\x00", "a\n[red]", "../../x", "\udcff", LONG]
"""What no name or number is, and what may go wrong where it is shown."""

# --- options, by the kind of their values ---------------------------------------------------------------------


def _values(text, *more):
    return [*text.split(), *more]


KINDS = {
    "show digits --eval-eps; show digits --train-eps; show digits --finetune-eps; figure confusion digits --eval-eps; "
    "figure per-class digits --eval-eps": _values("0, 1,0 0,nan -1 1e4 1e999999999 1/0 0:1:0 0:1:1e-9", *ODD),
    "figure robustness digits --models; figure training digits --models; layers digits --model; "
    "features digits --model; compare digits@0 digits@": _values("x 1: 1:0:1 -1", ""),
    "show digits --epochs; show digits --finetune-epochs; show digits --train-limit; show digits --test-limit; "
    "figure tsne digits --limit; figure tsne digits --iterations; figure examples digits --count; "
    "show digits --size; features digits --limit; run digits --threads": _values("0 -1 1.5 x nan", HUGE, *ODD[:2]),
    "run digits --kind": _values(
        "x Attack knn,k=1 knn,neighbours=0 minimal,steps=x features,norm=L3 knn,", "", *ODD[:2]
    ),
    "show digits --name": ["1", "0.5", "a/b", "a\nb", LONG],
    "report --sort": ["x", "-1", "nan", ""],
    "show digits --seed": _values("-1 1.5", str(2**62 + 1)),
    "show digits --seeds": _values("0, 0,0 -1 0:3", HUGE),
    "figure examples digits --epsilon; features digits --epsilon; figure tsne digits --perplexity; "
    "compare --tolerance; show digits --cost --rate; run digits --ray local --cpus-per-task; "
    "run digits --ray local --gpus-per-task": _values("-1 nan inf x", ""),
    "report --metric; report --format; compare --format; figure matrix digits --metric; show digits --precision; "
    "show digits --attacked; show digits --finetuning; show digits --encoder-bn; "
    "figure training digits --stage": _values("TOP1", "", LONG),
    "run digits --device; show digits --device; report --device; audit --device": _values("tpu cuda:x cpu:0", ""),
    "report --protocol; audit --protocol; compare --protocol; figure matrix digits --protocol": _values("abc *", ""),
    "run digits --encoder": _values("/etc/passwd resnet18: module:", ""),
    "run digits --encoder-weights": _values("none.pt /dev/zero hf-hub: local-dir:none", *ODD[:2], LONG),
    "run digits --encoder-weights w/good.pt --encoder-normalization": _values(
        "/ 0,0,0/1,1 0,0,0/1,1,0 1e400,0,0/1,1,1 a,b,c/d,e,f cifar", ""
    ),
    "show digits --attack": _values(
        "apgd pgd, = steps steps=0 steps=1.5 step_size=0 step_size=1e999999999 step_size=1/0 norm=L3 name=pgd "
        "pgd,speed=3 random_start=maybe autoattack-standard,steps=3 norm=Linf steps=3,,restarts=2",
        *("steps=" + HUGE, *ODD[:2]),
    ),
    "show digits --set": _values(
        "x =3 name=x weights=0 pretraining=3 pretraining.epochs pretraining.epochs= pretraining.epochs=0 seed=-1 "
        "pretraining.epochs=1.5 pretraining.learning_rate=nan pretraining.learning_rate=1/0 "
        "pretraining.normalize=maybe pretraining.learning_rate=true pretraining.attack.name=fgsm eval_epsilons=1,0 "
        "evaluation.attack.name=x evaluation.attacked=wrong pretraining.augmentation.crop_scale=1,0.5",
        *("pretraining.epochs=" + "[" * 100000, "seed=" + HUGE, *ODD[:3]),
    ),
    "run digits --shard": _values("0/2 3/2 x 1/999999", ""),
    "run digits --ray": _values("host :1 ray://host:1", ""),
    "run digits --out; run digits --store; run digits --tensorboard; run cifar10-to-cifar10 --data-dir; report --out; "
    "audit --out; figure confusion digits --out; compare --out": _values(
        "file.txt file.txt/x ~nobody-here/store", "a\x00b", LONG, ""
    ),
    "store list --out; store verify --out; store gc --out; store rm digits --out": _values("none folder file.txt", ""),
    "figure matrix digits --save; features digits --save": _values("folder none/f.png f.gif .png", LONG + ".png", ""),
    "report --html; card digits@0 --out; export digits@0 ": _values("folder none/x", ""),
    "leaderboard --html": _values("file.txt file.txt/x", "a\x00b", LONG, ""),
    "leaderboard --html board ": _values("none folder file.txt", "a\x00b", ""),
    "list --scenario-file; show digits --scenario-file; run digits --scenario-file; report --scenario-file": _values(
        "none.py folder /dev/zero /proc/self/mem s/raises.py", *ODD[:2], LONG
    ),
    "zoo ; run digits --encoder-weights w/good.pt --zoo": _values("acl acl-cifar10x ACL", *ODD, LONG),
    "show ; run ; report ; audit ; compare ; figure matrix ; layers ; features ; card ": _values("digitz DIGITS", *ODD),
}
"""Options that take values of the same kind, and bad ones of it."""
COMBINED = """
rum; --debg; list x; show; run; show digits digits; figure tsne; store lis; store verify --dry-run
run digits --epoch 3; run digits --seed; run digits --seed 1 --seeds 0,1; run digits --set seed=1 --seeds 0,1
run digits --encoder-prefix x
run digits --encoder-normalization imagenet; run digits --cost; show digits --rate 5e13; show digits --calibrate
show digits --cost --rate 5e13 --calibrate; show digits --cost --json; report digits ross2022
run digits --cpus-per-task 1; run digits --ray local --gpus-per-task 1.5
run digits --finetuning AFF --finetune-eps 1,0; run digits --test-limit 597
run digits --encoder-weights w/good.pt --epochs 3; run digits --encoder-weights w/good.pt --precision bfloat16
run digits --encoder-weights w/good.pt --train-eps 0,1; run digits --encoder-weights w/good.pt --encoder ../x
run digits --encoder-weights w/good.pt --set pretraining.batch_size=9
run digits --encoder-weights hf-hub:a/b --encoder conv3; run --zoo acl-cifar10; zoo acl-cifar10 acl-cifar100
run digits --zoo acl-cifar10 --encoder-weights w/good.pt; run --zoo acl-cifar10 --encoder-weights hf-hub:a/b
report --html x.html --format csv; report --html x.html --intervals; report --intervals --format json
features digits --epsilon 1001; store rm; store rm x; figure tsne-together digits --limit 41
export digits@0; export digitz x.safetensors; leaderboard; card digits@0 digits@1
compare digits; compare digits@0 digits@2; compare digits@0 digits@0 digits@0; compare @ @; compare x@0 digits@0
"""
MESSAGES = """
run digitz => unknown scenario or suite 'digitz'; did you mean digits or digits-study?
run digits --finetune-eps 1:0 => expected numbers or start:stop:step, got '1:0'
run digits --tensorboard file.txt => 'file.txt' is a file
run ross2022 --train-limit 50 => train limit for cifar100: expected 100 (one image a class) to 50000
run digits --seeds 0,0 => expected different whole numbers such as 0,1,2, got '0,0'
run digits --seeds 0,1 --seed 2 => --seed and --seeds are mutually exclusive
run digits --set epochs=3 => unknown field 'epochs'; did you mean finetuning.epochs or pretraining.epochs?
run digits --set pretraining.epochs=0 => Pretraining.epochs: expected a number of at least 1, got 0
run digits --device tpu => expected auto, cpu, cuda, cuda:N or mps, got 'tpu'
run digits --attack apgd => unknown attack 'apgd'; did you mean
run digits --attack negative --eval-eps 0,2 => negative: expected shares of at most 1
run digits --scenario-file none.py => 'none.py' does not exist
report --out none => nothing to report in none: expected a store that rossbench run has written
report --metric f2 => expected top1, top5, robust, mcc, precision, recall or f1, got 'f2'
report digits --protocol abc => unknown protocol of digits 'abc'; known:
report --intervals --metric mcc => expected top1, top5, robust of one seed, got mcc of seed 0
report --intervals --format csv => --intervals: expected a table, markdown or latex, got csv
report --no-audit-column --format csv => --no-audit-column: expected a table, markdown or latex, without --threats
report --html x.html --metric f1 => --html: expected no --format, --metric, --intervals or --sort
report --html no/page.html => expected a file in a folder that exists, got no/page.html
store list --out folder => expected a store that rossbench run has written
compare => expected runs with published numbers, cifar10-to-cifar10,
compare digits@0 => expected two models, such as digits@0 digits@1, got digits@0
compare digits@0 digit@1 => did you mean digits?
compare digits@0 digits@0.5 => unknown model of digits '0.5'; known: conv3 ε=0, conv3 ε=1
card conv3 => conv3: expected one model, got several; name it, or give --protocol: digits@conv3 ε=0
export digits@0.5 x.safetensors => unknown model of digits '0.5'; known: conv3 ε=0, conv3 ε=1
leaderboard none --html board => nothing to report in none
leaderboard --html file.txt => 'file.txt' is a file
figure pie digits => unknown command 'pie'; known: confusion, corruptions, displacement, distances, examples, matrix,
figure digits => unknown command 'digits'; did you mean rossbench figure matrix digits?
digits => unknown command 'digits'; did you mean rossbench run digits?
ross2022 --epochs 3 => unknown command 'ross2022'; did you mean rossbench run ross2022?
help run => unknown command 'help'; did you mean rossbench --help?
repot => unknown command 'repot'; did you mean report
run digits --train-eps 0 1 => unexpected extra argument (1); usage: rossbench run [OPTIONS] [NAME]; values of one option
figure matrix => Missing argument 'NAME...'; usage: rossbench figure matrix [OPTIONS] NAME...
run digits --threads 0 => expected a whole number of at least 1 and at most 1024, got '0'
figure tsne digits --perplexity x => expected a finite number of at least 1, got 'x'
zoo acl => unknown encoder of the zoo 'acl'; did you mean acl-cifar10 or acl-cifar100 or acl-stl10?
figure tsne digitz => unknown scenario in
figure robustness digits --models 2 => models: expected the ε of a model that was run, 0 or 1, got 2
figure matrix digits --models 1:0:1 => models '1:0:1': expected such as 1, or 1:0
figure matrix digits --save f.gif => expected a file that ends in .png or .svg or .pdf, got f.gif
figure confusion digits --eval-eps 0.7 => expected an evaluated epsilon, 0, 0.5, got 0.7
features digits --save f.txt => expected a file that ends in .npz, got f.txt
features digits --limit 3 => test limit for digits: expected 10 (one image a class) to 596, got 3
figure tsne digits --limit 41 => limit: expected at most the 40 images of the evaluation, got 41
"""
"""Lines, and what is said of them."""
NEEDS_TORCH = """
run digits --device cpu --encoder resnet81 => unknown encoder 'resnet81'; did you mean
run digits --device cpu --encoder resnet18.nothing => encoder 'resnet18.nothing' cannot be built
run digits --device cpu --encoder conv3:cifar =>
run digits --device cuda:99 => device: expected one that is here, cpu
layers digits --device cuda:99 => got 'cuda:99'
figure tsne digits --perplexity 100 => expected a perplexity of 1 to 13 for 40 points, got 100
figure tsne digits --layer encodr => unknown layer 'encodr'; did you mean encoder
features digits --layer [red] => [red]
features digits --layer= =>
figure distances digits => expected models measured by minimal, got none; rossbench run --kind minimal does it
figure corruptions digits => rossbench run --kind corruptions does it
figure displacement digits --epsilon 0.5 => rossbench run --kind features does it
features digits --model 0,1 => model: expected one of one scenario, got digits → digits, ε = 0, digits
figure examples digits --epsilon 0 => expected images that epsilon 0 turns, got none
run digits --encoder-weights folder =>
run digits --encoder-weights local-dir:w/bad-config =>
run digits --encoder-weights local-dir:w/code =>
run digits --encoder resnet18 --encoder-weights w/good.pt --encoder-normalization 1e300,0,0/1,1,1 =>
"""
WEIGHTS = "code.pt code-in-archive.pt truncated.pt empty.pt nan.pt number.pt other.pt "
WEIGHTS += "empty.safetensors pickle.safetensors nan.safetensors header.safetensors"


def _split(text):
    return [line.split() for line in text.strip().replace("\n", ";").split(";")]


def _told(text):
    """Lines, and what is said of each."""
    return [
        (line.split(), message.strip()) for line, _, message in (row.partition("=>") for row in text.split("\n")[1:-1])
    ]


def _lines():
    """Every bad value with the first option of a kind, and one of them, each time another, with each of the rest."""
    for text, values in KINDS.items():
        for k, command in enumerate(text.split("; ")):
            for value in values if k == 0 else [values[k % len(values)]]:
                *words, last = command.split(" ")
                yield [*words, value] if not last else [*words, last + value if last[-1] == "@" else f"{last}={value}"]


TORCH_LINES = [
    *_told(NEEDS_TORCH),
    *((f"run digits --encoder resnet18 --encoder-weights w/{name}".split(), "") for name in WEIGHTS.split()),
]

# --- scenario files ---------------------------------------------------------------------------------------------

START = """from rossbench import Attack, Evaluation, Recipe, Scenario
from rossbench.data.datasets import DATASETS, DatasetInfo
from rossbench.registry import register, register_attack, register_folder
scenario = dict(name="mine", source="digits", target="digits")
"""
SOURCES = {
    "syntax": "def",
    "raises": "raise RuntimeError('two\\nlines [red]')",
    "exits": "import sys; sys.exit(0)",
    "base-exception": "class Mine(BaseException): pass\nraise Mine",
    "generator-exit": "raise GeneratorExit",
    "recursion": "def f(): f()\nf()",
    "no-module": "import no_such_module_at_all",
    "nul": "x = 1\x00",
    "registers-nothing-known": START + "register('digits')",
    "unknown-field": START + "register(Scenario(**scenario, epsilons=[1]))",
    "huge-field": START + "register(Scenario(**scenario, eval_epsilons=[10**400]))",
    "wrong-part": START + "Recipe(evaluation=Evaluation(attack=Attack(steps=True)))",
    "one-class": START + "DATASETS['a'] = DatasetInfo(('a',), 16, 9, 9)\nScenario('a', 'digits', 'a')",
    "few-classes": START + "DATASETS['a'] = DatasetInfo(tuple('ab'), 16, 9, 9)\n"
    "Scenario('a', 'digits', 'a', Recipe(evaluation=Evaluation(Attack('apgd-t'))))",
    "attack": START + "register_attack('../x', print)",
    "folder": START + "register_folder('x', 'none\\n', size=32)",
}
NO_FIELD = [float("nan"), float("inf"), -1, 10**400, b"x", {"a": 1}, [b"x"], object()]
"""What no field takes."""
DECLARED = [scenarios.Suite("x", ("digits",)), scenarios.Scenario("x", "digits", "digits")]
DECLARED += [recipes.Recipe(), recipes.Pretraining(), recipes.Finetuning(), recipes.Evaluation()]
DECLARED += [recipes.Augmentation(), recipes.Attack()]


@pytest.mark.parametrize("value", DECLARED, ids=lambda value: type(value).__name__)
def test_a_bad_field_is_refused_in_one_line(value):
    for field in dataclasses.fields(value):
        for bad in NO_FIELD:
            assert refusal(lambda changes: dataclasses.replace(value, **changes), {field.name: bad}), field.name


# --- stores -----------------------------------------------------------------------------------------------------


NOTES = {"key": "../../x", "epsilon": -1, "name": "../../x", "source": "../x", "protocol": "../x", "more": 1}
"""Fields of a note, or of its first cell, and what none is; see test_tables for what is said."""
TEXTS = {"null": b"null", "nan": b"NaN", "list": b"[{}]"}
"""What is no JSON is damaged, and set aside: see test_survival."""
RECORDS = {"schema-99": {"schema": 99}, "field": {"more": 1}}
STORES = [
    *(f"note-{name}" for name in NOTES),
    *(f"text-{name}" for name in TEXTS),
    *(f"record-{name}" for name in [*RECORDS, *TEXTS]),
    *("matrices-file", "note-folder", "note-link", "format-old", "format-none"),
]
ELSEWHERE = (
    "report --html x.html; audit; compare digits@0 digits@1; layers digits; figure matrix digits; features digits"
)
ON_STORES = [
    *(["report", f"--out=b/{store}"] for store in STORES),
    *([*line, f"--out=b/{store}"] for line, store in zip(_split(ELSEWHERE), STORES[::-3], strict=False)),
]
LINES = [
    *_lines(),
    *_split(COMBINED),
    *(line for line, _ in _told(MESSAGES)),
    *(["list", f"--scenario-file=s/{name}.py"] for name in [*SOURCES, "binary"]),
    *ON_STORES,
]


# --- the world --------------------------------------------------------------------------------------------------


class Code:
    """Unpickled, it would leave a file."""

    def __reduce__(self):
        return Path.write_text, (Path("w/RUN"), "code was run")


def _write_weights(folder):
    folder.mkdir()
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    nan = {**state, "bn1.weight": torch.full((64,), torch.nan)}
    for name, content in {"good": state, "nan": nan, "other": {"x": torch.zeros(2)}, "number": 3}.items():
        torch.save(content, folder / f"{name}.pt")
    save_file(nan, folder / "nan.safetensors")
    torch.save({"a": Code()}, folder / "code-in-archive.pt")
    code = pickle.dumps({"a": Code()})
    files = {"code.pt": code, "pickle.safetensors": code, "truncated.pt": (folder / "good.pt").read_bytes()[:5000]}
    files |= {"empty.pt": b"", "empty.safetensors": b"", "header.safetensors": b"\xff" * 8 + b"{}"}
    for name, config in (("bad-config", b"{"), ("code", b'{"architecture": "resnet18"}')):
        (folder / name).mkdir()
        files |= {f"{name}/pytorch_model.bin": code, f"{name}/config.json": config}
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _write_stores(folder, good):
    note, record = next((good / "matrices").iterdir()), next((good / "evaluate").iterdir()) / "record.json"
    for name in STORES:
        root = folder / name
        (root / "matrices").mkdir(parents=True)
        (root / "FORMAT").write_bytes((good / "FORMAT").read_bytes())
        kind, _, what = name.partition("-")
        content = json.loads((note if kind != "record" else record).read_text())
        changed = {what: NOTES[what]} if kind == "note" and what in NOTES else RECORDS.get(what, {})
        if what in ("key", "epsilon"):
            first, *rest = content["cells"]
            changed = {"cells": [[*first[:3], NOTES["key"]] if what == "key" else [-1, *first[1:]], *rest]}
        bad = TEXTS[what] if what in TEXTS else json.dumps({**content, **changed}).encode()
        if kind == "record":
            shutil.copytree(good / "evaluate", root / "evaluate", ignore=shutil.ignore_patterns(SUMS))
            (root / record.relative_to(good)).write_bytes(bad)
            bad = note.read_bytes()
        digest = hashlib.sha256(bad).hexdigest()[:8]  # a note's name tells its content
        (root / "matrices" / f"{note.stem.rpartition('-')[0]}-{digest}.json").write_bytes(bad)
    for name in ("note-folder", "note-link", "matrices-file"):
        shutil.rmtree(folder / name / "matrices")
    (folder / "matrices-file" / "matrices").write_text("")
    (folder / "note-folder" / "matrices" / note.name).mkdir(parents=True)
    (folder / "note-link" / "matrices").mkdir()
    (folder / "note-link" / "matrices" / note.name).symlink_to("/none")
    (folder / "format-old" / "FORMAT").write_text("4\n")
    (folder / "format-none" / "FORMAT").unlink()


@pytest.fixture(scope="module")
def world(tmp_path_factory, finished):
    """A folder with a good store and all that is bad."""
    root = tmp_path_factory.mktemp("world")
    shutil.copytree(finished, root / "rossbench-store")
    (root / "folder").mkdir()
    (root / "file.txt").write_text("text")
    (root / "s").mkdir()
    for name, source in SOURCES.items():
        (root / "s" / f"{name}.py").write_text(source)
    (root / "s" / "binary.py").write_bytes(bytes(range(256)) * 8)
    _write_weights(root / "w")
    _write_stores(root / "b", root / "rossbench-store")
    return root


def _content(root):
    return {path: path.is_file() and path.read_bytes() for path in root.rglob("*")}


def _check(code, out, err):
    assert (code, err[:11]) == (2, "rossbench: "), err
    assert err.endswith("\n")
    assert err[:-1].isprintable()  # so it is one line
    assert len(err) < 2100
    assert not err.startswith("rossbench: unexpected ")
    assert "Traceback" not in out + err


NO_TORCH = """
import contextlib, io, json, os, sys
for name in ("torch", "torchvision", "timm", "lightly", "torchattacks", "torchmetrics"):
    sys.modules[name] = None  # to import it is an ImportError
from rossbench import cli, registry
from rossbench.attacks.table import ATTACKS
from rossbench.data.datasets import DATASETS
known = [(one, dict(one)) for one in (registry._scenarios, registry._suites, ATTACKS, DATASETS)]
paths = lambda: {os.path.join(place, name) for place, *kinds in os.walk(".") for names in kinds for name in names}
before, said = paths(), []
for line in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(line)
        except SystemExit as stop:
            code = stop.code
    said.append([code, out.getvalue(), err.getvalue(), sorted(paths() ^ before)])
    for one, content in known:
        one.clear()
        one.update(content)
json.dump(said, sys.stdout)
"""


@pytest.fixture(scope="module")
def said(world):
    """What each of LINES gave, in a process that cannot import torch, and the paths that it added or took away."""
    here = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    command = [sys.executable, "-B", "-c", NO_TORCH]
    done = subprocess.run(command, input=json.dumps(LINES), capture_output=True, text=True, cwd=world, env=here)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def _name(line):
    return " ".join(ascii(part)[1:-1] if len(part) < 60 else f"{part[:20]}-{len(part)}" for part in line)


@pytest.mark.parametrize("number", range(len(LINES)), ids=[*map(_name, LINES)])
def test_bad_input_is_one_line_before_torch_is_there_and_leaves_nothing(said, number):
    *given, changed = said[number]
    _check(*given)
    assert changed == []


@pytest.mark.parametrize(("line", "message"), _told(MESSAGES), ids=[_name(line) for line, _ in _told(MESSAGES)])
def test_what_is_said_names_what_was_expected(said, line, message):
    err = said[LINES.index(line)][2]
    assert message in err
    assert len(err) < 400


@pytest.mark.parametrize(("line", "message"), TORCH_LINES, ids=[_name(line) for line, _ in TORCH_LINES])
def test_what_only_torch_can_judge_is_one_line_and_leaves_nothing(world, rossbench, monkeypatch, line, message):
    monkeypatch.chdir(world)
    before = _content(world)
    code, out, err = rossbench(*line)
    _check(code, out, err)
    assert message in err
    assert _content(world) == before  # nor was code from a pickle run


def test_every_command_and_every_option_with_a_value_has_a_case():
    commands, options, group = [], set(), [([], cli.cli)]
    for path, command in group:
        if isinstance(command, click.Group):
            group += [([*path, name], one) for name, one in command.commands.items()]
        else:
            commands.append(path)
            options |= {one.opts[0] for one in command.params if isinstance(one, click.Option) and not one.is_flag}
    lines = [*LINES, *(line for line, _ in TORCH_LINES)]
    assert [path for path in commands if not any(line[: len(path)] == path for line in lines)] == []
    assert options - {part.split("=")[0] for line in lines for part in line} == set()


# --- data from outside -------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refused(*arguments, **options):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refused)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()


@pytest.mark.parametrize("name", ["cifar10-to-cifar10", "cifar100-to-cifar100"])
def test_a_data_set_that_is_a_pickle_of_code_is_not_unpickled(rossbench, tmp_path, no_network, name):
    """Each file is held against a known digest before any is opened; none here has it."""
    for kind in (tv.CIFAR10, tv.CIFAR100):
        (tmp_path / kind.base_folder).mkdir()
        for file in (*(one for one, _ in kind.train_list + kind.test_list), kind.meta["filename"]):
            (tmp_path / kind.base_folder / file).write_bytes(pickle.dumps(Code()))
    code, out, err = rossbench("run", name, "--data-dir", tmp_path, "--device", "cpu")
    _check(code, out, err)
    assert "expected MD5" in err
    assert not (tmp_path / "w" / "RUN").exists()
    assert not (tmp_path / "rossbench-store").exists()


MNIST = [f"raw/{file.removesuffix('.gz')}" for file, _ in tv.MNIST.resources]
PICKLE = pickle.dumps(Code())


@pytest.mark.parametrize(
    ("files", "content"),
    [
        *((MNIST, content) for content in (b"", b"\x00" * 3, PICKLE, b"\x00\x00\x08\x03" + b"\x00" * 20)),
        (["processed/training.pt", "processed/test.pt"], PICKLE),
    ],
)
def test_damaged_files_of_mnist_are_one_line_and_no_code_runs(tmp_path, no_network, files, content):
    """torchvision has no digests of these but of their archives."""
    for file in files:
        (tmp_path / "MNIST" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "MNIST" / file).write_bytes(content)
    with pytest.raises(DataError, match=r"mnist.*: expected "):
        datasets.load("mnist", "test", data_dir=tmp_path)
    assert not (tmp_path / "w" / "RUN").exists()


def test_a_file_that_cannot_be_written_leaves_the_old_one(rossbench, world, tmp_path, monkeypatch):
    """Nor half of the new one."""

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    (tmp_path / "f.png").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    code, out, err = rossbench("figure", "matrix", "digits", "--store", world / "rossbench-store", "--save", "f.png")
    assert (code, out) == (2, "")
    assert "f.png: expected a place to write to, got No space left on device" in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f.png", "old")]


def test_a_run_that_does_not_begin_leaves_no_folder_for_tensorboard(rossbench, tmp_path):
    _check(*rossbench("run", "digits", "--encoder", "resnet81", "--tensorboard", "a/b", "--device", "cpu"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_through_a_link_and_to_a_device(rossbench, world, tmp_path):
    (tmp_path / "link.png").symlink_to("real.png")
    for target in ("link.png", "/dev/null"):
        command = ["report", "--html"] if target == "/dev/null" else ["figure", "matrix", "digits", "--save"]
        assert rossbench(*command, target, "--store", world / "rossbench-store", "--device", "cpu")[0] == 0
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")
