"""Several stores in one report."""

import dataclasses
import shutil

import pytest
from conftest import tamper, tiny

from rossbench.runner import run as runner
from rossbench.store import results
from rossbench.store.several import load_several
from rossbench.store.store import Store, encode
from rossbench.util.errors import StoreError, UnknownName

PLACE = (1.0, 1.0, 0.5)


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """Another row of digits, and another scenario."""
    root = tmp_path_factory.mktemp("another")
    row = tiny(train_epsilons=(0.5,), encoder_name="plain")
    runner.run_suite([row, tiny("digits-low-to-low", train_epsilons=(0,))], store=root, device="cpu")
    return root


def change(store, **fields):
    (matrix,) = results.load(store)
    record = dataclasses.replace(matrix.cells[PLACE], **fields)
    tamper(store.record_path(record.key), encode(record))


def test_equal_stores_are_one_without_conflict(finished, copied):
    (one,) = results.load(Store(finished))
    (both,) = load_several([Store(finished), copied])
    assert both == one
    assert load_several([Store(finished)]) == [one]


def test_other_numbers_of_one_key_are_named_and_not_shown(finished, copied):
    change(copied, robust_right=0, created="later")
    first = Store(finished)
    (one,) = results.load(first)
    for stores, right in (([first, copied], one.cells[PLACE].robust_right), ([copied, first], 0)):
        (both,) = load_several(stores)
        assert both.cells[PLACE].robust_right == right
        (note,) = both.conflicts
        said = f"{stores[1].root} has other numbers of 1 cells, which are not shown: conv3 ε=1 at ε=0.5, "
        assert note.startswith(said)
        assert note.endswith(f" of 40 robustly right, not {right}")
        assert note in both.notes()


def test_another_time_or_machine_is_no_conflict(finished, copied):
    change(copied, created="later", seconds={})
    assert load_several([Store(finished), copied])[0].conflicts == ()


def test_rows_and_scenarios_of_all_stores_are_there(finished, another):
    found = load_several([Store(finished), Store(another)])
    assert [(one.name, one.rows) for one in found] == [
        ("digits", [(0, 0), (0.5, 0.5), (1, 1)]),
        ("digits-low-to-low", [(0, 0)]),
    ]
    assert len(found[0].records) == 6
    assert found[0].encoder == "plain"
    for names, count in ((["digits-low-to-low"], 1), (["digits"], 1), (["digits-low-to-low", "digits"], 2)):
        assert len(load_several([Store(finished), Store(another)], names)) == count


def test_other_names_of_one_encoder_are_said(finished, another, tmp_path):
    shutil.copytree(another, tmp_path / "renamed")
    runner.run(tiny(train_epsilons=(0.5,), encoder_name="fancy"), store=tmp_path / "renamed", device="cpu")
    (digits, _) = load_several([Store(another), Store(tmp_path / "renamed")])
    assert digits.encoder == "plain"
    assert digits.conflicts == (f"plain is named fancy in {tmp_path / 'renamed'}",)


def test_what_no_store_has_is_refused(finished, another, tmp_path):
    stores = [Store(finished), Store(another)]
    with pytest.raises(UnknownName, match="unknown scenario"):
        load_several(stores, ["digits-high-to-low"])
    with pytest.raises(UnknownName, match="unknown protocol"):
        load_several(stores, [], "00000000")
    with pytest.raises(StoreError, match="nothing to report in"):
        load_several([*stores, Store(tmp_path / "none")])


def test_the_command_reads_several_and_draws_from_one(rossbench, finished, another, tmp_path):
    stores = ("--store", finished, "--store", another)
    code, out, _ = rossbench("report", "digits", *stores, "--format", "markdown")
    assert code == 0
    assert [f"| plain ε={row} |" in out for row in ("0", "0.5", "1")] == [True] * 3
    assert rossbench("report", "--ranking", *stores)[0] == 0
    code, _, err = rossbench("report", *stores, "--html", tmp_path / "a.html")
    assert (code, "--html: expected one --store" in err) == (2, True)
