import dataclasses
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import tamper, tiny

from rossbench import registry
from rossbench.cli.run import run
from rossbench.config.scenarios import Suite
from rossbench.runner import run as runner
from rossbench.runner.overrides import changed_scenarios
from rossbench.stages import audit
from rossbench.store import metrics, results
from rossbench.store.records import read_record
from rossbench.store.store import Store, encode
from rossbench.util.values import flatten

TINY = [
    *("--train-eps", "0,1", "--eval-eps", "0,0.5", "--epochs", 2, "--finetune-epochs", 2),
    *("--train-limit", 60, "--test-limit", 40),
]


@pytest.fixture
def pair(own_registry):
    """A registered suite of seconds: its scenarios share an encoder, and one of them is in a suite inside it."""
    base = tiny("digits-low-to-high", train_epsilons=(1,), eval_epsilons=(0,))
    for name, target in (("zebra", "digits-high"), ("ant", "digits-low")):
        registry.register(dataclasses.replace(base, name=name, target=target, description=f"Like a {name}."))
    registry.register(Suite("inside", ("zebra",), "One of the two."))
    return registry.register(Suite("pair", ("inside", "ant", "zebra")))


def test_list_names_every_scenario_and_suite_within_80_columns(rossbench, pair):
    code, out, _ = rossbench("list")
    assert code == 0
    lines = [[part.strip() for part in re.split("[│┃]", line)] for line in out.splitlines()]
    assert {line[0] for line in lines} >= {*registry.names(), *(suite.name for suite in registry.suites()), "suite"}
    assert ["pair", "inside, ant, zebra"] in lines
    assert ["inside", "One of the two."] in lines
    assert ["zebra", "conv3", "16", "digits", "1 x 1"] in lines
    assert max(map(len, out.splitlines())) <= 80
    listed = json.loads(rossbench("list", "--json")[1])
    assert [one["name"] for one in listed["scenarios"]] == registry.names()
    assert {"name": "pair", "members": ["inside", "ant", "zebra"], "description": ""} in listed["suites"]


def test_show_gives_matrix_recipe_and_cost(rossbench):
    code, out, _ = rossbench("show", "cifar10-to-cifar100", "--epochs", "10")
    assert code == 0
    assert out.count("0, 0.2, 0.4, 0.6, 0.8, 1") == 2
    assert re.search(r"pretraining\.epochs +│ 10 +\(registered: 500\)", out)
    assert re.search(r"pretrain +│ +6 │ +47\.92", out)  # 10 * 99,840 views * (3 + 5 * 9) passes
    assert max(map(len, out.splitlines())) <= 80


def test_run_and_report(rossbench, tmp_path, monkeypatch):
    """With ~ in the store's name, which a shell leaves as it is after an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, err = rossbench("run", "digits", *TINY, "--out=~/store")
    assert (code, err) == (0, "")
    assert "done in" in out
    assert "REDUCED OR CHANGED PROTOCOL" in out
    assert "RoSS digits → digits" in out
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    code, again, err = rossbench("run", "digits", *TINY, "--out", "store", "--quiet")
    assert (code, err) == (0, "")
    assert "RoSS digits → digits" in again
    assert not re.search("done in|Stored in", again)
    code, shown, _ = rossbench("report", "digits", "--metric", "mcc", "--out=~/store")
    assert code == 0
    assert "MCC, RoSS digits → digits" in shown


def test_a_run_as_json_has_its_records_on_stdout_and_its_progress_on_stderr(rossbench, tmp_path, monkeypatch):
    """In the store that the environment names, on one thread, without an audit."""
    monkeypatch.setenv("ROSSBENCH_STORE", "~/of-environment")
    monkeypatch.setenv("HOME", str(tmp_path))
    before = torch.get_num_threads()
    code, out, err = rossbench("run", "digits", *TINY, "--train-eps", 0, "--json", "--no-audit", "--threads", 1)
    torch.set_num_threads(before)
    assert code == 0
    assert "done in" in err
    assert "audit" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["of-environment"]
    record = read_record(next(Store("~/of-environment").root.glob("evaluate/*/record.json")))
    assert record.provenance["evaluate"]["threads"] == 1
    assert out == rossbench("report", "digits", "--format", "json")[1]
    assert [cell["eval_epsilon"] for cell in json.loads(out)[0]["cells"]] == [0, 0.5]
    assert rossbench("run", "digits", *TINY, "--train-eps", 0, "--json", "--quiet", "--no-audit") == (0, out, "")


def test_report_gives_every_format_and_nothing_else_and_every_metric(rossbench, finished):
    for form, start in {"csv": "scenario,", "json": "[", "latex": r"\begin", "markdown": "###"}.items():
        code, out, _ = rossbench("report", "--out", finished, "--format", form)
        assert (code, out[: len(start)]) == (0, start)
    for metric, known in metrics.METRICS.items():
        code, out, _ = rossbench("report", "--out", finished, "--no-audit-column", "--metric", metric)
        assert "audit" not in out
        assert code == 0
        assert f"{known.label}, RoSS digits → digits" in out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ZeroDivisionError("by\nzero"), 1, "unexpected ZeroDivisionError: by zero (--debug shows where)"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the last finished epoch"),
    ],
)
def test_what_ends_a_run_is_one_line(rossbench, monkeypatch, error, code, said):
    def broken(*arguments, **keywords):
        raise error

    monkeypatch.setattr(runner, "run_suite", broken)
    found, _, err = rossbench("run", "digits")
    assert (found, err.lstrip()) == (code, f"rossbench: {said}\n")


@pytest.mark.parametrize("arguments", [["show", "digitz", "--debug"], ["--debug", "show", "digitz"]])
def test_debug_shows_the_traceback(rossbench, arguments):
    code, _, err = rossbench(*arguments)
    assert code == 2
    assert "Traceback" in err
    assert "unknown scenario or suite 'digitz'" in err.splitlines()[-1]


def test_no_arguments_show_help(rossbench):
    code, out, _ = rossbench()
    assert code == 0
    assert "Commands:" in out


def scenarios_of(*line):
    """The scenarios that a command line names."""
    given = run.make_context("run", [str(word) for word in line]).params
    return changed_scenarios(given["name"], given)


def test_options_become_the_scenario_they_name():
    options = ["--seed", 3, "--encoder", "resnet18", "--finetune-eps", "0,1", "--precision", "bfloat16"]
    (made,) = scenarios_of(
        "digits", *TINY, *options, "--attacked", "correct", "--attack", "fgsm", "--finetuning", "AFF"
    )
    expected = tiny(seed=3, encoder="resnet18", finetune_epsilons=(0, 1))
    assert made.recipe.pretraining.epochs == made.recipe.finetuning.epochs == 2
    assert (made.recipe.pretraining.precision, made.recipe.evaluation.attacked) == ("bfloat16", "correct")
    assert (made.recipe.evaluation.attack.name, made.recipe.finetuning.trained) == ("fgsm", "full")
    grids = ("train_epsilons", "finetune_epsilons", "eval_epsilons")
    for field in (*grids, "train_limit", "test_limit", "seed", "encoder"):
        assert getattr(made, field) == getattr(expected, field)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        (["pretraining.epochs=3", "finetuning.epochs=4"], ["--epochs", 3, "--finetune-epochs", 4]),
        (["pretraining.precision=bfloat16"], ["--precision", "bfloat16"]),
        (["evaluation.attacked=correct", "seed=4"], ["--attacked", "correct", "--seed", 4]),
        (["eval_epsilons=0,8/255"], ["--eval-eps", "0,8/255"]),
        (["train_epsilons=[0, 1]", "finetune_epsilons=null"], ["--train-eps", "0,1", "--finetune-eps", "same"]),
        (
            ["evaluation.attack.steps=100", "evaluation.attack.step_size=2/255"],
            ["--attack", "steps=100,step_size=2/255"],
        ),
        (
            ["evaluation.attack.name=autoattack-standard", "evaluation.attack.steps=100"],
            ["--attack", "autoattack-standard"],
        ),
        (["encoder=resnet18:cifar", "train_limit=60"], ["--encoder", "resnet18:cifar", "--train-limit", 60]),
    ],
)
def test_set_gives_what_the_shorthand_gives(settings, same):
    made, expected = (
        scenarios_of("digits", *line) for line in ([word for one in settings for word in ("--set", one)], same)
    )
    assert [one.protocol for one in made] == [one.protocol for one in expected]
    assert [one.rows for one in made] == [one.rows for one in expected]
    assert [one.eval_epsilons for one in made] == [one.eval_epsilons for one in expected]


def test_set_reaches_every_field_that_show_lists_and_is_applied_last(rossbench):
    listed = json.loads(rossbench("show", "digits", "--json")[1])["scenarios"][0]
    assert listed["deviations"] == {}
    fields = {path.removeprefix("recipe."): item for path, item in flatten({"recipe": listed["recipe"]}).items()}
    del fields["name"], fields["evaluation.attack_version"]  # which only the code sets
    same = [word for field, item in fields.items() for word in ("--set", f"{field}={json.dumps(item)}")]
    (made,) = scenarios_of("digits", *same)
    assert made == registry.get("digits")
    (made,) = scenarios_of("digits", "--set", "pretraining.augmentation.crop_scale=0.5,1", "--epochs", 3, *same[:2])
    assert made.recipe.pretraining.augmentation.crop_scale == (0.5, 1)
    assert made.recipe.pretraining.epochs == registry.get("digits").recipe.pretraining.epochs
    code, out, _ = rossbench("show", "digits", "--set", "pretraining.learning_rate=1e-3")
    assert code == 0
    assert re.search(r"pretraining\.learning_rate +│ 0\.001 +\(registered: 0\.002\)", out)


def test_a_suite_is_its_scenarios_and_options_change_every_one():
    registered = registry.members("digits-study")
    assert tuple(scenarios_of("digits-study")) == registered
    changed = scenarios_of("digits-study", "--epochs", 3, "--seed", 7, "--set", "eval_epsilons=0.5")
    assert [one.name for one in changed] == [one.name for one in registered]
    assert {(one.recipe.pretraining.epochs, one.seed, one.eval_epsilons) for one in changed} == {(3, 7, (0.5,))}
    assert [one.rows for one in changed] == [one.rows for one in registered]


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("digits", "0, 0.5, 1"),
        ("digits --finetune-eps same", "0, 0.5, 1"),
        ("digits --finetune-eps 0", "0, 0.5:0, 1:0"),
        ("digits --finetune-eps 0,1", "0, 0:1, 0.5:0, 0.5:1, 1:0, 1"),
        ("digits --train-eps 1 --finetune-eps 0:1:0.5", "1:0, 1:0.5, 1"),
        ("digits-low-to-low-finetuning", "1:0, 1"),
        ("digits-low-to-low-finetuning --finetune-eps same", "1"),
        ("digits-low-to-low-finetuning --train-eps 0,1", "0, 0:1, 1:0, 1"),
        ("digits --finetuning SLF", "0, 0.5:0, 1:0"),
        ("digits --finetuning ALF", "0, 0.5, 1"),
        ("digits --finetuning AFF", "0, 0.5, 1"),
        ("digits --finetuning field-slf", "0, 0.5:0, 1:0"),
        ("digits --finetuning field-alf", "0:8/255, 0.5:8/255, 1:8/255"),
        ("digits --finetuning field-aff --finetune-eps same", "0, 0.5, 1"),
    ],
)
def test_finetuning_epsilons_make_rows(rossbench, line, rows):
    code, out, err = rossbench("show", *line.split())
    assert (code, err) == (0, "")
    (found,) = [one for one in out.splitlines() if one.startswith("rows ")]
    assert re.fullmatch(rf"rows +model ε +{re.escape(rows)} *", found)
    assert re.search(rf"finetuning.trained +│ {'full' if 'aff' in line.lower() else 'linear'}", out)


def test_a_preset_of_the_field_brings_its_test_and_what_is_given_goes_before_it():
    (plain,) = scenarios_of("digits", "--finetuning", "field-aff")
    given = ["--set", "finetuning.momentum=0.5", "--finetune-epochs", 3, "--eval-eps", 0.1, "--finetune-eps", 0.2]
    (made,) = scenarios_of("digits", "--finetuning", "field-aff", *given, "--attack", "autoattack-standard")
    tuning = dataclasses.replace(plain.recipe.finetuning, momentum=0.5, epochs=3)
    assert made.recipe.finetuning == tuning
    assert (made.finetune_epsilons, made.eval_epsilons) == ((0.2,), (0.1,))
    attack = made.recipe.evaluation.attack
    assert (attack.name, attack.norm, attack.steps) == ("autoattack-standard", "Linf", 100)
    (longer,) = scenarios_of("digits", "--finetuning", "field-aff", "--attack", "steps=50")
    assert longer.recipe.evaluation.attack == dataclasses.replace(plain.recipe.evaluation.attack, steps=50)


def test_the_fields_finetunings_run_to_a_table(rossbench):
    tiny_ = [*TINY, "--train-eps", "0", "--eval-eps", "0,8/255"]
    for name, row in (("slf", ["0"]), ("alf", ["0", "8/255"]), ("aff", ["0", "8/255"])):
        code, out, err = rossbench("run", "digits", *tiny_, "--finetuning", f"field-{name}")
        assert (code, err) == (0, "")
        rows = [[part.strip() for part in line.split("│")] for line in out.splitlines() if "│" in line]
        (found,) = [cells for cells in rows if cells[: len(row)] == row]
        assert all(0 <= float(cell.rstrip("!")) <= 100 for cell in found[-2:])
        assert "PGD-Linf, 20 steps of 0.25 ε" in " ".join(out.split())
    assert rossbench("report")[1].count("RoSS digits → digits") == 2  # SLF and ALF are of one protocol


def widest(out):
    """Of all lines but signs of life, "[2/7] ...", which a stage gives that takes ten seconds: on a busy machine."""
    return max(len(line) for line in out.splitlines() if not line.startswith("["))


def test_a_scenario_with_two_heads_is_run_and_reported(rossbench):
    options = [*TINY, "--train-eps", "1", "--finetune-eps", "0,1"]
    code, out, err = rossbench("run", "digits", *options)
    assert (code, err) == (0, "")
    assert "finetune digits → digits ε=1:0  done in" in out
    assert "evaluate digits → digits ε=1:0 at 0.5  done in" in out
    assert "rows 1:0, 1 (registered: 0, 0.5, 1)" in " ".join(out.split())
    for shown in (out, rossbench("report", "digits")[1]):
        lines = [[part.strip() for part in re.split("[│┃]", line)] for line in shown.splitlines() if "│" in line]
        lines = [line for line in lines if line[0] in ("1", "pretrained ε")]
        assert [line[:2] for line in lines[-3:]] == [["1", "0"], ["1", "1"], ["1", "improvement"]]
        # Whatever the verdicts on models so small are: an image more or less turns them, and a failed one adds a mark.
        assert [bool(re.fullmatch(r"pass|(warn|fail) \d+", line[2])) for line in lines[-3:]] == [True, True, False]
        standard, robust, gains = ([float(part.rstrip("!")) for part in line[3:]] for line in lines[-3:])
        assert gains == [pytest.approx(b - a, abs=0.011) for a, b in zip(standard, robust, strict=True)]
        assert widest(shown) <= 80


def test_show_gives_a_suites_scenarios_and_what_they_cost_together(rossbench, pair):
    code, out, err = rossbench("show", "pair")
    assert (code, err) == (0, "")
    assert out.startswith("pair  2 scenarios")
    assert out.index("zebra  RoSS digits-low → digits-high") < out.index("ant  RoSS digits-low → digits-low")
    assert "Like a zebra." in out
    assert out.count("Cost, in passes") == 1
    for stage, count in (("pretrain", 1), ("finetune", 2), ("evaluate", 2), ("all", 5)):
        assert re.search(rf"{stage} +│ +{count} │", out)
    assert out.count("Recipe digits") == 1  # theirs is the same
    assert max(map(len, out.splitlines())) <= 80
    registry.register(Suite("mixed", ("zebra", "cifar10-to-cifar10")))
    code, out, _ = rossbench("show", "mixed")
    assert code == 0
    assert out.index("Recipe digits") < out.index("Recipe ross2022")


def test_run_and_report_of_a_suite(rossbench, pair):
    """What its scenarios share is built once; tables come in the suite's order."""
    code, out, err = rossbench("run", "pair", "--seed", 4)
    assert (code, err) == (0, "")
    assert out.count("pretrain digits-low ε=1 seed 4  done in") == 1
    assert out.count("done in") == 5 + 2  # audits
    zebra, ant = "RoSS digits-low → digits-high", "RoSS digits-low → digits-low"
    assert out.index(f"(%), {zebra}") < out.index(f"(%), {ant}")
    assert "see it again: rossbench report pair" in out
    code, again, _ = rossbench("run", "pair", "--seed", 4)
    assert code == 0
    assert "done in" not in again
    for names, order in ((["pair"], [zebra, ant]), (["ant", "pair"], [ant, zebra]), (["inside"], [zebra])):
        code, shown, err = rossbench("report", *names, "--metric", "f1")
        assert (code, err) == (0, "")
        assert re.findall(r"Macro F1 \(%\), (.*?) *\n", shown) == order
        assert shown.count("seed 4 (registered: 0)") == len(order)
    code, out, _ = rossbench("report", "pair", "--format", "csv")
    assert [line.split(",")[0] for line in out.splitlines()] == ["scenario", "zebra", "ant"]


def test_a_protocol_chooses_what_is_reported(rossbench, pair):
    for options in ([], ["--epochs", 1]):
        assert rossbench("run", "ant", *options)[0] == 0
    found = {matrix.protocol: matrix for matrix in results.load(Store("rossbench-store"))}
    assert sorted(bool(matrix.deviations) for matrix in found.values()) == [False, True]
    assert rossbench("report", "ant")[1].count("Top-1") == 2
    for protocol, matrix in found.items():
        code, out, _ = rossbench("report", "ant", "--protocol", protocol)
        assert code == 0
        assert out.count("Top-1") == 1
        assert ("REDUCED OR CHANGED PROTOCOL: pretraining.epochs 1" in out) == bool(matrix.deviations)
        code, out, _ = rossbench("report", "--protocol", protocol, "--format", "csv")
        assert [line.split(",")[:2] for line in out.splitlines()[1:]] == [["ant", protocol]]


def test_run_logs_to_tensorboard(rossbench, tmp_path):
    code, out, err = rossbench("run", "digits", *TINY, "--train-eps", "1", "--tensorboard", "logs")
    assert (code, err) == (0, "")
    assert "done in" in out
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    keys = [
        path.name for stage in ("finetune", "pretrain") for path in (tmp_path / "rossbench-store" / stage).iterdir()
    ]
    assert [name.rsplit("-", 1)[1] for name in names] == keys
    assert all(list((tmp_path / "logs" / name).glob("events.out.tfevents.*")) for name in names)


@pytest.mark.parametrize(
    ("set_by_user", "policy"),
    [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None), ({"GOMP_SPINCOUNT": "9"}, "9")],
)
def test_threads_without_work_sleep_unless_the_user_says_otherwise(rossbench, monkeypatch, set_by_user, policy):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in set_by_user.items():
        monkeypatch.setenv(name, value)
    assert rossbench("show", "digits", "--json")[0] == 0
    assert os.environ.get("GOMP_SPINCOUNT") == policy


def test_names_are_completed():
    """As bash asks."""
    asked = {"_ROSSBENCH_COMPLETE": "bash_complete", "COMP_WORDS": "rossbench run digits-s", "COMP_CWORD": "2"}
    line = [sys.executable, "-c", "from rossbench.cli import main; main()"]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, **asked})
    assert {"plain,digits-study", "plain,digits-study-transfer"} <= set(done.stdout.split())


NO_TORCH = """
import sys
from rossbench.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {"torch", "torchvision", "timm", "lightly", "torchattacks", "numpy", "sklearn", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""


REPORTS = ["report", "report --format json", "report --format csv"]


@pytest.mark.parametrize("line", ["list", "show digits", "show ross2022", "--version", *REPORTS])
def test_list_show_and_report_import_no_torch_and_no_pandas(finished, line):
    arguments = line.split()
    if arguments[0] == "report":
        arguments = [*arguments, "--out", str(finished)]
    command = [sys.executable, "-c", NO_TORCH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr


def test_the_last_line_of_a_run_is_a_command_that_works(rossbench, tmp_path):
    """Also for a suite of one's own and another store."""
    (tmp_path / "my.py").write_text(
        "from rossbench.registry import Suite, register\nregister(Suite('mine', ('digits',)))\n"
    )
    given = ["--scenario-file", "my.py", "--out", "a b"]
    code, out, _ = rossbench("run", "mine", *TINY, *given)
    assert code == 0
    again = out.splitlines()[-1].split("see it again: rossbench ")[1]
    assert again == "report mine --out 'a b' --scenario-file my.py"
    registry._suites.pop("mine")
    code, out, _ = rossbench(*shlex.split(again))
    assert code == 0
    assert "RoSS digits → digits" in out


@pytest.fixture(scope="module")
def whole_study(finished, tmp_path_factory):
    """A store in which every cell of the study has a record."""
    store, like = Store(tmp_path_factory.mktemp("study")), Store(finished)
    record = read_record(like.record_path(tiny().cells[1, 1, 0.5].key))
    for scenario in registry.members("ross2022"):
        store.write_note(scenario.name, scenario.protocol, encode(runner.note_of(scenario)))
        for cell in scenario.cells.values():
            one = dataclasses.replace(record, key=cell.key, spec=cell, scenario=scenario.name)
            store.write(cell, {"record.json": encode(one)})
    return store.root


def cpu_seconds(times, *line):
    """Of a whole process, the best of several: its own time, which others at work on the machine change little."""
    taken = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *line], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


@pytest.fixture(scope="module")
def torchs():
    """What importing torch takes."""
    return cpu_seconds(3, "-c", "import torch")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "share"), [("list", 0.3), ("show ross2022", 0.3), ("report --store {}", 0.5), ("report --help", 0.3)]
)
def test_it_starts_at_once(whole_study, torchs, command, share):
    """In a share of importing torch, so that it holds on any machine: 0.12 to 0.19 were measured, to import torch is 1.

    The store holds all 192 records of the study.
    """
    start = "import sys; from rossbench.cli import main; main(sys.argv[1:])"
    assert cpu_seconds(5, "-c", start, *command.format(whole_study).split()) < share * torchs


def test_attacking_only_what_is_right_gives_robust_accuracy_and_says_so(rossbench, tmp_path):
    """The same robust accuracy as when all are attacked; and no table of what was not counted."""
    shown = {}
    for attacked in ("all", "correct"):
        code, out, _ = rossbench("run", "digits", *TINY, "--attacked", attacked, "--out", attacked)
        assert code == 0
        shown[attacked] = out
    assert "Top-1 accuracy (%)" in shown["all"]
    assert "Robust accuracy (%)" in shown["correct"]
    assert "of images right without it" in " ".join(shown["correct"].split())
    assert "evaluation.attacked correct (registered: all)" in " ".join(shown["correct"].split())
    rows = [rossbench("report", "--out", one, "--metric", "robust", "--format", "csv")[1] for one in shown]
    values = [[line.split(",")[-4:] for line in text.splitlines()] for text in rows]
    assert values[0] == values[1]
    code, out, _ = rossbench("report", "--out", "correct")
    assert "Robust accuracy (%)" in out
    assert rossbench("report", "--out", "correct", "--format", "csv")[1] == rows[1]
    (matrix,) = json.loads(rossbench("report", "--out", "correct", "--format", "json")[1])
    assert matrix["metric"] == "robust"
    assert all(cell["value"] is not None for cell in matrix["cells"])


@pytest.fixture
def audited(rossbench, finished, tmp_path):
    """A copy of the finished store that may be audited."""
    shutil.copytree(finished, tmp_path / "rossbench-store")
    return tmp_path / "rossbench-store"


def test_audit_says_each_verdict_and_report_shows_the_worst(rossbench, audited):
    code, out, err = rossbench("audit", "digits")
    assert err == ""
    assert out.count("done in") == 2
    checks = [check for check in audit.CHECKS if "distances" not in check.needs]
    for check in checks:
        assert len(re.findall(check.name.replace(" ", r"[\s│]+"), out)) == 2, check.name
    assert widest(out) <= 80
    code_again, again, _ = rossbench("audit")
    assert (code_again, "done in" in again) == (code, False)
    assert " model ε ┃ audit " in rossbench("report")[1]
    assert "audit" in rossbench("report", "--format", "csv")[1].splitlines()[0]
    audits = json.loads(rossbench("report", "--format", "json")[1])[0]["audits"]
    count = 1 + len(checks)  # and whether the encoder has learned something
    assert [(one["train_epsilon"], len(one["verdicts"])) for one in audits] == [(0, count), (1, count)]
    assert code == (3 if "fail" in {one["verdict"] for one in audits} else 0)


def test_a_failed_audit_marks_the_numbers_and_is_an_exit_code(rossbench, audited):
    rossbench("audit")
    path = next((audited / "audit").glob("*/audit.json"))
    content = json.loads(path.read_text())
    content["verdicts"][0]["verdict"] = "fail"
    tamper(path, json.dumps(content))
    epsilon = content["spec"]["finetune"]["epsilon"]
    assert rossbench("audit")[0] == 3
    for form in ("table", "markdown", "latex"):
        out = rossbench("report", "--format", form)[1]
        (row,) = [line for line in out.splitlines() if re.match(rf"[ |]*{epsilon:g} ", line)]
        assert re.search(r"fail \d", row)
        assert len(re.findall(r"\d!", row)) == 2
        assert "AUDIT FAILED where numbers have !" in " ".join(out.split())


def test_an_audit_is_of_the_evaluations_that_there_are(rossbench, audited):
    rossbench("audit")
    shutil.rmtree(audited / "evaluate" / tiny().cells[1.0, 1.0, 0.5].key)
    (row,) = [line for line in rossbench("report")[1].splitlines() if line.startswith(" 1 ")]
    assert row.split("│")[1].strip() == "—"


def test_a_run_under_another_attack_is_a_matrix_of_its_own_with_its_own_caption(rossbench):
    tiny_ = [*TINY, "--train-eps", "0"]
    assert rossbench("run", "digits", *tiny_)[0] == 0
    code, out, _ = rossbench("run", "digits", *tiny_, "--attack", "apgd-ce,steps=5", "--finetuning", "AFF")
    assert code == 0
    assert "] pretrain" not in out  # it has that already
    assert "APGD-CE-L2, 5 steps" in " ".join(out.split())
    assert "finetuned in full" in " ".join(out.split())
    assert rossbench("report")[1].count("RoSS digits → digits") == 2


def test_several_seeds_are_run_shown_and_compared(rossbench):
    options = [*TINY, "--train-eps", "1"]
    code, out, err = rossbench("run", "digits", *options, "--seeds", "0,2")
    assert (code, err) == (0, "")
    assert "pretrain digits ε=1  done in" in out
    assert "pretrain digits ε=1 seed 2  done in" in out
    for shown in (out, rossbench("report")[1]):
        assert len(re.findall(r"\d ± \d", shown)) == 2
        assert "seeds 0, 2" in shown
    assert max(map(len, rossbench("report")[1].splitlines())) <= 80
    code, out, err = rossbench("report", "--intervals")
    assert (code, out) == (2, "")
    assert "expected top1, top5, robust of one seed" in err
    protocols = {line.split(",")[1] for line in rossbench("report", "--format", "csv")[1].splitlines()[1:]}
    assert len(protocols) == 2
    for protocol in protocols:
        assert rossbench("report", "--intervals", "--protocol", protocol)[1].count("[") == 2
    assert (
        "expected one model, got several; name it, or give --protocol"
        in rossbench("compare", "digits@1", "digits@1")[2]
    )


def test_two_models_are_compared_on_the_same_images(rossbench, audited):
    code, out, err = rossbench("compare", "digits@0", "digits@1")
    assert (code, err) == (0, "")
    assert "A: digits@0, B: digits@1" in out
    assert all(f" {line} " in out for line in ("A (%)", "A - B", "right by B alone", "p", "verdict"))
    assert max(map(len, out.splitlines())) <= 80
    assert rossbench("compare", "digits@0", "digits@1", "--format", "markdown")[1].count("| verdict |") == 1


def test_markup_in_a_scenario_of_ones_own_is_shown_as_it_is(rossbench, tmp_path):
    text = (
        "from rossbench import Recipe\n"
        "from rossbench.registry import Scenario, register\n"
        "said = dict(recipe=Recipe('[/]r'), description='[b]d')\n"
        "register(Scenario('mine', 'digits', 'digits', **said))\n"
    )
    (tmp_path / "my.py").write_text(text)
    for command, said in ((["list"], ["[/]r"]), (["show", "mine"], ["[/]r", "[b]d"])):
        code, out, _ = rossbench(*command, "--scenario-file", "my.py")
        assert code == 0
        assert [text for text in said if text not in out] == []
        registry._scenarios.pop("mine")
