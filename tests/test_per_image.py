import dataclasses
import shutil

import pytest
from conftest import tiny

from rossbench.config.kinds import Kind
from rossbench.config.recipes import Attack
from rossbench.report import per_image
from rossbench.report.model import Model
from rossbench.runner import run as runner
from rossbench.store import artifacts, results
from rossbench.store.artifacts import load_predictions
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue
from rossbench.util.statistics import mcnemar


def test_two_models_are_compared_image_for_image(finished, matrix):
    store = Store(finished)
    table = per_image.compare_models(store, Model(matrix, (0.0, 0.0)), Model(matrix, (1.0, 1.0)))
    assert table.columns == ["0", "0.5"]
    assert "A: digits@0, B: digits@1" in table.title
    for k, epsilon in enumerate((0.0, 0.5)):
        told = {labels[0]: cells[k] for labels, cells in table.lines}
        both = [load_predictions(store, tiny().cells[row, row, epsilon]) for row in (0.0, 1.0)]
        right, other = (ranked[:, 0] == labels for ranked, labels in both)
        only, only_other = int((right & ~other).sum()), int((~right & other).sum())
        assert (told["right by A alone"], told["right by B alone"]) == (str(only), str(only_other))
        assert told["A (%)"] == f"{matrix.value((0, 0), epsilon, 'top1'):.2f}"
        assert told["B (%)"] == f"{matrix.value((1, 1), epsilon, 'top1'):.2f}"
        assert float(told["p"]) == pytest.approx(mcnemar(only, only_other), rel=0.06)


@pytest.mark.parametrize(
    ("right", "other", "only", "verdict"),
    [
        (50, 50, 10, "noise"),
        (60, 50, 10, "A better"),
        (50, 60, 0, "B better"),
        (55, 50, 20, "noise"),
        (50, 50, 0, "noise"),
    ],
)
def test_what_is_more_than_noise(right, other, only, verdict):
    told = per_image._beside(right, other, only, 100)
    assert told["verdict"] == verdict
    assert told["A - B"] == f"{right - other:+.2f}"
    assert int(told["right by A alone"]) - int(told["right by B alone"]) == right - other


def test_models_of_other_images_are_refused(finished, tmp_path):
    store = Store(tmp_path)
    runner.run_suite(
        [tiny(), tiny("digits-low-to-low", test_limit=20), tiny(test_limit=30, seed=1)], store=store, device="cpu"
    )
    models = [Model(matrix, (1.0, 1.0)) for matrix in results.load(store)]
    for other in models[1:]:
        with pytest.raises(InvalidValue, match="expected models evaluated on the same test images"):
            per_image.compare_models(store, models[0], other)


@pytest.mark.parametrize(
    ("changed", "told"), [({"attacked": "correct"}, "of correct images"), ({"attack": Attack(steps=5)}, "5 steps")]
)
def test_models_under_other_attacks_are_refused(finished, tmp_path, changed, told):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    one = tiny()
    recipe = dataclasses.replace(one.recipe, evaluation=dataclasses.replace(one.recipe.evaluation, **changed))
    runner.run(dataclasses.replace(one, recipe=recipe), store=tmp_path, device="cpu")
    models = [Model(matrix, (1.0, 1.0)) for matrix in results.load(Store(tmp_path))]
    with pytest.raises(InvalidValue, match="expected models under one attack") as raised:
        per_image.compare_models(Store(tmp_path), *models)
    assert told in str(raised.value)


def test_where_only_correct_images_were_attacked_right_is_robust(partly):
    (matrix,) = results.load(Store(partly))
    table = per_image.compare_models(Store(partly), Model(matrix, (0.0, 0.0)), Model(matrix, (1.0, 1.0)))
    (rates,) = (cells for labels, cells in table.lines if labels == ["A (%)"])
    assert rates[1] == f"{matrix.value((0, 0), 0.5, 'robust'):.2f}"


@pytest.fixture
def matrices(measured):
    return results.load(Store(measured), ["digits"])


def test_the_union_of_threats_is_counted_image_by_image(measured, matrices):
    table = per_image.threats(Store(measured), matrices)
    assert table.columns[0] == "natural"
    assert table.columns[-1] == "all of them"
    assert "PGD L2, ε=0.5" in table.columns
    assert "corruptions, severity 3" in table.columns
    (matrix,) = matrices
    one = matrix.measures[Kind("corruptions"), (1, 1)].spec
    corrupted = artifacts.load_measured(Store(measured), one)["right"]
    right = corrupted[0] & corrupted[3]
    smallest = artifacts.load_measured(Store(measured), matrix.measures[Kind("minimal", steps=5), (1, 1)].spec)
    right &= smallest["right"][1]
    for column in (0, 0.5):
        ranked, labels = artifacts.load_predictions(Store(measured), matrix.cells[1, 1, column].spec)
        right &= ranked[:, 0] == labels
    line = next(cells for labels, cells in table.lines if labels == ["ε=1"])
    assert line[-1] == f"{100 * right.double().mean():.2f}"
    assert all(float(cell) >= float(line[-1]) for cell in line)


def test_one_threat_is_not_several(finished):
    with pytest.raises(InvalidValue, match=r"at least two of a classifier, got PGD L2, ε=0\.5; run more"):
        per_image.threats(Store(finished), results.load(Store(finished), ["digits"]))


def test_threats_are_on_one_target(matrices):
    with pytest.raises(InvalidValue, match="one target, got digits, other"):
        per_image.threats(Store("none"), [*matrices, dataclasses.replace(matrices[0], target="other")])
