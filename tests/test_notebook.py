"""docs/notebook.ipynb runs as it stands, in a kernel of its own, and shows what a reader is shown."""

from pathlib import Path

import nbformat
import pytest
from conftest import tiny
from nbclient import NotebookClient

import rossbench
from rossbench.report import figures
from rossbench.report.figure_data import FigureData, choose

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def outputs(notebook):
    """Of each cell of code: the kinds of what it shows, and its texts."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        [
            (sorted(one.get("data", {})), one.get("data", {}).get("text/plain", one.get("text", "")))
            for one in cell.outputs
        ]
        for cell in cells
    ]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    notebook = nbformat.read(NOTEBOOK, 4)
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    return NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()


def test_it_shows_the_kinds_of_outputs_that_were_stored_with_it(executed):
    stored = outputs(nbformat.read(NOTEBOOK, 4))
    found = outputs(executed)
    assert [[kinds for kinds, _ in cell] for cell in found] == [[kinds for kinds, _ in cell] for cell in stored]


def test_a_run_a_record_a_frame_and_a_figure_are_shown(executed):
    run, record, frame, *_, figure = outputs(executed)
    assert "artifacts built in" in run[0][1]
    assert "<Record evaluate digits" in record[0][1]
    assert "conv3 ε=1" in frame[0][1]
    assert "image/png" in figure[0][0]


def test_a_records_repr_is_a_line_and_its_html_a_table(finished):
    record = rossbench.run(tiny(), store=finished, device="cpu")[1, 1, 0.5]
    assert "\n" not in repr(record)
    assert "evaluate digits → digits ε=1 at 0.5, 40 images: top1" in repr(record)
    html = record._repr_html_()
    assert html.startswith("<table>")
    assert record.key in html


def test_dir_offers_what_one_needs():
    assert set(dir(rossbench)) == {*rossbench.__all__, "__version__"}


def test_figures_are_matplotlibs_and_show_themselves(finished):
    data = FigureData(finished, device="cpu")
    drawn = figures.robustness(data, choose(data.matrices(["digits"])))
    assert drawn._repr_png_().startswith(b"\x89PNG")
