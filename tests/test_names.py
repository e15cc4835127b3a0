"""Encoders by name: kept in notes, shown in tables, found for a comparison."""

import csv
import dataclasses
import io
import json
import shutil

import pytest
import torch
from conftest import tiny

import rossbench
from rossbench.models import encoders, pretrained
from rossbench.report import formats, page, tables
from rossbench.report.figure_data import choose, labels
from rossbench.runner import run as runner
from rossbench.store import lookup, results
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue, UnknownName


def given(seed):
    return pretrained.of_module(encoders.build("conv3", tiny().pixels, seed=seed).backbone, tiny().pixels)


def run_given(store, seed, name, scenario=None, **changes):
    one = given(seed)
    scenario = dataclasses.replace(
        scenario or tiny(), encoder=one.name, weights=one.weights, train_epsilons=(0,), encoder_name=name, **changes
    )
    runner.run_suite([scenario], encoders=[one], store=store, device="cpu")


@pytest.fixture(scope="module")
def several(finished, tmp_path_factory):
    """Two models pretrained here, and two encoders that were given."""
    root = tmp_path_factory.mktemp("named") / "store"
    shutil.copytree(finished, root)
    run_given(root, 1, "mine-v3")
    run_given(root, 2, "dynacl", finetune_epsilons=(0, 0.5))
    return root


NAMED = ["conv3 ε=0", "conv3 ε=1", "dynacl", "dynacl, finetuned ε=0.5", "mine-v3"]


def test_encoders_of_one_scenario_are_rows_of_one_table(several):
    matrices = results.load(Store(several))
    assert len(matrices) == 3
    (group,) = tables.together(matrices)
    for sort in (None, 0, 0.5):
        table = tables.over_seeds(group, "top1", sort=sort)
        shown = {labels[0]: cells for labels, cells in table.lines if "improvement" not in labels[0]}
        assert table.labels == ["model"]
        assert sorted(shown) == NAMED
        for matrix in matrices:
            for row in matrix.rows:
                assert shown[matrix.model(row)] == [f"{matrix.value(row, c, 'top1'):.2f}" for c in matrix.columns]
        if sort is not None:
            column = [float(cells[table.columns.index(f"{sort:g}")]) for cells in shown.values()]
            assert column == sorted(column, reverse=True)
        assert table.bold == set()  # of 40 images, all within noise
    assert table.lines[-1][0] == ["dynacl, finetuned ε=0.5, improvement"]
    assert "registered: none" not in "".join(table.notes)  # the weights, which the label tells
    with pytest.raises(InvalidValue, match=r"--sort: expected an evaluation epsilon of the table, 0, 0\.5, got 0\.3"):
        tables.over_seeds(group, "top1", sort=0.3)


def test_what_was_tested_otherwise_stays_apart(several, tmp_path):
    shutil.copytree(several, tmp_path / "store")
    attacked = dataclasses.replace(tiny().recipe.evaluation, attacked="correct")
    run_given(tmp_path / "store", 1, "", tiny(recipe=dataclasses.replace(tiny().recipe, evaluation=attacked)))
    longer = dataclasses.replace(tiny().recipe.pretraining, epochs=1)
    runner.run(
        tiny(recipe=dataclasses.replace(tiny().recipe, pretraining=longer)), store=tmp_path / "store", device="cpu"
    )
    groups = tables.together(results.load(Store(tmp_path / "store")))
    assert sorted(len(group) for group in groups) == [1, 1, 3]
    other = next(group[0] for group in groups if group[0].metric == "robust")
    assert other.encoder == "mine-v3"  # the name is of the weights


def test_the_newest_name_counts_and_changes_no_key(several, tmp_path, caplog):
    root = tmp_path / "store"
    shutil.copytree(several, root)
    before = {record.key for matrix in results.load(Store(root)) for record in matrix.records}
    for name in ("other", "mine-v3", "mine-v3", ""):
        run_given(root, 1, name)
    after = results.load(Store(root))
    assert {record.key for matrix in after for record in matrix.records} == before
    assert [matrix.encoder for matrix in after if matrix.weights == given(1).weights] == ["mine-v3"]
    assert [record.message for record in caplog.records] == [
        "digits: its encoder mine-v3 is named other now",
        "digits: its encoder other is named mine-v3 now",
    ]


def test_without_a_name_a_run_has_the_note_of_before(finished, copied):
    (path,) = (finished / "matrices").iterdir()
    assert not {"encoder_name", "named", "weights"} & set(json.loads(path.read_bytes()))
    runner.run(tiny(), store=copied, device="cpu")
    assert len(list((copied.root / "matrices").iterdir())) == 1
    runner.run(tiny(encoder_name="plain"), store=copied, device="cpu")
    (matrix,) = results.load(copied)
    assert [matrix.model(row) for row in matrix.rows] == ["plain ε=0", "plain ε=1"]


def test_equal_names_of_different_encoders_are_told_apart(several, tmp_path):
    shutil.copytree(several, tmp_path / "store")
    run_given(tmp_path / "store", 3, "mine-v3")
    named = [one for one in results.load(Store(tmp_path / "store")) if one.encoder.startswith("mine-v3")]
    assert sorted(one.encoder for one in named) == sorted(f"mine-v3 {given(seed).weights[:8]}" for seed in (1, 3))
    assert all("different encoders are named mine-v3" in one.notes()[-1] for one in named)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("digits@mine-v3", "mine-v3"),
        ("mine-v3", "mine-v3"),
        ("digits@conv3 ε=1", "conv3 ε=1"),
        ("conv3 1", "conv3 ε=1"),
        ("digits@conv3 eps=1:1", None),
        ("digits@1", "conv3 ε=1"),
        ("digits@0", "conv3 ε=0"),
        ("digits@dynacl", "dynacl"),
        ("digits@dynacl 0.5", None),
        ("dynacl finetuned 0.5", "dynacl, finetuned ε=0.5"),
        ("digits@mine", None),
        ("digits@0.5", None),
    ],
)
def test_a_model_is_found_by_its_name(several, text, model):
    if model is None:
        with pytest.raises(UnknownName, match="unknown model of digits"):
            lookup.find_model(Store(several), text)
    else:
        matrix, row = lookup.find_model(Store(several), text)
        assert matrix.model(row) == model


def test_a_model_that_may_be_several_is_asked_for(several):
    with pytest.raises(
        InvalidValue, match=r"conv3: expected one model, got several; name it, .*conv3 ε=0, .*conv3 ε=1"
    ):
        lookup.find_model(Store(several), "conv3")


def test_every_output_tells_the_name(several, rossbench_):
    frame = rossbench.results(several)
    assert sorted(set(frame.model)) == NAMED
    matrices = results.load(Store(several))
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(matrices, None))))
    assert sorted({row["model"] for row in rows}) == NAMED
    assert {cell["model"] for one in json.loads(formats.to_json(matrices, None)) for cell in one["cells"]} == set(NAMED)
    assert sorted(labels(choose(matrices))) == NAMED
    assert all(name in page.render([], matrices, [], "now") for name in NAMED)
    _, out, _ = rossbench_("report", "--store", several, "--sort", 0.5, "--format", "markdown")
    assert all(f"| {name} |" in out for name in NAMED)
    code, out, _ = rossbench_("compare", "mine-v3", "digits@dynacl", "--store", several)
    assert (code, "A: digits@mine-v3, B: digits@dynacl" in out) == (0, True)


@pytest.fixture
def rossbench_(request):
    return request.getfixturevalue("rossbench")


def test_a_run_names_what_it_is_given(rossbench_, tmp_path):
    torch.save(encoders.build("conv3", 16, seed=4).backbone.state_dict(), tmp_path / "mine.pt")
    small = ("--finetune-epochs", 1, "--train-limit", 60, "--test-limit", 40, "--eval-eps", "0,0.5", "--no-audit")
    code, out, _ = rossbench_(
        "run", "digits", "--encoder-weights", "mine.pt", "--encoder-normalization", "none", "--name", "my net", *small
    )
    assert code == 0
    assert " my net " in out
    for name in ("0.5", "8/255", "a@b", "a:b", "a,b", "x" * 65, " a", "a\n"):
        code, _, err = rossbench_("run", "digits", "--name", name, *small)
        assert (code, err.count("\n")) == (2, 1)
        assert "name of the encoder: expected at most 64 letters" in err
