import dataclasses
import shutil
import statistics

import numpy as np
import pytest
import torch
from conftest import tamper, tiny

from rossbench.attacks.pgd import pgd, random_start
from rossbench.data import datasets
from rossbench.report import figure_data, figures, plot_style
from rossbench.report.figure_data import FigureData, Model, choose, ends
from rossbench.report.figures import adversarial_examples, class_counts, curves, heatmaps, maps
from rossbench.runner import run as runner
from rossbench.runner import scheduler
from rossbench.store import artifacts, results
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue, RossbenchError, StoreError, UnknownName
from rossbench.util.seeds import derive


@pytest.fixture
def shown(finished):
    return FigureData(finished, device="cpu")


@pytest.fixture
def models(shown):
    return choose(shown.matrices(["digits"]))


@pytest.fixture
def drawn(monkeypatch):
    """What is given to be drawn, by the name of the drawing function."""
    calls = {}
    for module in (adversarial_examples, class_counts, curves, heatmaps, maps):
        for name in [name for name in vars(module) if name.startswith("plot_")]:
            draw = lambda *arguments, name=name: calls.update({name.removeprefix("plot_"): arguments})  # noqa: E731
            monkeypatch.setattr(module, name, draw)
    return calls


def predictions(store, *place):
    ranked, labels = artifacts.load_predictions(Store(store), tiny().cells[place])
    return ranked[:, 0], labels


def test_models_know_the_specs_that_made_them_and_would_under_another_epsilon(models):
    assert [model.row for model in models] == [(0, 0), (1, 1)]
    for model in models:
        assert model.spec == tiny().cells[*model.row, 0].finetune
        assert {column: one.spec for column, one in model.records.items()} == {
            column: tiny().cells[*model.row, column] for column in (0, 0.5)
        }
        assert model.under(0.5) == model.records[0.5].spec
        assert (model.under(5).epsilon, model.under(5).recipe) == (5, tiny().cells[*model.row, 0.5].recipe)


def test_models_are_chosen_by_their_epsilons_and_come_once(shown):
    matrices = shown.matrices(["digits"])
    assert [model.row for model in choose(matrices, [(1, 1)])] == [(1, 1)]
    assert [model.row for model in choose([*matrices, *matrices])] == [(0, 0), (1, 1)]
    assert [model.row for model in ends(matrices)] == [(0, 0), (1, 1)]
    with pytest.raises(InvalidValue, match="models: expected the ε of a model that was run, 0 or 1, got 1:0"):
        choose(matrices, [(1, 0)])


def test_several_protocols_of_one_scenario_have_to_be_chosen_from(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    runner.run(tiny(test_limit=30, train_epsilons=(0,), eval_epsilons=(0,)), store=tmp_path, device="cpu")
    both = results.load(Store(tmp_path))
    with pytest.raises(InvalidValue, match="expected runs under one protocol, got several") as raised:
        FigureData(tmp_path, device="cpu").matrices(["digits"])
    for matrix in both:
        assert matrix.protocol in str(raised.value)
        (found,) = FigureData(tmp_path, device="cpu").matrices(["digits"], matrix.protocol)
        assert found.protocol == matrix.protocol
    with pytest.raises(UnknownName, match="unknown protocol of digits '00000000'"):
        FigureData(tmp_path, device="cpu").matrices(["digits"], "00000000")


def test_curves_and_heat_map_show_the_records(shown, models, drawn):
    figures.robustness(shown, models, "mcc")
    curves, label, intervals, *_ = drawn["robustness"]
    assert (label, list(intervals.values())) == ("MCC", [{}, {}])  # no count
    assert curves == {
        f"model ε = {row:g}": {column: models[0].matrix.cells[row, row, column].mcc for column in (0, 0.5)}
        for row in (0.0, 1.0)
    }
    figures.robustness(shown, models, "top1")
    low, high = drawn["robustness"][2]["model ε = 1"][0.5]
    assert low < models[0].matrix.value((1, 1), 0.5, "top1") < high
    figures.matrix(shown, models, "f1")
    values, rows, columns, _ = drawn["matrix"]
    assert (rows, columns) == (["0", "1"], ["0", "0.5"])
    assert values[1, 1] == 100 * models[0].matrix.cells[1, 1, 0.5].f1


def test_a_missing_cell_is_a_gap_in_its_curve(shown, models, drawn):
    figures.robustness(shown, [Model(partly(models[0].matrix, (0, 0, 0)), (0, 0))])
    (curve,) = drawn["robustness"][0].values()
    assert list(curve) == [0, 0.5]
    assert np.isnan(curve[0.5])


def test_over_seeds_a_curve_is_their_mean_in_a_band_of_one_deviation(shown, models, drawn):
    first = models[1].matrix
    cells = {
        place: dataclasses.replace(record, top1_right=record.top1_right // 2) for place, record in first.cells.items()
    }
    other = dataclasses.replace(first, seed=1, cells=cells)
    figures.robustness(shown, [Model(first, (1, 1), (other,))])
    curves, _, intervals, bands, _ = drawn["robustness"]
    (curve,), (band,) = curves.values(), bands.values()
    for column, mean in curve.items():
        both = [one.value((1, 1), column, "top1") for one in (first, other)]
        assert mean == statistics.fmean(both)
        assert band[column] == pytest.approx((mean - statistics.stdev(both), mean + statistics.stdev(both)))
    assert intervals == {}


def test_confusion_counts_the_stored_predictions(shown, models, drawn, finished):
    figures.confusion(shown, models)
    panels, names = drawn["confusions"]
    assert names == tuple("0123456789")
    assert [[title for title, _ in line] for line in panels] == [
        [f"model ε = {row}, attack ε = {column}" for column in ("0", "0.5")] for row in ("0", "1")
    ]
    predicted, labels = predictions(finished, 1, 1, 0.5)
    expected = torch.zeros(10, 10, dtype=torch.int64)
    for true, guess in zip(labels, predicted, strict=True):
        expected[true, guess] += 1
    assert np.array_equal(panels[1][1][1], expected)


def test_confusion_at_one_epsilon_has_a_line_a_scenario(shown, models, drawn):
    other = [Model(dataclasses.replace(model.matrix, name="again"), model.row) for model in models]
    figures.confusion(shown, [*models, *other], (0.5,))
    assert [len(line) for line in drawn["confusions"][0]] == [2, 2]


def test_correct_predictions_of_each_class(shown, models, drawn, finished):
    figures.per_class(shown, models)
    panels, epsilons = drawn["per_class"]
    assert epsilons == (0, 0.5)
    for panel, row in zip(panels, (0, 1), strict=True):
        for k, column in enumerate(epsilons):
            predicted, labels = predictions(finished, row, row, column)
            right = labels[predicted == labels].bincount(minlength=10)
            assert panel.counts[k].tolist() == right.tolist()
            assert panel.total.tolist() == labels.bincount(minlength=10).tolist()
            assert tuple(right.tolist()) == models[row].matrix.cells[row, row, column].right_by_class


def test_models_of_several_targets_have_no_common_confusion(shown, models):
    high = tiny("digits-low-to-high").cells[0, 0, 0]
    record = dataclasses.replace(models[0].matrix.cells[0, 0, 0], spec=high, key=high.key)
    other = Model(dataclasses.replace(models[0].matrix, cells={(0, 0, 0): record}), (0, 0))
    with pytest.raises(InvalidValue, match="expected models of one target, got digits, digits-high"):
        figures.confusion(shown, [*models, other])


def test_training_shows_the_stored_history(shown, models, drawn, finished):
    figures.training(shown, models)
    curves, _ = drawn["training"]
    assert list(curves) == ["digits model ε = 0", "digits model ε = 1"]
    assert curves["digits model ε = 1"] == artifacts.load_history(Store(finished), models[1].spec.pretrain)
    figures.training(shown, models, "finetune")
    curves, constant_losses = drawn["training"]
    assert constant_losses == []
    assert list(curves) == ["digits → digits model ε = 0", "digits → digits model ε = 1"]
    assert [entry["epoch"] for entry in curves["digits → digits model ε = 0"]] == [1, 2]


def test_features_of_the_last_layer_are_the_stored_predictions(shown, models, finished):
    """Natural and attacked: the images are the same as in the evaluation, and so is the attack."""
    for model in models:
        for epsilon in (0, 0.5):
            logits, labels = shown.features(model, "linear", epsilon)
            predicted, expected = predictions(finished, *model.row, epsilon)
            assert torch.equal(logits.argmax(1), predicted)
            assert torch.equal(labels, expected)


def test_a_limit_takes_a_part_of_the_images(shown, models):
    found, labels = shown.features(models[0], "encoder", limit=20)
    assert found.shape == (20, 512)
    assert labels.bincount().tolist() == [2] * 10


def test_maps_hold_the_same_images_of_each_model(shown, models, drawn):
    figures.tsne(shown, models, perplexity=5, iterations=250)
    panels, labels, names = drawn["maps"]
    assert [(title, points.shape) for title, points in panels] == [("model ε = 0", (40, 2)), ("model ε = 1", (40, 2))]
    assert labels.tolist() == datasets.load("digits", "test", 40).labels.tolist()
    assert len(names) == 10


def test_one_map_holds_all_models(shown, models, drawn):
    figures.tsne_together(shown, models, perplexity=5, iterations=250)
    points, owner, names = drawn["joint_map"]
    assert points.shape == (80, 2)
    assert owner.tolist() == [0] * 40 + [1] * 40
    assert names == ["model ε = 0", "model ε = 1"]


def test_examples_are_right_before_and_wrong_after_the_attack(shown, models, drawn):
    figures.examples(shown, models, epsilon=5, count=3)
    rows, epsilon = drawn["examples"]
    assert epsilon == 5
    assert len(rows) == 3
    data = datasets.load("digits", "test", 40)
    classifier = artifacts.load_classifier(shown.store, models[-1].spec)
    with torch.no_grad():
        before = classifier(data.images / 255).argmax(1)
    spec = models[-1].under(5)
    natural, seeded = data.images / 255, torch.Generator().manual_seed(derive(0, "evaluate", 0))
    start = 5 * random_start(spec.recipe.attack, natural, 1, seeded)
    moved = pgd(classifier, natural, data.labels, spec.recipe.attack, torch.full((40,), 5.0), start)
    after = classifier(moved).argmax(1)
    turned = torch.nonzero((before == data.labels) & (after != data.labels)).flatten().tolist()
    turned.sort(key=lambda k: data.labels[k] in [data.labels[i] for i in turned if i < k])  # one of each class first
    for row, k in zip(rows, turned[:3], strict=True):
        assert np.array_equal(row.natural, data.images[k].permute(1, 2, 0).numpy() / np.float32(255))
        assert np.array_equal(row.adversarial, moved[k].permute(1, 2, 0).numpy())
        assert np.linalg.norm(row.adversarial - row.natural) <= 5.001
        said = [str(classes[k].item()) for classes in (data.labels, before, after)]
        assert [row.label, row.before, row.after] == said


def test_nothing_is_written_or_trained(finished, models, shown, monkeypatch):
    before = sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*"))
    monkeypatch.setattr(scheduler, "BUILDERS", {})
    for kind in ("robustness", "matrix", "confusion", "per_class", "training", "examples"):
        assert plot_style.to_bytes(getattr(figures, kind)(shown, models), "svg").startswith(b"<?xml")
    assert sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*")) == before


def test_a_row_without_evaluations_says_so(models):
    empty = dataclasses.replace(models[0].matrix, cells=dict.fromkeys(models[0].matrix.cells))
    with pytest.raises(RossbenchError, match="expected an evaluation in the store, got none; run the scenario first"):
        choose([empty])


@pytest.mark.parametrize(
    ("changes", "rows", "expected"),
    [
        ([{}, {}], [(0, 0), (1, 0)], ["model ε = 0", "model ε = 1, finetuned 0"]),
        ([{}, {"source": "x"}], [(0, 0), (1, 1)], ["digits → digits, model ε = 0", "x → digits, model ε = 1"]),
        ([{}, {"name": "x"}], [(0, 0), (0, 0)], ["digits, model ε = 0", "x, model ε = 0"]),
        ([{"protocol": "a"}, {"protocol": "b"}], [(0, 0), (0, 0)], ["digits a, model ε = 0", "digits b, model ε = 0"]),
    ],
)
def test_labels_say_as_little_as_tells_models_apart(models, changes, rows, expected):
    matrices = [dataclasses.replace(models[0].matrix, **change) for change in changes]
    assert figure_data.labels([Model(matrix, row) for matrix, row in zip(matrices, rows, strict=True)]) == expected


def partly(matrix, *places):
    """A matrix of which only some cells are there."""
    return dataclasses.replace(matrix, cells={p: r if p in places else None for p, r in matrix.cells.items()})


def test_rows_that_are_not_there_yet_are_left_out(models):
    one = partly(models[0].matrix, (1, 1, 0.5))
    assert [model.row for model in choose([one])] == [model.row for model in ends([one])] == [(1, 1)]
    with pytest.raises(StoreError, match="ε = 0: expected an evaluation in the store, got none"):
        choose([one], [(0, 0)])


def test_models_are_compared_at_the_epsilons_that_they_share(shown, models, drawn):
    matrix = models[0].matrix
    some = [Model(partly(matrix, (0, 0, 0), (0, 0, 0.5)), (0, 0)), Model(partly(matrix, (1, 1, 0)), (1, 1))]
    assert figure_data.shared(some) == (0,)
    figures.confusion(shown, some)
    assert [len(line) for line in drawn["confusions"][0]] == [2]
    other = [some[1], Model(partly(matrix, (0, 0, 0.5)), (0, 0))]
    with pytest.raises(InvalidValue, match="expected models with an evaluation epsilon in common, got none"):
        figures.per_class(shown, other)


def test_the_attack_of_a_model_is_that_of_its_matrix(models):
    """Its cell at epsilon 0 may have been made by a run with another attack: both runs share it."""
    matrix, attack = models[0].matrix, dataclasses.replace(models[0].matrix.evaluation.attack, steps=3)
    spec = tiny().cells[0, 0, 0]
    spec = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, attack=attack))
    cells = {**matrix.cells, (0, 0, 0): dataclasses.replace(matrix.cells[0, 0, 0], spec=spec)}
    shared = Model(dataclasses.replace(matrix, cells=cells), (0, 0))
    assert shared.under(5).recipe == tiny().cells[1, 1, 0.5].recipe
    assert shared.under(5).finetune == tiny().cells[0, 0, 0].finetune
    natural = partly(matrix, (0, 0, 0))
    assert Model(natural, (0, 0)).under(0) == tiny().cells[0, 0, 0]
    assert natural.caption().endswith("conv3, no attack")


def test_maps_of_different_images_are_not_drawn_side_by_side(shown, models, monkeypatch, drawn):
    real = shown.features
    calls = iter([None, 20])
    monkeypatch.setattr(shown, "features", lambda model, layer: real(model, layer, limit=next(calls)))
    with pytest.raises(InvalidValue, match="expected models evaluated on the same images, got others for model ε = 1"):
        figures.tsne(shown, models, perplexity=5, iterations=250)


def test_a_data_set_is_read_once(shown, models, monkeypatch):
    calls, real = [], datasets.load
    monkeypatch.setattr(datasets, "load", lambda *arguments: calls.append(arguments) or real(*arguments))
    for model in models:
        shown.features(model, "linear")
    assert len(calls) == 1


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_damaged_files_of_a_training_are_named(finished, tmp_path, models, stage):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    store, spec = Store(tmp_path), next(s for s in models[0].spec.chain if s.stage == stage)
    tamper(store.path(spec) / "history.jsonl", "{")
    other = next(s for s in models[0].spec.chain if s.stage != stage)
    shutil.copy(store.path(other) / "weights.safetensors", store.path(spec) / "weights.safetensors")
    shown = FigureData(store, device="cpu")
    with pytest.raises(StoreError, match=r"history\.jsonl: expected JSON lines, got"):
        figures.training(shown, models, stage)
    with pytest.raises(StoreError, match=r"weights\.safetensors: expected the weights of .*, got others, such as"):
        shown.layers(models[0])


def test_what_was_partly_attacked_is_shown_as_robust_accuracy_and_not_as_confusion(partly, drawn):
    one = FigureData(partly, device="cpu")
    models = choose(one.matrices(["digits"]))
    figures.robustness(one, models)
    curves, label, *_ = drawn["robustness"]
    assert label == "Robust accuracy (%)"
    assert not any(np.isnan(value) for curve in curves.values() for value in curve.values())
    with pytest.raises(InvalidValue, match="expected all images attacked"):
        figures.confusion(one, models)


def test_what_cannot_be_drawn_is_refused(shown, models):
    """What the options of a figure can ask for; all else is right when it is drawn."""
    unknown = dataclasses.replace(models[0].matrix.records[0], mcc=None)
    lacking = Model(dataclasses.replace(models[0].matrix, cells={(0.0, 0.0, 0.0): unknown}), (0.0, 0.0))
    several = [models[0]] * 21
    cases = [
        (figures.robustness, [], {}, "expected a model or more, got none"),
        (figures.robustness, [lacking], {"metric": "mcc"}, "expected evaluations with mcc, got none"),
        (figures.matrix, [lacking], {"metric": "mcc"}, "expected evaluations with mcc, got none"),
        (figures.confusion, [], {}, "expected models of one target, got none"),
        (figures.confusion, models, {"epsilons": (0.7,)}, r"expected an evaluated epsilon, 0, 0\.5, got 0\.7"),
        (figures.per_class, several[:5], {}, "expected up to 4 models, got 5"),
        (figures.tsne_together, several, {}, "expected at most 20 models, got 21"),
        (figures.examples, models, {"epsilon": 1e-7}, "expected images that epsilon 1e-07 turns, got none"),
    ]
    for draw, given, options, message in cases:
        with pytest.raises(InvalidValue, match=message):
            draw(shown, given, **options)
