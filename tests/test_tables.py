import csv
import dataclasses
import io
import json
import shutil

import pytest
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rossbench.errors import StoreError, UnknownName
from rossbench.records import read_record
from rossbench.report import tables
from rossbench.store import Store


@pytest.fixture
def matrix(finished):
    (matrix,) = tables.load(Store(finished))
    return matrix


def terminal(matrix, metric="top1", width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(tables.to_rich(matrix, metric))
    return console.file.getvalue()


def test_values_are_those_of_the_records(finished, matrix):
    for place, cell in tiny().cells.items():
        record = read_record(Store(finished).record_path(cell.key))
        assert matrix.value(*place, "top1") == pytest.approx(100 * record.top1_right / 40)
        assert matrix.value(*place, "top5") == pytest.approx(100 * record.top5_right / 40)
        assert matrix.value(*place, "mcc") == record.mcc


@pytest.mark.parametrize("metric", ["top1", "top5", "mcc"])
def test_a_terminal_of_80_columns_shows_the_whole_matrix(matrix, metric):
    text = terminal(matrix, metric)
    assert tables.METRICS[metric] + ", RoSS digits → digits" in text
    for row in (0.0, 1.0):
        for column in (0.0, 0.5):
            assert matrix.text(row, column, metric) in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_run_that_differs_says_so_above_its_table(matrix):
    text = " ".join(terminal(matrix).split())
    assert "REDUCED OR CHANGED PROTOCOL: pretraining.epochs 2 (registered: 10)" in text
    assert "train_limit 60 (registered: all)" in text
    assert "rows 0, 1 (registered: 0, 0.5, 1)" in text
    assert text.index("REDUCED") < text.index("Top-1")


@pytest.mark.parametrize("form", ["markdown", "latex", "json"])
def test_every_format_says_that_a_run_differs(matrix, form):
    assert "REDUCED OR CHANGED PROTOCOL" in tables.FORMATS[form]([matrix], "top1")


def test_csv_has_one_line_a_cell(matrix):
    rows = list(csv.DictReader(io.StringIO(tables.to_csv([matrix], "mcc"))))
    assert [(float(r["train_epsilon"]), float(r["eval_epsilon"])) for r in rows] == sorted(matrix.cells)
    for row in rows:
        place = float(row["train_epsilon"]), float(row["eval_epsilon"])
        assert float(row["value"]) == matrix.cells[place].mcc
        assert row["n"] == "40"
        assert row["notes"].startswith("REDUCED OR CHANGED PROTOCOL")


def test_json_carries_the_records(matrix):
    (content,) = json.loads(tables.to_json([matrix], "top1"))
    assert content["scenario"] == "digits"
    assert content["cells"][0]["record"]["n"] == 40


def test_markdown_and_latex_have_a_line_a_row(matrix):
    markdown = tables.to_markdown([matrix], "top1").splitlines()
    assert f"| 1 | {matrix.text(1, 0, 'top1')} | {matrix.text(1, 0.5, 'top1')} |" in markdown
    latex = tables.to_latex([matrix], "top1")
    assert rf"1 & {matrix.text(1, 0, 'top1')} & {matrix.text(1, 0.5, 'top1')} \\" in latex
    assert r"train\_limit 60" in latex
    assert "→" not in latex
    assert "ε" not in latex


def test_a_missing_cell_shows_as_missing_in_every_format(finished, tmp_path):
    store = tmp_path / "copy"
    shutil.copytree(finished, store)
    shutil.rmtree(store / "evaluate" / tiny().cells[1.0, 0.5].key)
    (matrix,) = tables.load(Store(store))
    assert matrix.value(1.0, 0.5, "top1") is None
    assert "1 of 4 cells are missing, shown as —" in terminal(matrix)
    assert terminal(matrix).splitlines()[-3].endswith("│     — ")
    assert "| — |" in tables.to_markdown([matrix], "top1")
    assert r"& -- \\" in tables.to_latex([matrix], "top1")
    assert ',top1,,,,"REDUCED' in tables.to_csv([matrix], "top1")
    assert json.loads(tables.to_json([matrix], "top1"))[0]["cells"][-1]["value"] is None


def test_rows_with_columns_of_their_own_leave_cells_missing_in_every_format(finished, tmp_path):
    from rossbench import runner

    runner.run(tiny(train_epsilons=(0,), eval_epsilons=(0, 0.5)), store=tmp_path, device="cpu")
    runner.run(tiny(train_epsilons=(1,), eval_epsilons=(0.25,)), store=tmp_path, device="cpu")
    (matrix,) = tables.load(Store(tmp_path))
    assert (len(matrix.cells), len(matrix.records)) == (6, 3)
    assert len(list(csv.DictReader(io.StringIO(tables.to_csv([matrix], "top1"))))) == 6
    assert len(json.loads(tables.to_json([matrix], "top1"))[0]["cells"]) == 6
    assert terminal(matrix).count("—") == 3 + 1  # and once in the note that says so


def test_a_wide_matrix_is_split_and_nothing_of_it_cut(matrix):
    columns = [k / 20 for k in range(21)]
    cells = {(row, column): matrix.cells[row, 0.5] for row in (0.0, 1.0) for column in columns}
    text = terminal(dataclasses.replace(matrix, cells=cells))
    assert "…" not in text
    assert all(f"ε={column:.4g} " in text + " " for column in columns)
    assert max(map(len, text.splitlines())) <= 80


def test_another_seed_is_said_above_the_table(matrix):
    assert "seed 5 (registered: 0)" in terminal(dataclasses.replace(matrix, seed=5))


def test_an_attack_is_described_by_a_cell_that_was_attacked(matrix):
    attack = matrix.cells[0.0, 0.5].spec["recipe"]["attack"]
    attack["steps"] = 17
    assert "17 steps" in matrix.caption()


@pytest.mark.parametrize("change", [{"schema": 0}, {"extra": 1}])
def test_a_note_of_another_schema_is_named(finished, tmp_path, change):
    store = tmp_path / "copy"
    shutil.copytree(finished, store)
    (path,) = (store / "matrices").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match="expected the note of a run, of schema 1") as raised:
        tables.load(Store(store))
    assert str(path) in str(raised.value)


def test_a_damaged_record_of_another_scenario_is_not_in_the_way(finished, tmp_path):
    from rossbench import runner

    store = tmp_path / "copy"
    shutil.copytree(finished, store)
    other = tiny("digits-low-to-high", train_epsilons=(0,), eval_epsilons=(0,))
    runner.run(other, store=store, device="cpu")
    Store(store).record_path(other.cells[0, 0].key).write_text("{")
    assert len(tables.load(Store(store), ["digits"])) == 1


def test_the_best_of_a_column_is_bold(matrix):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(tables.to_rich(matrix, "top1"))
    best = max(matrix.text(row, 0.0, "top1") for row in (0.0, 1.0))
    assert f"\x1b[1m{best}\x1b[0m" in console.file.getvalue()


def test_names_choose_and_an_unknown_one_is_refused(finished):
    assert [m.name for m in tables.load(Store(finished), ["digits"])] == ["digits"]
    with pytest.raises(UnknownName, match=r"unknown scenario in .* 'digit'; did you mean digits"):
        tables.load(Store(finished), ["digit"])


def test_runs_with_one_protocol_are_one_matrix_and_others_stay_apart(finished, tmp_path):
    from rossbench import runner

    store = tmp_path / "copy"
    shutil.copytree(finished, store)
    runner.run(tiny(eval_epsilons=(0.25,)), store=store, device="cpu")
    runner.run(tiny(test_limit=30, train_epsilons=(0,), eval_epsilons=(0,)), store=store, device="cpu")
    narrow, wide = sorted(tables.load(Store(store)), key=lambda m: len(m.cells))
    assert wide.columns == [0, 0.25, 0.5]
    assert len(wide.records) == 6
    assert len(narrow.records) == 1


@given(st.text(max_size=30))
def test_latex_escapes_whatever_a_name_holds(text):
    escaped = tables._latex(text)
    for command in tables._LATEX.values():
        escaped = escaped.replace(command, "")
    assert not set(escaped) & set("&%#_{}~^")
