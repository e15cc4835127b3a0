import dataclasses
import shutil

import pytest
from conftest import tiny

from rossbench.config.recipes import Attack
from rossbench.report import model_comparison
from rossbench.report.figure_data import Model
from rossbench.runner import run as runner
from rossbench.store import results
from rossbench.store.artifacts import load_predictions
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue
from rossbench.util.statistics import mcnemar


def test_two_models_are_compared_image_for_image(finished):
    store = Store(finished)
    (matrix,) = results.load(store)
    table = model_comparison.compare_models(store, Model(matrix, (0.0, 0.0)), Model(matrix, (1.0, 1.0)))
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
    told = model_comparison._beside(right, other, only, 100)
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
            model_comparison.compare_models(store, models[0], other)


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
        model_comparison.compare_models(Store(tmp_path), *models)
    assert told in str(raised.value)


def test_where_only_correct_images_were_attacked_right_is_robust(finished, tmp_path):
    one = tiny()
    recipe = dataclasses.replace(one.recipe, evaluation=dataclasses.replace(one.recipe.evaluation, attacked="correct"))
    store = Store(tmp_path)
    runner.run(dataclasses.replace(one, recipe=recipe), store=store, device="cpu")
    (matrix,) = results.load(store)
    table = model_comparison.compare_models(store, Model(matrix, (0.0, 0.0)), Model(matrix, (1.0, 1.0)))
    (rates,) = (cells for labels, cells in table.lines if labels == ["A (%)"])
    assert rates[1] == f"{matrix.value((0, 0), 0.5, 'robust'):.2f}"
