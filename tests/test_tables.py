import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
import re
import shutil
import statistics

import pytest
from conftest import TEXTS, changed, collapsed, refusal, tiny, under
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from rossbench import registry
from rossbench.config.scenarios import Suite
from rossbench.report import formats, tables
from rossbench.report.model import families
from rossbench.runner import run as runner
from rossbench.store import results
from rossbench.store.metrics import METRICS
from rossbench.store.records import Audit, Verdict
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue, UnknownName


def terminal(matrix, metric="top1", width=80, **console):
    console = Console(file=io.StringIO(), width=width, **console)
    console.print(formats.to_rich(table_of(matrix, metric), width))
    return console.file.getvalue().replace("┃", "│")


def table_of(matrix, metric="top1"):
    return tables.over_seeds([matrix], metric)


def shown(matrix, row, column, metric):
    return METRICS[metric].text(matrix.value(row, column, metric))


def in_form(matrix, form, metric="top1"):
    if form in formats.TEXTS:
        return formats.TEXTS[form](table_of(matrix, metric))
    return formats.DATA[form]([matrix], metric)


def with_rates(matrix, rates, columns=(0, 0.2, 0.4, 0.6, 0.8, 1)):
    """The matrix with these top-1 rates in percent, a line a model, for its cells; None: missing."""
    record = dataclasses.replace(matrix.records[0], n=1_000_000)
    cells = {
        (*row, column): None if rate is None else dataclasses.replace(record, top1_right=round(10_000 * rate))
        for row, line in rates.items()
        for column, rate in zip(columns, line, strict=True)
    }
    return dataclasses.replace(matrix, cells=cells, registered_rows=tuple(rates), registered_columns=tuple(columns))


# Of the study's table 5.6: a robust encoder with a standard and with an adversarial head.
HEADS = {(1, 0): [61.57, 55.41, 48.79, 41.78, 35.23, 29.32], (1, 1): [58.44, 54.58, 50.41, 45.95, 41.62, 37.28]}
IMPROVEMENT = ["-3.13", "-0.83", "+1.62", "+4.17", "+6.39", "+7.96"]


@pytest.mark.parametrize(
    ("value", "metric", "sign", "text"),
    [
        (None, "mcc", "+", "—"),
        (58.4449, "top1", "", "58.44"),
        (100.0, "f1", "", "100.00"),
        (-0.0084, "mcc", "", "-0.008"),
        (0.0, "top1", "+", "+0.00"),
        (0.25, "mcc", "+", "+0.250"),
    ],
)
def test_numbers_are_printed_as_the_study_does(value, metric, sign, text):
    assert METRICS[metric].text(value, sign) == text


@pytest.mark.parametrize("metric", METRICS)
def test_a_terminal_of_80_columns_shows_the_whole_matrix(matrix, metric):
    text = terminal(matrix, metric)
    assert METRICS[metric].label + ", RoSS digits → digits" in text
    for row in ((0, 0), (1, 1)):
        for column in (0.0, 0.5):
            assert shown(matrix, row, column, metric) in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("form", [*formats.TEXTS, *formats.DATA])
def test_every_format_has_every_cell_and_says_that_a_run_differs(matrix, form):
    text = in_form(matrix, form)
    assert "REDUCED OR CHANGED PROTOCOL" in text
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(formats.to_csv([matrix], "mcc"))))
        places = [tuple(float(row[f"{name}_epsilon"]) for name in ("train", "finetune", "eval")) for row in rows]
        assert {place: float(row["value"]) for place, row in zip(places, rows, strict=True)} == {
            place: record.mcc for place, record in matrix.cells.items()
        }
        assert all((row["n"], row["seed"], row["notes"][:7]) == ("40", "0", "REDUCED") for row in rows)
    elif form == "json":
        (content,) = json.loads(text)
        epsilons = [(one["train_epsilon"], one["finetune_epsilon"], one["eval_epsilon"]) for one in content["cells"]]
        assert (content["scenario"], epsilons) == ("digits", list(matrix.cells))
        assert {one["record"]["n"] for one in content["cells"]} == {40}
        assert [one["value"] for one in content["cells"]] == [
            pytest.approx(100 * record.top1_right / 40) for record in matrix.records
        ]


def test_a_run_that_differs_says_so_above_its_table(matrix):
    text = " ".join(terminal(dataclasses.replace(matrix, seed=5)).split())
    assert "seed 5 (registered: 0)" in text
    assert "REDUCED OR CHANGED PROTOCOL: pretraining.epochs 2 (registered: 10)" in text
    assert "train_limit 60 (registered: all)" in text
    assert "rows 0, 1 (registered: 0, 0.5, 1)" in text
    assert text.index("REDUCED") < text.index("Top-1")


def test_a_missing_cell_shows_as_missing_in_every_format(finished, tmp_path):
    store = tmp_path / "copy"
    shutil.copytree(finished, store)
    shutil.rmtree(store / "evaluate" / tiny().cells[1.0, 1.0, 0.5].key)
    (matrix,) = results.load(Store(store))
    assert matrix.value((1, 1), 0.5, "top1") is None
    assert "1 of 4 cells are missing, shown as —" in terminal(matrix)
    assert terminal(matrix).splitlines()[-3].endswith("│     — ")
    assert "| — |" in in_form(matrix, "markdown")
    assert r"& -- \\" in in_form(matrix, "latex")
    assert ',top1,,,,,"REDUCED' in in_form(matrix, "csv")
    assert json.loads(in_form(matrix, "json"))[0]["cells"][-1]["value"] is None


@pytest.mark.parametrize("width", [80, 60, 47])
def test_a_wide_matrix_with_two_label_columns_is_split_and_nothing_of_it_cut(matrix, width):
    columns = [k / 20 for k in range(21)]
    rates = {row: [k + 10 * row[1] for k in range(21)] for row in ((0, 0), (1, 0), (1, 1))}
    text = terminal(with_rates(matrix, rates, columns), width=width)
    assert "…" not in text
    found = {}
    for line in text.splitlines():
        if "│" in line:
            first, second, *cells = (part.strip() for part in line.split("│"))
            found.setdefault((first, second), []).extend(cells)
    assert found == {
        ("pretrained ε", "finetuned ε"): [f"ε={column:.4g}" for column in columns],
        **{tuple(map(str, row)): [f"{rate:.2f}" for rate in line] for row, line in rates.items()},
        ("1", "improvement"): ["+10.00"] * 21,
    }
    assert text.count("pretrained ε") >= 3
    assert max(map(len, text.splitlines())) <= width


def test_the_attack_is_described_as_the_spec_has_it(matrix):
    found = matrix.cells[1.0, 1.0, 0.5]
    recipe = dataclasses.replace(found.spec.recipe, attack=dataclasses.replace(found.spec.recipe.attack, steps=17))
    other = under(found, recipe=recipe)
    assert "17 steps" in dataclasses.replace(matrix, cells={**matrix.cells, (1.0, 1.0, 0.5): other}).caption()


def test_a_table_says_that_another_version_of_the_attack_made_it(matrix):
    older = {
        place: under(record, recipe=dataclasses.replace(record.spec.recipe, attack_version=2))
        for place, record in matrix.cells.items()
    }
    before = dataclasses.replace(matrix, cells=older)
    assert [note for note in before.notes() if "another version of the attack" in note]
    assert not [note for note in matrix.notes() if "another version of the attack" in note]


def test_a_table_says_that_only_correct_images_were_attacked(matrix, partly):
    (partly,) = results.load(Store(partly))
    assert matrix.caption().endswith("PGD-L2, 20 steps of 3")
    assert partly.caption().endswith("PGD-L2, 20 steps of 3, of images right without it")
    assert "evaluation.attacked correct (registered: all)" in partly.notes()[0]
    assert "evaluation.attacked" not in matrix.notes()[0]


def test_where_only_correct_images_were_attacked_robust_accuracy_is_the_same_and_the_count_is_missing(matrix, partly):
    (partly,) = results.load(Store(partly))
    assert (matrix.metric, partly.metric) == ("top1", "robust")
    robust, whole = (table_of(one, "robust") for one in (partly, matrix))
    assert (robust.title, robust.lines, robust.bold) == (whole.title, whole.lines, whole.bold)
    assert robust.title == "Robust accuracy (%), RoSS digits → digits"
    assert "—" not in terminal(partly, "robust")
    assert [cells for _, cells in table_of(partly).lines] == [
        [shown(matrix, row, 0, "top1"), "—"] for row in matrix.rows
    ]


def write_note(root, note):
    """The file of the one run's note, under the name that its content gives it."""
    body, folder = json.dumps(note).encode(), root / "matrices"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    path = folder / f"digits-97a35d56-{hashlib.sha256(body).hexdigest()[:8]}.json"
    path.write_bytes(body)
    return path


BOLD = [
    # rates, a line a model, a value a column; which are bold, of a million images
    ([[46.001], [46.004], [45]], {(0, 0), (1, 0)}),
    ([[1, 9], [5, 3]], {(1, 0), (0, 1)}),
    ([[0, 0], [0, 1]], {(1, 1)}),
    ([[0, None], [None, 0]], set()),
    ([[9, 100], [10, 20]], {(1, 0), (0, 1)}),
    ([[None, 3], [None, 2]], {(0, 1)}),
    ([[4, 3]], set()),
]


@pytest.mark.parametrize(("rates", "bold"), BOLD, ids=[str(rates) for rates, _ in BOLD])
def test_what_is_best_of_a_column_beyond_noise_is_bold(matrix, rates, bold):
    """Those within noise of the best too; where all are, or nothing is known, none is."""
    lines = {(k, k): line for k, line in enumerate(rates)}
    given = with_rates(matrix, lines, range(len(rates[0])))
    table = table_of(given)
    assert table.bold == bold
    assert ("bold: no other is better by more than noise" in table.caption) == bool(bold)
    assert formats.to_latex(table).count(r"\textbf{") == len(bold)
    text = terminal(given, force_terminal=True, color_system="standard")
    assert len(re.findall(r"\x1b\[1m[\d.]+\x1b\[0m", text)) == len(bold)


def test_no_failed_audit_and_no_collapsed_encoder_is_the_best(matrix):
    given = with_rates(matrix, {(0, 0): [90], (0.5, 0.5): [80], (1, 1): [70]}, (0,))
    assert table_of(given).bold == {(0, 0)}
    audit = Audit.__new__(Audit)
    object.__setattr__(audit, "verdicts", (Verdict("a", "fail", "b", "c"),))
    failed = dataclasses.replace(given, audits={(0, 0): audit})
    assert table_of(failed).bold == {(1, 0)}
    cells = {**given.cells, (0.5, 0.5, 0): collapsed(given.cells[0.5, 0.5, 0])}
    assert table_of(dataclasses.replace(failed, cells=cells)).bold == set()  # one is left, beside nobody


def test_a_caption_in_latex_has_no_hash_and_a_table_a_label(matrix):
    latex = in_form(matrix, "latex")
    assert matrix.protocol not in latex
    assert "digits, seed 0: 40 test images" in latex
    assert r"\label{tab:top-1-accuracy-ross-digits-digits}" in latex


def test_runs_with_one_protocol_are_one_matrix_and_others_stay_apart(finished, tmp_path):
    store = tmp_path / "copy"
    shutil.copytree(finished, store)
    runner.run(tiny(eval_epsilons=(0.25,)), store=store, device="cpu")
    runner.run(tiny(test_limit=30, train_epsilons=(0,), eval_epsilons=(0,)), store=store, device="cpu")
    narrow, wide = sorted(results.load(Store(store)), key=lambda m: len(m.cells))
    assert wide.columns == [0, 0.25, 0.5]
    assert len(wide.records) == 6
    assert len(narrow.records) == 1


# --- standard and adversarial heads --------------------------------------------------------------------------


def test_two_heads_of_one_pretraining_have_two_labels_and_an_improvement(matrix):
    """The study's table 5.6: robust minus standard, with a sign."""
    table = with_rates(matrix, HEADS)
    grid = table_of(table)
    numbers = [[f"{rate:.2f}" for rate in line] for line in HEADS.values()] + [IMPROVEMENT]
    lines = [["1", label, *line] for label, line in zip(("0", "1", "improvement"), numbers, strict=True)]
    assert (grid.labels, grid.columns) == (["pretrained ε", "finetuned ε"], ["0", "0.2", "0.4", "0.6", "0.8", "1"])
    assert [[*labels, *cells] for labels, cells in grid.lines] == lines
    assert grid.bold == {(0, 0), (0, 1), (1, 2), (1, 3), (1, 4), (1, 5)}
    assert grid.notes == matrix.notes()[:1]
    assert grid.title == "Top-1 accuracy (%), RoSS digits → digits"
    markdown = [line for line in in_form(table, "markdown").splitlines() if line.startswith("|")]
    assert markdown == [
        "| pretrained ε | finetuned ε | ε=0 | ε=0.2 | ε=0.4 | ε=0.6 | ε=0.8 | ε=1 |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(f"| {' | '.join(line)} |" for line in lines),
    ]
    bold = r"\textbf{{{}}}".format
    latex = in_form(table, "latex").splitlines()
    begin = latex.index(r"\toprule")
    assert latex[begin - 1 : latex.index(r"\bottomrule")] == [
        r"\begin{tabular}{rrrrrrrr}",
        r"\toprule",
        r"& & \multicolumn{6}{c}{Evaluation $\varepsilon$} \\",
        r"pretrained $\varepsilon$ & finetuned $\varepsilon$ & 0 & 0.2 & 0.4 & 0.6 & 0.8 & 1 \\",
        r"\midrule",
        *(rf"{' & '.join(line)} \\" for line in ([*lines[0][:2], *map(bold, lines[0][2:4]), *lines[0][4:]],)),
        *(rf"{' & '.join(line)} \\" for line in ([*lines[1][:4], *map(bold, lines[1][4:])], lines[2])),
    ]


@pytest.mark.parametrize(
    ("rates", "labels"),
    [
        ({(0, 0): [1], (1, 1): [2]}, [["0"], ["1"]]),
        ({(1, 0): [1]}, [["1", "0"]]),
        ({(0, 0): [1], (1, 0): [2]}, [["0", "0"], ["1", "0"]]),
        ({(0, 0): [1], (0, 1): [2]}, [["0", "0"], ["0", "1"], ["0", "improvement"]]),
        (
            {(0.5, 0): [1], (0.5, 0.5): [2], (1, 0): [1], (1, 1): [2]},
            [["0.5", "0"], ["0.5", "0.5"], ["1", "0"], ["1", "1"], ["0.5", "improvement"], ["1", "improvement"]],
        ),
    ],
    ids=str,
)
def test_a_line_is_labelled_by_what_it_is_of(matrix, rates, labels):
    grid = table_of(with_rates(matrix, rates, (0,)))
    assert [label for label, _ in grid.lines] == labels
    assert len(grid.labels) == len(labels[0])


@pytest.mark.parametrize(
    ("standard", "robust", "text"),
    [(10, 12.5, "+2.50"), (12.5, 10, "-2.50"), (10, 10, "+0.00"), (None, 10, "—"), (10, None, "—"), (None, None, "—")],
)
def test_an_improvement_needs_both_cells(matrix, standard, robust, text):
    grid = table_of(with_rates(matrix, {(1, 0): [standard, 1], (1, 1): [robust, 2]}, (0, 1)))
    assert grid.lines[-1] == (["1", "improvement"], [text, "+1.00"])


@pytest.mark.parametrize(
    ("rates", "note"),
    [
        ({(1, 0): [1], (1, 1): [1]}, None),
        ({(1, 0): [1]}, "rows 1:0 (registered: 1:0, 1)"),
        ({(1, 1): [1]}, "rows 1 (registered: 1:0, 1)"),
        ({(0, 0): [1], (1, 0): [1], (1, 1): [1]}, "rows 0, 1:0, 1 (registered: 1:0, 1)"),
    ],
    ids=str,
)
def test_rows_that_differ_are_said_by_their_models(matrix, rates, note):
    registered = ((1.0, 0.0), (1.0, 1.0))
    changed = dataclasses.replace(with_rates(matrix, rates, (0,)), registered_rows=registered, deviations={})
    assert changed.notes() == ([note] if note else [])


# --- several matrices ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """A store with three scenarios of the digits' study, under one protocol each."""
    store = tmp_path_factory.mktemp("halves")
    names = ("digits-low-to-high", "digits-low-to-low", "digits-low-to-low-finetuning")
    small = {"train_epsilons": (1,), "eval_epsilons": (0,)}
    runner.run_suite([tiny(name, **small) for name in names], store=store, device="cpu")
    return store


LOADED = [
    ((), ["digits-low-to-high", "digits-low-to-low", "digits-low-to-low-finetuning"]),
    (("digits-study",), ["digits-low-to-low", "digits-low-to-high", "digits-low-to-low-finetuning"]),
    (("digits-study-finetuning", "digits-low-to-high"), ["digits-low-to-low-finetuning", "digits-low-to-high"]),
    (("digits-low-to-low", "digits-study-same-task"), ["digits-low-to-low"]),
]


@pytest.mark.parametrize(("names", "found"), LOADED, ids=[" ".join(names) or "all" for names, _ in LOADED])
def test_a_suite_is_those_of_its_scenarios_that_the_store_holds_in_its_order(halves, names, found):
    assert [matrix.name for matrix in results.load(Store(halves), names)] == found


@pytest.mark.parametrize("name", ["ross2022", "digits", "cifar10-to-cifar10", "digits-high-to-low", "digits-studies"])
def test_a_name_of_which_the_store_holds_nothing_is_refused(halves, name):
    with pytest.raises(UnknownName, match=f"unknown scenario in .* '{name}'; ") as raised:
        results.load(Store(halves), ["digits-low-to-low", name])
    assert "\n" not in str(raised.value)


def test_a_suite_of_ones_own_and_what_is_registered_nowhere_any_more_are_read(halves, own_registry):
    del registry._scenarios["digits-low-to-high"]
    registry.register(Suite("other", ("digits-low-to-low-finetuning", "digits-low-to-low")))
    for name in ("other", "digits-low-to-high"):
        assert results.load(Store(halves), [name])
    assert [one.name for one in results.load(Store(halves), ["other"])] == [
        "digits-low-to-low-finetuning",
        "digits-low-to-low",
    ]


def test_a_damaged_record_of_another_scenario_is_not_in_the_way(halves, tmp_path):
    shutil.copytree(halves, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    (other,) = results.load(store, ["digits-low-to-high"])
    store.record_path(other.records[0].key).write_text("{")
    assert len(results.load(store, ["digits-low-to-low"])[0].records) == 1


def test_the_heads_of_a_run_are_its_matrix(halves):
    (matrix,) = results.load(Store(halves), ["digits-low-to-low-finetuning"])
    assert matrix.rows == [(1, 0), (1, 1)]
    assert matrix.pairs == [((1, 1), (1, 0))]
    (base,) = results.load(Store(halves), ["digits-low-to-low"])
    assert matrix.cells[1, 1, 0] == base.cells[1, 1, 0]
    gain = matrix.value((1, 1), 0, "top1") - matrix.value((1, 0), 0, "top1")
    assert table_of(matrix).lines[-1] == (["1", "improvement"], [f"{gain:+.2f}"])


def test_several_protocols_are_refused_with_what_to_choose_from(matrix):
    registered = {"registered_rows": matrix.rows, "registered_columns": matrix.columns}
    other = dataclasses.replace(matrix, protocol="abcd1234", deviations={}, seed=3, **registered)
    whole = dataclasses.replace(other, protocol="12345678", seed=0)
    with pytest.raises(InvalidValue, match="digits: expected runs under one protocol, got several") as raised:
        results.one_protocol([matrix, other, whole])
    message = str(raised.value)
    assert f"{matrix.protocol} (REDUCED OR CHANGED PROTOCOL: pretraining.epochs 2 (registered: 10)" in message
    assert "abcd1234 (seed 3 (registered: 0))" in message
    assert "12345678 (as registered)" in message
    assert "\n" not in message


def test_with_several_adversarial_heads_each_improvement_names_its_own(matrix):
    found = matrix.cells[1.0, 1.0, 0.5]
    cells = {
        (1.0, head, 0.5): dataclasses.replace(found, top1_right=right) for head, right in ((0, 4), (0.5, 8), (1, 16))
    }
    lines = table_of(dataclasses.replace(matrix, cells=cells)).lines
    assert lines[3:] == [(["1", "improvement, 0.5"], ["+10.00"]), (["1", "improvement, 1"], ["+30.00"])]


def test_of_notes_that_disagree_the_one_that_warns_counts(finished, tmp_path, matrix, own_registry):
    """The scenario was registered otherwise in one of two runs under one protocol; now it is as neither."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (path,) = (tmp_path / "matrices").glob("*.json")
    note = json.loads(path.read_text())
    for name in ("0.json", "z.json"):
        (path.parent / name).write_text(json.dumps(note | {"deviations": {}}))
    (found,) = results.load(Store(tmp_path))
    assert found.deviations == matrix.deviations != {}
    registry._scenarios["digits"] = dataclasses.replace(tiny(), train_epsilons=(0, 1), eval_epsilons=(0, 0.5))
    (found,) = results.load(Store(tmp_path))
    assert found.notes() == []


# --- seeds and intervals -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The tiny digits under three seeds, with the two heads of each encoder."""
    root = tmp_path_factory.mktemp("seeds")
    several = [tiny(seed=seed, train_epsilons=(1,), finetune_epsilons=(0, 1)) for seed in (3, 1, 2)]
    found = runner.run_suite(several, store=root, device="cpu")
    assert list(found) == ["digits seed 3", "digits seed 1", "digits seed 2"]
    return root


def test_matrices_that_differ_in_the_seed_alone_are_a_family(seeds):
    matrices = results.load(Store(seeds))
    assert len({matrix.protocol for matrix in matrices}) == 3
    (family,) = families(matrices)
    assert [matrix.seed for matrix in family] == [1, 2, 3]
    other = dataclasses.replace(matrices[0], family="another", protocol="x")
    old = dataclasses.replace(matrices[1], family=None, protocol="y")
    assert [len(one) for one in families([*matrices, other, old])] == [3, 1, 1]


@pytest.mark.parametrize("metric", ["top1", "mcc"])
def test_a_family_is_shown_by_mean_and_sample_deviation(seeds, metric):
    (family,) = families(results.load(Store(seeds)))
    grid = tables.over_seeds(family, metric)
    digits = 3 if metric == "mcc" else 2
    for i, row in enumerate([(1, 0), (1, 1)]):
        for k, column in enumerate((0, 0.5)):
            values = [matrix.value(row, column, metric) for matrix in family]
            expected = f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"
            assert grid.lines[i][1][k] == expected
    gains = [one.value((1, 1), 0.5, metric) - one.value((1, 0), 0.5, metric) for one in family]
    labels, cells = grid.lines[2]
    assert labels == ["1", "improvement"]
    assert cells[1] == f"{statistics.fmean(gains):+.{digits}f} ± {statistics.stdev(gains):.{digits}f}"
    assert "seeds 1, 2, 3" in grid.caption
    assert "mean ± sample deviation over 3 seeds" in grid.caption
    assert not any(note.startswith("seed ") for note in grid.notes)
    for form in (formats.to_markdown(grid), formats.to_latex(grid)):
        assert cells[1] in form or cells[1].replace("±", r"$\pm$") in form


def test_seeds_with_other_cells_are_said_to_be_so(seeds):
    first, second, third = families(results.load(Store(seeds)))[0]
    lacking = dataclasses.replace(third, cells={place: cell for place, cell in third.cells.items() if place[2] == 0})
    grid = tables.over_seeds([first, second, lacking], "top1")
    assert any(note.startswith("the seeds have different cells") for note in grid.notes)
    values = [matrix.value((1, 1), 0.5, "top1") for matrix in (first, second)]
    assert grid.lines[1][1][1] == f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"
    alone = tables.over_seeds([first, dataclasses.replace(second, cells={}), lacking], "top1")
    assert alone.lines[1][1][1] == f"{values[0]:.2f}"


def test_rates_are_shown_with_their_intervals(matrix):
    grid = tables.over_seeds([matrix], "top1", intervals=True)
    for i, row in enumerate(matrix.rows):
        for k, column in enumerate(matrix.columns):
            low, high = matrix.cells[*row, column].wilson95["top1"]
            assert grid.lines[i][1][k] == f"{shown(matrix, row, column, 'top1')} [{100 * low:.1f}, {100 * high:.1f}]"
    assert grid.bold == table_of(matrix, "top1").bold


def test_intervals_are_of_rates_and_of_one_seed(matrix):
    with pytest.raises(InvalidValue, match="intervals: expected top1, top5, robust of one seed, got mcc of seed 0"):
        tables.over_seeds([matrix], "mcc", intervals=True)
    with pytest.raises(InvalidValue, match="got top1 of seeds 0, 0"):
        tables.over_seeds([matrix, matrix], "top1", intervals=True)


# --- properties ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noted(finished, tmp_path_factory):
    """A copy of the finished run, and its note."""
    root = tmp_path_factory.mktemp("noted") / "store"
    shutil.copytree(finished, root)
    (path,) = (root / "matrices").glob("*.json")
    return root, json.loads(path.read_text())


def whole_or_refused(root, note):
    """A store with this note in it is refused in one line that names it, or shown in every form."""
    path = write_note(root, note)
    said = refusal(results.load, Store(root))
    assert said is None or str(path) in said
    for matrix in results.load(Store(root)) if said is None else []:
        grid = table_of(matrix)
        assert [formats.TEXTS[form](grid) for form in formats.TEXTS]
        assert [formats.DATA[form]([matrix], "top1") for form in formats.DATA]
    return said


@given(data=st.data())
@settings(max_examples=50)
def test_a_note_with_anything_in_it_is_shown_or_refused_by_name(noted, data):
    root, note = noted
    whole_or_refused(root, changed(data, note))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 4}, "unknown RunNote.schema '4'"),
        ({"extra": 1}, "unknown field 'RunNote.extra'"),
        ({"name": ["x"]}, "RunNote.name: expected text, got ['x']"),
        ({"seed": "0"}, "RunNote.seed: expected a whole number, got '0'"),
        ({"deviations": []}, "RunNote.deviations: expected an object, got []"),
        ({"deviations": {"seed": [1]}}, "RunNote.deviations.seed.1: expected a value, got none"),
        ({"registered_rows": [[0]]}, "RunNote.registered_rows.0.1: expected a value, got none"),
        ({"registered_columns": [math.inf]}, "RunNote.registered_columns.0: expected a finite number, got inf"),
        ({"cells": 3}, "RunNote.cells: expected a list, got 3"),
        ({"cells": [[0, 0, 0]]}, "RunNote.cells.0.3: expected a value, got none"),
        ({"cells": [[0, 0, 0, 7]]}, "RunNote.cells.0.3: expected text, got 7"),
        ({"cells": [[0, 0, 0, "../../x"]]}, "RunNote.cells.0.3: expected text of the form"),
    ],
    ids=str,
)
def test_a_note_with_something_wrong_in_it_says_what(noted, change, said):
    root, note = noted
    refused = whole_or_refused(root, note | change)
    (path,) = (root / "matrices").iterdir()
    assert refused.startswith(f"{path}: {said}")


GRIDS = st.integers(1, 3).flatmap(
    lambda before: st.integers(1, 12).flatmap(
        lambda columns: st.builds(
            tables.Table,
            title=TEXTS,
            labels=st.lists(TEXTS, min_size=before, max_size=before),
            columns=st.lists(TEXTS, min_size=columns, max_size=columns),
            lines=st.lists(
                st.tuples(
                    st.lists(TEXTS, min_size=before, max_size=before),
                    st.lists(TEXTS, min_size=columns, max_size=columns),
                ),
                max_size=3,
            ),
            bold=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 11)), max_size=3),
            notes=st.lists(TEXTS, max_size=2),
            caption=TEXTS,
        )
    )
)
"""Tables of any texts at all."""
UNESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\|")


@given(GRIDS)
def test_whatever_is_in_it_a_markdown_table_keeps_its_columns(grid):
    """And its title is one line, and its notes are quoted."""
    head, _, *notes = formats.to_markdown(grid).split("\n")[: 2 + 2 * len(grid.notes)]
    assert head.startswith("### ")
    assert all(line.startswith("> ") or not line for line in notes)
    lines = formats.to_markdown(grid).split("\n")[2 + 2 * len(grid.notes) : -3]
    assert len(lines) == 2 + len(grid.lines)
    assert {len(line.splitlines()) for line in lines} == {1}
    for line in lines:
        assert len(UNESCAPED.findall(line)) == len(grid.labels) + len(grid.columns) + 1


SPECIAL = set("#$%&_{}~^\\\n\r")


@given(GRIDS)
def test_whatever_is_in_it_a_latex_table_is_made_of_its_own_commands_alone(grid):
    before, columns = len(grid.labels), len(grid.columns)
    lines = formats.to_latex(grid).split("\n")
    assert [*lines[:2], *lines[4:7]] == [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{'r' * (before + columns)}}}",
        r"\toprule",
        rf"{'& ' * before}\multicolumn{{{columns}}}{{c}}{{Evaluation $\varepsilon$}} \\",
    ]
    assert re.fullmatch(r"\\label\{tab:[a-z0-9-]+\}", lines[3])
    assert [lines[8], *lines[-4:]] == [r"\midrule", r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    rows = [lines[7], *lines[9:-4]]
    assert len(rows) == 1 + len(grid.lines)
    assert all(row.endswith(r" \\") and row[0] not in "[*" for row in rows)
    cells = [row.removesuffix(r" \\").removeprefix("{}").split(" & ") for row in rows]
    assert {len(row) for row in cells} == {before + columns}
    for text in [lines[2].removeprefix(r"\caption{").removesuffix("}"), *itertools.chain(*cells)]:
        text = re.sub(r"^\\textbf\{(.*)\}$", r"\1", text)
        for command in formats._LATEX.values():
            text = text.replace(command, "")
        assert not set(text) & SPECIAL


@given(GRIDS, st.integers(20, 200))
@settings(max_examples=25)
def test_whatever_is_in_it_a_terminal_shows_it(grid, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(formats.to_rich(grid, width))


def test_markup_in_a_table_is_text_and_symbols_are_known_to_latex():
    assert formats.to_latex(tables.Table("t", ["model"], ["0"], [(["Kendall τ → ε"], ["—"])])).isascii()
    marked = ["[red]a", "[/]", "[bold]b[/bold]"]
    table = tables.Table(marked[0], [marked[1]], [marked[2]], [([marked[0]], [marked[1]])], notes=[marked[2]])
    console = Console(file=io.StringIO(), width=80)
    console.print(formats.to_rich(dataclasses.replace(table, caption=marked[1])))
    shown = console.file.getvalue()
    assert [shown.count(text) for text in marked] == [2, 3, 2]


def named(matrix, name, deviations, key):
    record = matrix.records[0]
    found = dataclasses.replace(matrix, name=name, protocol=key, source=name, target=name, deviations=deviations)
    return dataclasses.replace(found, cells={(0.0, 0.0, 0.5): record, (0.0, 0.0, 1.0): None})


@given(name=TEXTS, other=TEXTS, mcc=st.floats(-1, 1))
def test_whatever_names_are_csv_is_read_as_it_was_written_and_runs_no_formula(finished, name, other, mcc):
    (matrix,) = results.load(Store(finished))
    matrix = named(matrix, name, {other: [name, None]}, other)
    matrix.cells[0, 0, 0.5] = dataclasses.replace(matrix.cells[0, 0, 0.5], mcc=mcc)
    text = formats.to_csv([matrix], "mcc")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [len(row) for row in rows] == [13] * 3
    first = dict(zip(rows[0], rows[1], strict=True))
    told = {"scenario": name, "protocol": other, "notes": "; ".join(matrix.notes())}
    for column, meant in told.items():
        words = " ".join(meant.split())
        assert first[column] == ("'" + words if words[:1] in tuple("=+-@") else words)
        assert first[column][:1] not in tuple("=+-@\t\r")
    assert float(first["value"]) == mcc
    assert [row[rows[0].index("value")] for row in rows[2:]] == [""]


@given(name=TEXTS, other=TEXTS)
def test_whatever_names_are_json_holds_them(finished, name, other):
    (matrix,) = results.load(Store(finished))
    (content,) = json.loads(formats.to_json([named(matrix, name, {other: [name, other]}, other)], None))
    assert (content["scenario"], content["protocol"]) == (name, other)
    assert content["deviations"][other] == [name, other]
