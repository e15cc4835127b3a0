import os
import re
import subprocess
import sys

import pytest
from conftest import tiny

from rossbench import cli, registry


@pytest.fixture
def rossbench(capsys, monkeypatch, tmp_path):
    """Runs a command line in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(registry, "_scenarios", dict(registry._scenarios))

    def call(*arguments):
        try:
            cli.main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


TINY = [
    *("--train-eps", "0,1", "--eval-eps", "0,0.5", "--epochs", 2, "--finetune-epochs", 2),
    *("--train-limit", 60, "--test-limit", 40),
]


def test_list_names_every_scenario_within_80_columns(rossbench):
    code, out, _ = rossbench("list")
    assert code == 0
    assert all(name in out for name in registry.names())
    assert max(map(len, out.splitlines())) <= 80


def test_show_gives_matrix_recipe_and_cost(rossbench):
    code, out, _ = rossbench("show", "cifar10-to-cifar100", "--epochs", "10")
    assert code == 0
    assert out.count("0, 0.2, 0.4, 0.6, 0.8, 1") == 2
    assert re.search(r"pretraining\.epochs +│ 10 +\(registered: 500\)", out)
    assert re.search(r"pretrain +│ +6 │ +47\.92", out)  # 10 * 99,840 views * (3 + 5 * 9) passes
    assert max(map(len, out.splitlines())) <= 80


def test_run_and_report(rossbench, tmp_path):
    code, out, err = rossbench("run", "digits", *TINY)
    assert (code, err) == (0, "")
    assert "done in" in out
    assert "REDUCED OR CHANGED PROTOCOL" in out
    assert "RoSS digits → digits" in out
    assert (tmp_path / "rossbench-store").is_dir()
    code, again, _ = rossbench("run", "digits", *TINY)
    assert code == 0
    assert "done in" not in again
    code, shown, _ = rossbench("report", "digits", "--metric", "mcc")
    assert code == 0
    assert "MCC, RoSS digits → digits" in shown


@pytest.mark.parametrize(
    ("form", "start"), [("csv", "scenario,"), ("json", "["), ("latex", r"\begin"), ("markdown", "###")]
)
def test_report_formats_are_nothing_but_the_format(rossbench, finished, form, start):
    code, out, _ = rossbench("report", "--out", finished, "--format", form)
    assert code == 0
    assert out.startswith(start)


def test_a_scenario_file_is_seen(rossbench, tmp_path):
    (tmp_path / "my.py").write_text(
        "from rossbench.registry import Scenario, register\n"
        "register(Scenario('svhn-to-cifar10', source='svhn', target='cifar10'))\n"
    )
    for arguments in (["list"], ["show", "svhn-to-cifar10"]):
        code, out, _ = rossbench(*arguments, "--scenario-file", "my.py")
        assert code == 0
        assert "svhn-to-cifar10" in out
        monkey = registry._scenarios.pop("svhn-to-cifar10")
        assert monkey.source == "svhn"


WRONG = [
    (["run", "digitz"], "unknown scenario 'digitz'; did you mean digits"),
    (["show", "digitz"], "unknown scenario 'digitz'; did you mean digits"),
    (["run"], "Missing argument 'NAME'"),
    (["rum", "digits"], "No such command 'rum'"),
    (["run", "digits", "--epoch", "3"], "No such option"),
    (["run", "digits", "--epochs", "0"], "'--epochs'"),
    (["run", "digits", "--epochs", "x"], "'--epochs'"),
    (["run", "digits", "--finetune-epochs", "-1"], "'--finetune-epochs'"),
    (["run", "digits", "--train-eps", "1,0"], "expected ascending numbers, got 1, 0"),
    (["run", "digits", "--train-eps", ""], "expected numbers such as 0.5 or 8/255"),
    (["run", "digits", "--eval-eps", "0:1:0"], "expected numbers or start:stop:step"),
    (["run", "digits", "--eval-eps", "nan"], "got 'nan'"),
    (["run", "digits", "--eval-eps=-1"], "expected numbers in [0, 1000], got -1"),
    (["run", "digits", "--train-limit", "5"], "train limit for digits: expected 10 (one image a class) to 1201, got 5"),
    (["run", "digits", "--test-limit", "5000"], "test limit for digits: expected 10 (one image a class) to 596"),
    (["run", "digits", "--seed", "-1"], "'--seed'"),
    (["run", "digits", "--device", "tpu"], "expected auto, cpu, cuda, cuda:N or mps, got 'tpu'"),
    (["run", "digits", "--device", "cuda:99"], "device 'cuda:99': expected one of the"),
    (["run", "digits", "--encoder", "resnet81", "--device", "cpu"], "unknown encoder 'resnet81'; did you mean"),
    (
        ["run", "digits", "--encoder", "resnet18.nothing", "--device", "cpu"],
        "encoder 'resnet18.nothing' cannot be built",
    ),
    (["run", "digits", "--encoder", "qqqqqqqq", "--device", "cpu"], "in all)"),
    (["run", "digits", "--scenario-file", "none.py"], "'none.py' does not exist"),
    (["run", "digits", "--out", "file.txt"], "'file.txt' is a file"),
    (["run", "cifar10-to-cifar10", "--data-dir", "file.txt"], "'file.txt' is a file"),
    (["report"], "nothing to report in rossbench-store"),
    (["report", "digits"], "nothing to report in rossbench-store: expected a store that rossbench run has written"),
    (["report", "--metric", "f1"], "'f1' is not one of"),
    (["report", "--format", "html"], "'html' is not one of"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_an_error_is_one_line_on_stderr_and_exit_code_2(rossbench, tmp_path, arguments, message):
    (tmp_path / "file.txt").write_text("")
    code, out, err = rossbench(*arguments)
    assert code == 2
    assert err.startswith("rossbench: ")
    assert err.count("\n") == 1
    assert message in err
    assert "Traceback" not in out + err
    assert len(err) < 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.txt"]  # nothing was begun


def test_an_error_that_nobody_expected_is_one_line_too(rossbench, monkeypatch):
    from rossbench import runner

    def broken(*arguments, **keywords):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(runner, "run", broken)
    code, _, err = rossbench("run", "digits")
    assert code == 1
    assert err == "rossbench: unexpected ZeroDivisionError: by zero (--debug shows where)\n"


@pytest.mark.parametrize("arguments", [["show", "digitz", "--debug"], ["--debug", "show", "digitz"]])
def test_debug_shows_the_traceback(rossbench, arguments):
    code, _, err = rossbench(*arguments)
    assert code == 2
    assert "Traceback" in err
    assert "unknown scenario 'digitz'" in err.splitlines()[-1]


def test_an_interrupted_run_says_how_to_go_on(rossbench, monkeypatch):
    from rossbench import runner

    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    code, _, err = rossbench("run", "digits")
    assert code == 130
    assert err.strip() == "rossbench: interrupted; the same command goes on from the last finished epoch"


def test_no_arguments_show_help(rossbench):
    code, out, _ = rossbench()
    assert code == 0
    assert "Commands:" in out


def test_options_become_the_scenario_they_name(rossbench):
    options = {"epochs": 2, "finetune_epochs": 2, "train_epsilons": (0, 1), "eval_epsilons": (0, 0.5)}
    options |= {"train_limit": 60, "test_limit": 40, "seed": 3, "encoder": "resnet18"}
    made = cli._scenario("digits", options)
    expected = tiny(seed=3, encoder="resnet18")
    assert made.recipe.pretraining.epochs == made.recipe.finetuning.epochs == 2
    for field in ("train_epsilons", "eval_epsilons", "train_limit", "test_limit", "seed", "encoder"):
        assert getattr(made, field) == getattr(expected, field)


NO_TORCH = """
import sys
from rossbench.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {"torch", "torchvision", "timm", "lightly", "torchattacks", "numpy", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("line", ["list", "show digits", "report", "report --format json", "--version"])
def test_list_show_and_report_import_no_torch(finished, line):
    arguments = line.split()
    if arguments[0] == "report":
        arguments = [*arguments, "--out", str(finished)]
    command = [sys.executable, "-c", NO_TORCH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
