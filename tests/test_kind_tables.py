"""Tables and figures of evaluation kinds, from a store that holds them."""

import re

import numpy as np
import pytest
from conftest import tiny

from rossbench.config.kinds import Kind
from rossbench.report import figures, kind_tables
from rossbench.report.figure_data import FigureData, choose
from rossbench.store import artifacts, results
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue, StoreError


@pytest.fixture
def matrices(measured):
    return results.load(Store(measured), ["digits"])


def test_each_kind_has_a_table_of_its_measures_and_models(matrices):
    titles = [table.title for table in kind_tables.tables(matrices)]
    assert titles[0].startswith("Top-1 accuracy")
    assert [title.split(",")[0] for title in titles[1:]] == [
        *["Displacement of features"] * 2,
        "Does displacement foretell accuracy? RoSS digits → digits",
        *["Accuracy under corruptions"] * 2,
        *["Smallest perturbations"] * 2,
    ]
    features = next(table for table in kind_tables.of_kinds(matrices) if table.title.startswith("Displacement"))
    assert features.lines[0][0] == ["displacement, median", "ε=0"]
    assert features.columns == ["ε=0", "ε=0.5"]
    assert features.lines[0][1][0] == "0.000"


def test_counts_in_a_summary_are_whole(matrices):
    summary = next(table for table in kind_tables.of_kinds(matrices) if "corruptions, summary" in table.title)
    assert summary.columns[1] == "built-in corruptions"
    assert summary.lines[0][1][1] == "11"


@pytest.mark.parametrize("name", ["distances", "corruptions", "displacement"])
def test_a_figure_is_drawn_of_what_was_measured(measured, finished, name):
    data = FigureData(measured, device="cpu")
    drawn = getattr(figures, name)(data, choose(data.matrices(["digits"])))
    assert drawn._repr_png_().startswith(b"\x89PNG")
    without = FigureData(finished, device="cpu")
    with pytest.raises(StoreError, match="rossbench run --kind"):
        getattr(figures, name)(without, choose(without.matrices(["digits"])))


def test_displacement_is_drawn_at_an_epsilon_that_all_have(measured):
    data = FigureData(measured, device="cpu")
    models = choose(data.matrices(["digits"]))
    drawn = figures.displacement(data, models, 0.5)
    shown = sorted(float(line.get_xdata()[0]) for line in drawn.axes[0].lines)
    (matrix,) = data.matrices(["digits"])
    rows = [matrix.measures[Kind("features"), (epsilon, epsilon)].rows for epsilon in (0, 1)]
    assert shown == pytest.approx(sorted(one["displacement, median"][1] for one in rows))
    with pytest.raises(InvalidValue, match=r"expected one that all models have, 0\.5, got 1"):
        figures.displacement(data, models, 1.0)


def test_the_curve_of_distances_goes_through_robust_accuracy(measured):
    data = FigureData(measured, device="cpu")
    (matrix,) = data.matrices(["digits"])
    one = matrix.measures[Kind("minimal", steps=5), (1, 1)]
    distances = artifacts.load_measured(data.store, one.spec)["distance"].numpy()
    accuracy = [100 * np.mean(distances > epsilon) for epsilon in one.spec.columns]
    assert one.rows["robust accuracy (%)"] == pytest.approx(accuracy)


def test_the_page_has_the_tables_and_figures_of_kinds(rossbench, measured):
    code, _, err = rossbench("report", "digits", "--out", measured, "--html", "page.html", "--device", "cpu")
    assert (code, err) == (0, "")
    with open("page.html", encoding="utf-8") as file:
        page = file.read()
    for text in ("Smallest perturbations, L2, 5 steps", "linear CKA"):
        assert text in page
    for caption in (
        "Accuracy under each corruption",
        "Robust accuracy at every strength",
        "Displacement of the encoders",
    ):
        assert re.search(rf"Figure \d+\.</b> {caption}", page)


def test_a_kind_alone_is_a_report_too(rossbench):
    from rossbench.runner import run

    run.run(tiny(), store="alone", device="cpu", kinds=["features"])
    code, out, _ = rossbench("report", "--out", "alone")
    assert code == 0
    assert "linear CKA" in out
    assert "Top-1" not in out
    assert rossbench("report", "--out", "alone", "--html", "page.html")[0] == 0
