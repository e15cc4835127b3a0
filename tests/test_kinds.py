"""config.kinds, the measure stage and their tables: a kind of one's own from registration to report."""

import json
import sys

import pandas as pd
import pytest
import torch
from conftest import tiny

import rossbench as package
from rossbench import registry
from rossbench.config.kinds import ATTACK, KINDS, SEVERITIES, Kind, kind_of
from rossbench.config.scenarios import Scenario
from rossbench.config.specs import FinetuneSpec, MeasureSpec
from rossbench.runner import run as runner
from rossbench.runner.scheduler import shard_of
from rossbench.stages.kinds.subject import Found
from rossbench.store import artifacts, results
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue, RossbenchError, UnknownName

FILE = """
from rossbench.registry import register_kind

def length(subject):
    features = subject.outputs(subject.encoder, subject.images)
    return {"length": [float(features.norm(dim=1).mean()) * column for column in subject.columns]}

register_kind("length", length, columns=(1, 2), over="factor", needs_head=False)

def dark(subject):
    logits = [subject.outputs(subject.head, subject.floats() * (1 - column)) for column in subject.columns]
    return {"accuracy (%)": [100 * float((one.argmax(1) == subject.labels).float().mean()) for one in logits]}

register_kind("dark", dark)
"""


@pytest.fixture
def own_kinds(own_registry, tmp_path):
    path = tmp_path / "kinds.py"
    path.write_text(FILE)
    registry.load_file(path)
    return path


@pytest.mark.parametrize(
    ("text", "norm", "expected"),
    [
        ("knn", "L2", Kind("knn")),
        ("knn", "Linf", Kind("knn", norm="Linf")),
        ("knn,neighbours=20,temperature=0.1", "L2", Kind("knn", neighbours=20, temperature=0.1)),
        ("knn,norm=Linf", "L2", Kind("knn", norm="Linf")),
        ("knn,norm=L2", "Linf", Kind("knn")),
        ("minimal", "L2", Kind("minimal", steps=50)),
        ("corruptions", "Linf", Kind("corruptions")),
    ],
)
def test_a_kind_is_named_with_its_settings_and_has_the_scenarios_norm(text, norm, expected):
    assert kind_of(text, norm) == expected


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("kn", UnknownName, "knn"),
        ("knn,k=2", UnknownName, "setting of an evaluation kind"),
        ("knn,neighbours=0", InvalidValue, "at least 1"),
        ("knn,neighbours", InvalidValue, "whole number"),
        ("", UnknownName, "evaluation kind"),
    ],
)
def test_an_unknown_kind_or_setting_says_what_there_is(text, error, said):
    with pytest.raises(error, match=said):
        kind_of(text, "L2")


def test_specs_of_a_kind_hold_what_it_needs_and_no_more():
    scenario = tiny(finetune_epsilons=(0, 1), train_epsilons=(0.5, 1))
    assert scenario.measures(ATTACK) == {}
    encoders = scenario.measures("features")
    assert list(encoders) == [(0.5, 0.5), (1, 1)]
    assert all(spec.head is None and spec.train_limit is None for spec in encoders.values())
    assert scenario.measures("knn")[1, 1].train_limit == 60
    heads = scenario.measures("corruptions")
    assert list(heads) == scenario.rows
    assert all(spec.columns == SEVERITIES and isinstance(spec.head, FinetuneSpec) for spec in heads.values())
    assert heads[1, 0].parents == (heads[1, 0].pretrain, heads[1, 0].head)
    assert len({spec.key for spec in [*encoders.values(), *heads.values()]}) == 6


def test_what_changes_a_measurement_changes_its_key_and_nothing_else_does():
    scenario = tiny()
    key = scenario.measures("knn")[0, 0].key
    assert scenario.measures("knn,neighbours=20")[0, 0].key != key
    assert scenario.measures("knn,neighbours=200")[0, 0].key == key
    assert tiny(test_limit=30).measures("knn")[0, 0].key != key
    assert tiny(eval_epsilons=(0, 1)).measures("knn")[0, 0].key != key
    assert tiny(description="other").measures("knn")[0, 0].key == key


def test_a_kind_of_ones_own_goes_from_a_file_to_tables_and_frames(rossbench, own_kinds):
    small = ["--epochs", 1, "--finetune-epochs", 1, "--train-limit", 60, "--test-limit", 40, "--train-eps", "0,1"]
    run = ["run", "digits", *small, "--out", "s", "--scenario-file", own_kinds, "--quiet"]
    for name in ("length", "dark"):
        del KINDS[name]  # the file registers them
    code, out, err = rossbench(*run, "--kind", "length")
    assert (code, err) == (0, "")
    assert "length, L2, by factor" in out
    assert "Top-1" not in out
    assert not list(Store("s").root.glob("finetune/*")), "a kind of the encoder finetunes nothing"
    frame = package.results("s", kind="length")
    assert list(frame["column"]) == [1, 2, 1, 2]
    assert frame["value"][1] == pytest.approx(2 * frame["value"][0])
    for name in ("length", "dark"):
        del KINDS[name]
    code, out, err = rossbench(*run, "--kind", "dark", "--kind", "attack", "--no-audit")
    assert code == 0
    assert "accuracy (%)" in out
    assert "Top-1" in out
    assert "length" in out
    dark, attacked = package.results("s", kind="dark"), package.results("s")
    natural = attacked[attacked["eval_epsilon"] == 0]["top1"].to_list()
    assert [100 * one for one in natural] == pytest.approx(dark[dark["column"] == 0]["value"].to_list())
    for form in ("table", "markdown", "latex"):
        code, out, _ = rossbench("report", "--out", "s", "--format", form)
        assert code == 0
        assert "dark" in out
        assert "length" in out
    assert rossbench("store", "verify", "--out", "s")[0] == 0
    assert "0 deleted" in rossbench("store", "gc", "--out", "s")[1]
    code, out, _ = rossbench("store", "rm", "digits", "--out", "s")
    assert code == 0
    assert not list(Store("s").root.glob("measure/*"))


def test_what_is_measured_is_not_measured_again(own_kinds, tmp_path, monkeypatch):
    calls = []
    KINDS["length"] = registry.user_row("length", lambda subject: calls.append(1) or {"a": subject.columns})
    for _ in range(2):
        runner.run(tiny(), store=tmp_path / "s", kinds=["length"], device="cpu")
    assert len(calls) == 2, "one a model, in the first run"
    runner.run(tiny(eval_epsilons=(0, 1)), store=tmp_path / "s", kinds=["length"], device="cpu")
    assert len(calls) == 4, "other columns are another measurement"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda subject: {"a": [1.0]}, "2 numbers, one a column"),
        (lambda subject: [1.0, 2.0], "dictionary of rows"),
        (lambda subject: {"a": ["x", "y"]}, "ValueError"),
        (lambda subject: 1 / 0, "ZeroDivisionError"),
        (lambda subject: sys.exit(0), r"SystemExit\(0\)"),
        (
            lambda subject: torch.set_grad_enabled(False) or {"a": [1.0, 2.0]},
            "expected settings as they were, got other",
        ),
    ],
)
def test_a_function_that_gives_something_else_is_one_line(own_registry, tmp_path, made, said):
    registry.register_kind("own", made, needs_head=False)
    with pytest.raises(RossbenchError, match=said):
        runner.run(tiny(), store=tmp_path, kinds=["own"], device="cpu")


def test_what_a_function_does_to_its_model_stays_with_it(own_registry, tmp_path):
    def spoil(subject):
        with torch.no_grad():
            for parameter in subject.head.parameters():
                parameter.zero_()
        subject.encoder.train()
        return {"a": [float(subject.encoder(subject.floats()).sum())] * len(subject.columns)}

    def right(subject):
        logits = subject.outputs(subject.head, subject.images)
        return {"a": [float((logits.argmax(1) == subject.labels).sum())] * len(subject.columns)}

    registry.register_kind("spoil", spoil)
    registry.register_kind("right", right)
    scenario = tiny(train_epsilons=(0,))  # one model, which all kinds then share
    found = runner.run(scenario, store=tmp_path, kinds=["attack", "spoil", "right"], device="cpu")
    assert set(package.results(tmp_path, kind="right")["value"]) == {found[0, 0, 0].top1_right}


def test_numbers_for_each_image_are_kept(own_registry, tmp_path):
    def all_right(subject):
        right = subject.labels.new_ones(len(subject.columns), len(subject.labels)).bool()
        return Found({"accuracy (%)": [100.0] * len(subject.columns)}, {"mean": float("nan")}, right)

    registry.register_kind("own", all_right)
    scenario = tiny(train_epsilons=(0,))
    runner.run(scenario, store=tmp_path, kinds=["own"], device="cpu")
    (spec,) = scenario.measures("own").values()
    assert artifacts.load_measured(Store(tmp_path), spec)["right"].shape == (2, 40)
    (matrix,) = results.load(Store(tmp_path))
    (one,) = matrix.measures.values()
    assert one.summary == {"mean": None}
    assert one.n == 40


@pytest.mark.parametrize("name", ["attack", "knn", "Knn", "a b", ""])
def test_a_kinds_name_is_new_and_spelled_as_names_are(own_registry, name):
    with pytest.raises(InvalidValue):
        registry.register_kind(name, lambda subject: {})


def test_shards_share_kinds_by_model(own_kinds):
    scenario = tiny()
    wanted = [*scenario.cells.values(), *scenario.measures("length").values(), *scenario.measures("dark").values()]
    parts = [shard_of(wanted, k, 3) for k in (1, 2, 3)]
    assert sorted(spec.key for part in parts for spec in part) == sorted(spec.key for spec in wanted)


def test_notes_of_runs_without_other_kinds_are_what_they_were(tmp_path):
    note = runner.note_of(tiny())
    assert "measures" not in json.loads(note.encoded())
    assert runner.note_of(tiny(), kinds=["features"]).cells == ()


@pytest.mark.parametrize("kinds", ["features", [], ()])
def test_kinds_are_a_list(kinds, tmp_path):
    with pytest.raises(InvalidValue, match="list of evaluation kinds"):
        runner.run(tiny(), store=tmp_path, kinds=kinds)


def test_seeds_are_means_with_deviations(own_registry, rossbench, tmp_path):
    registry.register_kind("own", lambda subject: {"a": [float(subject.seed)] * 2}, columns=(1, 2), needs_head=False)
    for seed in (0, 1):
        runner.run(tiny(seed=seed, train_epsilons=(0,)), store="s", kinds=["own"], device="cpu")
    _, out, _ = rossbench("report", "--out", "s")
    assert "0.500 ± 0.707" in out
    assert "2 seeds" in out


def test_list_names_all_kinds(rossbench):
    _, out, _ = rossbench("list")
    assert all(name in out for name in (ATTACK, *KINDS))
    assert json.loads(rossbench("list", "--json")[1])["kinds"] == [ATTACK, *KINDS]


def test_frames_of_kinds_are_of_a_store(finished):
    with pytest.raises(InvalidValue, match="expected a store"):
        package.results([], kind="knn")
    assert isinstance(package.results(finished, kind="knn"), pd.DataFrame)


def test_a_scenario_and_a_spec_survive_their_files(own_registry):
    spec = tiny().measures("corruptions")[1, 1]
    from rossbench.util.values import encode, read

    assert read(MeasureSpec, encode(spec)) == spec
    assert isinstance(tiny(), Scenario)
