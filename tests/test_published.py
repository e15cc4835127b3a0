import collections
import dataclasses

import pytest
from rich.console import Console

from rossbench import registry
from rossbench.report import formats
from rossbench.report.published import compare, comparison_table, published, refusals
from rossbench.store import results
from rossbench.store.records import Record
from rossbench.util.errors import InvalidValue

TABLES = {table.number: table for table in published()}


# --- the transcription -------------------------------------------------------------------------------------


def test_seven_tables_of_six_by_six_of_rows_of_their_scenarios():
    assert list(TABLES) == ["5.1", "5.2", "5.3", "5.4", "5.5", "5.6", "5.7"]
    for table in published():
        assert table.columns == (0, 0.2, 0.4, 0.6, 0.8, 1)
        assert [len(line.values) for line in table.rows] == [6] * 6
        assert table.section.startswith("5.4.")
        for line in table.rows:
            scenario = registry.get(line.scenario)
            assert line.model in scenario.rows
            assert line.minus is None or line.minus in scenario.rows
            assert table.columns == scenario.eval_epsilons


# Of each row, added up by hand from the printed pages.
SUMS = {
    "5.1": [142.92, 259.57, 283.91, 292.14, 295.72, 287.66],
    "5.2": [79.38, 152.27, 166.43, 167.98, 166.93, 156.54],
    "5.3": [0.742, 1.479, 1.621, 1.637, 1.628, 1.524],
    "5.4": [122.03, 236.51, 261.0, 270.21, 270.52, 264.27],
    "5.5": [71.25, 139.62, 152.58, 152.87, 149.38, 134.64],
    "5.6": [288.28, 272.1, 264.45, 246.91, 16.18, 17.54],
    "5.7": [156.5, 152.04, 134.72, 131.6, 4.46, 3.12],
}


@pytest.mark.parametrize("number", TABLES)
def test_the_rows_add_up(number):
    found = [sum(line.values) for line in TABLES[number].rows]
    assert found == pytest.approx(SUMS[number], abs=1e-6)


@pytest.mark.parametrize("number", ["5.6", "5.7"])
def test_improvements_are_the_differences_of_their_own_rows(number):
    rows = {(line.scenario, line.model): line.values for line in TABLES[number].rows if line.minus is None}
    gains = [line for line in TABLES[number].rows if line.minus is not None]
    assert len(gains) == 2
    for line in gains:
        robust, standard = rows[line.scenario, line.model], rows[line.scenario, line.minus]
        assert [a - b for a, b in zip(robust, standard, strict=True)] == pytest.approx(line.values, abs=0.0051)


def test_mcc_and_accuracy_of_the_same_models_agree():
    """On a balanced test set with evenly spread predictions MCC is (accuracy - 1/N) / (1 - 1/N)."""
    for accuracy, mcc in zip(TABLES["5.2"].rows, TABLES["5.3"].rows, strict=True):
        expected = [(value / 100 - 0.01) / 0.99 for value in accuracy.values]
        assert expected == pytest.approx(mcc.values, abs=0.004)


def test_what_the_text_says_of_the_tables():
    """Section 5.4.3: a drop of 16.82 and a gain of 37.08 in table 5.1, a gain of 8.47 for C100 to C10; 5.4.1: 13.34."""
    first, second = ({line.model[0]: line.values for line in TABLES[n].rows} for n in ("5.1", "5.2"))
    assert first[0][0] - first[1][0] == pytest.approx(16.82)
    assert first[1][-1] - first[0][-1] == pytest.approx(37.08)
    assert second[0][0] - second[1][0] == pytest.approx(13.34)
    assert max(max(line.values) for line in TABLES["5.6"].rows if line.minus) == 8.47


def test_more_robust_training_costs_natural_accuracy_in_every_table():
    """A slip of a row or a column would break the order."""
    for number in ("5.1", "5.2", "5.3", "5.4", "5.5"):
        natural = [line.values[0] for line in TABLES[number].rows]
        assert natural == sorted(natural, reverse=True)
        for line in TABLES[number].rows:
            assert list(line.values) == sorted(line.values, reverse=True)


# --- the comparison ----------------------------------------------------------------------------------------


def record(cell, top1):
    given = dict.fromkeys(field.name for field in dataclasses.fields(Record) if field.name != "schema")
    given |= {"key": cell.key, "spec": cell, "n": 10_000, "mcc": 0.0, "scenario": "x", "deviations": {}, "classes": 10}
    given |= {"seed": cell.seed, "top1_right": max(0, round(100 * top1)), "top5_right": 10_000, "wilson95": {}}
    return Record(**{**given, "seconds": {"evaluate": 1.0}, "created": "", "provenance": {}})


def matrix_of(scenario, cells, **changes):
    """A run of a scenario that is registered as it is."""
    names = ("name", "source", "target", "protocol", "family", "seed")
    registered = {"rows": tuple(scenario.rows), "columns": scenario.eval_epsilons, "seed": 0}
    known = {name: getattr(scenario, name) for name in names} | {"deviations": {}, "cells": cells}
    known |= {f"registered_{name}": item for name, item in registered.items()}
    return results.ResultMatrix(**known | changes)


def matrix(name, shift=0.0, rows=None, ran=None, **changes):
    """A run (of the scenario as registered, or of ``ran``) that gave the published numbers, and so much more."""
    scenario = ran or registry.get(name)
    values = collections.ChainMap(
        *(
            {line.model: line.values for line in table.rows if line.scenario == name and line.minus is None}
            for table in published()
            if table.metric == "top1"
        )
    )
    found = {
        (*model, column): record(scenario.cells[*model, column], values[model][k] + shift)
        for model in rows or scenario.rows
        for k, column in enumerate(scenario.eval_epsilons)
    }
    return matrix_of(scenario, found, **changes)


def changed(**changes):
    return dataclasses.replace(registry.get("cifar10-to-cifar10"), **changes)


def only(comparisons, number="5.1"):
    (one,) = (one for one in comparisons if one.table.number == number)
    return one


@pytest.mark.parametrize(("shift", "tolerance", "near"), [(0, 0, 36), (0.5, 0.49, 0), (0.5, 0.5, 36), (-0.15, 0.2, 36)])
def test_a_run_in_the_published_order_agrees_and_cells_within_a_tolerance_are_counted(shift, tolerance, near):
    one = only(compare([matrix("cifar10-to-cifar10", shift)]))
    assert one.refusal is None
    assert one.within(tolerance) == (near, 36)
    assert shift or one.agreement() == pytest.approx([1] * 6)


def test_rows_in_the_opposite_order_disagree():
    straight = matrix("cifar10-to-cifar10")
    turned = {
        place: dataclasses.replace(found, top1_right=found.n - found.top1_right)
        for place, found in straight.cells.items()
    }
    one = only(compare([dataclasses.replace(straight, cells=turned)]))
    assert one.agreement() == pytest.approx([-1] * 6)


def test_with_one_row_there_is_no_order_and_without_a_published_cell_no_comparison():
    one = only(compare([matrix("cifar10-to-cifar10", rows=[(0, 0)])]))
    assert (one.agreement(), one.within(0)) == ([None] * 6, (6, 6))
    elsewhere = changed(train_epsilons=(0.1,), eval_epsilons=(0.3,))
    cells = {place: record(cell, 50) for place, cell in elsewhere.cells.items()}
    for other in ({"cells": cells}, {"name": "digits"}):
        with pytest.raises(InvalidValue, match=r"expected runs with published .*, cifar10-to-cifar10[:,] .*; got "):
            compare([dataclasses.replace(matrix("cifar10-to-cifar10"), **other)])


def test_a_table_of_two_scenarios_takes_both_and_shows_gains():
    runs = [matrix("cifar10-to-cifar10-finetuning"), matrix("cifar100-to-cifar10-finetuning", 1)]
    one = only(compare(runs), "5.6")
    gain = next(line for line in one.table.rows if line.minus and line.scenario == "cifar100-to-cifar10-finetuning")
    assert one.ours(gain) == pytest.approx(gain.values, abs=0.0051)
    assert one.within(0.0051) == (24, 36)
    assert one.within(1.01) == (36, 36)


def test_without_the_other_scenario_its_rows_are_left_out():
    one = only(compare([matrix("cifar10-to-cifar10-finetuning")]), "5.6")
    shown = comparison_table(one, 2)
    assert [labels[1] for labels, _ in shown.lines] == ["ours", "published", "difference"] * 3 + ["Kendall τ"]
    assert "3 of 6 published rows were not run" in shown.notes
    assert "18 of 18 cells within 2 points" in shown.caption


def test_ours_published_and_difference_stand_below_each_other():
    shown = comparison_table(only(compare([matrix("cifar10-to-cifar10", 1.5)])), 2)
    assert shown.lines[0] == (["cifar10", "ours"], ["76.29", "44.95", "19.64", "6.71", "2.62", "1.71"])
    assert shown.lines[1] == (["→ cifar10", "published"], ["74.79", "43.45", "18.14", "5.21", "1.12", "0.21"])
    assert shown.lines[2] == (["ε=0", "difference"], ["+1.50"] * 6)
    assert "36 of 36 cells within 2 points" in shown.caption
    assert not shown.notes


def test_mcc_has_a_hundredth_of_the_tolerance():
    near = matrix("cifar100-to-cifar100")
    values = {line.model: line.values for line in TABLES["5.3"].rows}
    found = {
        place: dataclasses.replace(old, mcc=values[place[:2]][near.columns.index(place[2])] + 0.015)
        for place, old in near.cells.items()
    }
    one = only(compare([dataclasses.replace(near, cells=found)]), "5.3")
    assert "36 of 36 cells within 0.02" in comparison_table(one, 2).caption
    assert "0 of 36 cells within 0.01" in comparison_table(one, 1).caption


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"deviations": {"recipe.pretraining.epochs": [3, 500]}},
            "reduced or changed protocol: pretraining.epochs 3 (registered: 500)",
        ),
        # Notes that say nothing of it, over records of another run:
        ({"ran": changed(test_limit=200)}, "another protocol than cifar10-to-cifar10 is registered with now"),
        ({"ran": changed(seed=3), "seed": 0}, "another protocol than cifar10-to-cifar10 is registered with now"),
        ({"ran": changed(encoder="resnet34")}, "another protocol than cifar10-to-cifar10 is registered with now"),
    ],
)
def test_another_protocol_is_refused_with_the_reason_and_shown_under_a_label(changes, reason):
    one = only(compare([matrix("cifar10-to-cifar10", **changes)]))
    assert reason in one.refusal
    assert f"NOT COMPARABLE: {one.refusal}" in comparison_table(one, 2).notes
    assert refusals([one, one]) == [f"{one.refusal} (tables 5.1, 5.1)"]


def test_another_seed_may_be_compared_and_is_named():
    found = compare([matrix("cifar10-to-cifar10"), matrix("cifar10-to-cifar10", ran=changed(seed=3))])
    assert [one.refusal for one in found] == [None, None]
    assert [comparison_table(one, 2).caption.split(":")[0] for one in found] == [
        "Section 5.4.1, seed 0",
        "Section 5.4.1, seed 3",
    ]


def test_runs_under_several_protocols_are_compared_apart():
    reduced = matrix("cifar10-to-cifar10", deviations={"test_limit": [200, None]}, protocol="1" * 8)
    stale = matrix("cifar10-to-cifar10", ran=changed(test_limit=200))
    found = compare([reduced, matrix("cifar10-to-cifar10"), stale, stale])
    assert [one.refusal is None for one in found] == [False, True, False, False]


# The protocol that stands for the study's: when it changes, published numbers are compared with something else.
PINNED = {
    "cifar10-to-cifar10": "5d6af351",
    "cifar10-to-cifar100": "a74a6e18",
    "cifar100-to-cifar10": "48fd58ee",
    "cifar100-to-cifar100": "71bb7d3d",
}


@pytest.mark.parametrize("name", sorted({name for table in published() for name in table.scenarios}))
def test_the_protocol_beside_the_published_numbers_never_changes_without_notice(name):
    assert registry.get(name).protocol == PINNED[name.removesuffix("-finetuning")]


def test_a_whole_table_fits_a_terminal_of_80_columns(capsys):
    one = only(compare([matrix("cifar100-to-cifar100", -10)]), "5.2")
    Console(width=80).print(formats.to_rich(comparison_table(one, 2), 80))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("ε=1 ") == 2  # one head, one row: nothing was split
