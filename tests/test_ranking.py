"""Encoders in order, with records set by hand."""

import csv
import dataclasses
import io
import json

import pytest

from rossbench.report import formats, ranking
from rossbench.store import results
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue
from rossbench.util.statistics import wilson

N = 1000


@pytest.fixture
def made(finished):
    """``made(name, right, target)``: a matrix of an encoder of that name, with so many right of 1000 by epsilon."""
    (base,) = results.load(Store(finished))
    record = base.records[0]

    def make(name, right, target="digits", seed=0, source="digits", number=None):
        number = sum(map(ord, name)) if number is None else number
        pretrain = dataclasses.replace(
            record.spec.finetune.pretrain, weights=f"{number:016x}", source=source, seed=seed
        )
        cells = {}
        for epsilon, count in right.items():
            finetune = dataclasses.replace(record.spec.finetune, pretrain=pretrain, target=target)
            spec = dataclasses.replace(record.spec, finetune=finetune, epsilon=epsilon)
            cells[0.0, 0.0, epsilon] = dataclasses.replace(
                record, spec=spec, key=spec.key, n=N, robust_right=count, top1_right=count, top5_right=N, seed=seed
            )
        named = dataclasses.replace(base, name=f"{source}-to-{target}", source=source, target=target, seed=seed)
        return dataclasses.replace(named, cells=cells, encoder_name=name, protocol=f"{name}{target}", deviations={})

    return make


def shown(found):
    return [(f"{one.rank}{'=' * one.is_tied}", one.model) for one in found.models]


def test_the_mean_is_over_epsilons_above_0_and_then_over_targets(made):
    own = made("a", {0: 950, 0.5: 600, 1: 400})
    transfer = made("a", {0: 850, 0.5: 300, 1: 300}, "digits-low")
    (found,) = ranking.rankings([own, transfer])
    (one,) = found.models
    assert (found.targets, found.epsilons) == (("digits", "digits-low"), (0.5, 1))
    assert (one.mean, one.clean, one.gap) == pytest.approx((0.4, 0.9, 0.2))
    assert (one.low, one.high) == pytest.approx(wilson(800, 2 * N))
    assert ranking.to_table(found).lines == [(["1", "a"], ["40.00", "37.9 to 42.2", "90.00", "+20.00"])]


def test_what_is_within_noise_is_tied(made):
    rates = {"a": 500, "b": 480, "c": 400, "d": 100, "e": 100}
    (found,) = ranking.rankings([made(name, {0: 900, 0.5: right}) for name, right in rates.items()])
    assert shown(found) == [("1=", "a"), ("1=", "b"), ("3", "c"), ("4=", "d"), ("4=", "e")]
    assert found.models[0].gap is None
    assert ranking.to_table(found).bold == {(0, 0), (1, 0)}


def test_over_seeds_noise_is_at_least_their_deviation(made):
    steady = [made("a", {0.5: 500}, seed=seed, number=1) for seed in (0, 1)]
    other = [made("b", {0.5: right}, seed=seed, number=2) for seed, right in ((0, 200), (1, 600))]
    (found,) = ranking.rankings([*steady, *other])
    assert shown(found) == [("1=", "a"), ("1=", "b")]
    assert [one.seeds for one in found.models] == [2, 2]
    assert found.models[1].high == pytest.approx(0.4 + 0.2 * 2**0.5)


def test_models_are_ranked_on_targets_and_epsilons_that_all_of_them_have(made):
    first = [made("a", {0: 900, 0.5: 500, 1: 300}), made("a", {0.5: 400, 1: 200}, "digits-low")]
    second = [made("b", {0: 900, 0.5: 700}), made("b", {0.5: 600}, "digits-low")]
    both, one = ranking.rankings([*first, *second, made("c", {0.5: 100})])
    assert (both.targets, both.epsilons, shown(both)) == (("digits", "digits-low"), (0.5,), [("1", "b"), ("2", "a")])
    assert (one.targets, shown(one)) == (("digits",), [("1", "b"), ("2", "a"), ("3", "c")])
    assert both.models[0].mean == pytest.approx(0.65)
    assert both.models[0].clean == 0.9  # of the target that has it


def test_unlike_protocols_stay_apart(made):
    plain, other = made("a", {0.5: 500}), made("b", {0.5: 400})
    limited = {
        place: dataclasses.replace(r, spec=(spec := dataclasses.replace(r.spec, limit=30)), key=spec.key)
        for place, r in other.cells.items()
    }
    assert len(ranking.rankings([plain, dataclasses.replace(other, cells=limited)])) == 2


def test_equal_names_are_told_by_their_source(made):
    (found,) = ranking.rankings([made("a", {0.5: 500}, number=1), made("a", {0.5: 100}, source="digits-low", number=2)])
    assert shown(found) == [("1", "a of digits"), ("2", "a of digits-low")]


def test_what_cannot_be_ranked_is_refused(made):
    with pytest.raises(InvalidValue, match="expected a metric of top1, top5, robust, got mcc"):
        ranking.rankings([made("a", {0.5: 1})], "mcc")
    with pytest.raises(InvalidValue, match="expected models attacked at an epsilon above 0, got none"):
        ranking.rankings([made("a", {0: 1})])


def test_csv_and_json_hold_every_number(made):
    found = ranking.rankings([made("=a", {0: 900, 0.5: 500}), made("b", {0: 900, 0.5: 100})])
    (content,) = json.loads(ranking.to_json(found))
    rows = list(csv.DictReader(io.StringIO(ranking.to_csv(found))))
    assert [one["mean"] for one in content["models"]] == [float(row["mean"]) for row in rows] == [0.5, 0.1]
    assert [row["model"] for row in rows] == ["'=a", "b"]
    for form in formats.TEXTS.values():
        text = form(ranking.to_table(found[0]))
        assert all(word in text for word in ("50.00", "10.00"))
        assert "ε=mean" not in text
        assert "Evaluation" not in text


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv", "json"])
def test_the_command_prints_it(rossbench, finished, form):
    code, out, _ = rossbench("report", "--ranking", "--store", finished, "--format", form)
    assert code == 0
    assert "conv3" in out
    assert rossbench("report", "--ranking", "--sort", 1, "--store", finished)[0] == 2
