"""What a store holds, as matrices and as a DataFrame; and how often it is read for that."""

import collections
import dataclasses
import math
import subprocess
import sys

import pytest
from conftest import tamper, tiny

import rossbench
from rossbench.report import dataframe, tables
from rossbench.report.model import families
from rossbench.runner import run as runner
from rossbench.store import records, results
from rossbench.store.metrics import METRICS
from rossbench.store.store import Store, encode
from rossbench.util.errors import InvalidValue, UnknownName


def test_a_store_is_a_row_a_cell(audited):
    frame = rossbench.results(audited)
    (matrix,) = results.load(Store(audited))
    assert tuple(frame.columns) == dataframe.COLUMNS
    assert len(frame) == 4
    for (place, record), (_, row) in zip(matrix.cells.items(), frame.iterrows(), strict=True):
        assert (row.pretrain_epsilon, row.finetune_epsilon, row.eval_epsilon) == place
        assert (row.scenario, row.protocol, row.seed, row.key) == ("digits", matrix.protocol, 0, record.key)
        assert (row.source, row.target, row.encoder, row.n) == ("digits", "digits", "conv3", 40)
        assert row.attack == ("PGD-L2, 20 steps of 3" if place[2] else "none")
        assert {name: row[name] for name in METRICS} == {name: one.of(record) for name, one in METRICS.items()}
        assert (row.top1_low, row.top1_high) == record.interval("top1")
        assert row.audit == matrix.audits[place[:2]].verdict
        assert row.deviations.startswith("pretraining.epochs 2 (registered: 10)")
    assert frame[[*METRICS, "top1_low", "top1_high"]].drop(columns="mcc").stack().between(0, 1).all()


def test_records_are_the_same_rows_without_protocol_and_audit(finished):
    found = runner.run(tiny(), store=finished, device="cpu")
    of_store = rossbench.results(Store(finished), ["digits"])
    same = [name for name in dataframe.COLUMNS if name not in ("protocol", "audit")]
    for given in (found, found.values(), list(found.values()), {"digits": found}):
        frame = rossbench.results(given)
        assert frame[same].equals(of_store[same])
        assert frame[["protocol", "audit"]].isna().all(axis=None)
    assert tuple(rossbench.results([]).columns) == dataframe.COLUMNS
    for wrong in (3, [3], ["digits"], {"digits": None}):
        with pytest.raises(InvalidValue, match="results: expected a store or records, got "):
            rossbench.results(wrong)


def test_names_and_protocol_choose_rows(audited):
    (protocol,) = rossbench.results(str(audited)).protocol.unique()
    assert len(rossbench.results(audited, ["digits"], protocol)) == 4
    for names, chosen, said in ((["digit"], None, "did you mean digits"), ((), "zzz", "unknown protocol")):
        with pytest.raises(UnknownName, match=said):
            rossbench.results(audited, names, chosen)


def test_what_is_not_known_is_nan(finished):
    record = next(iter(runner.run(tiny(), store=finished, device="cpu").values()))
    unknown = dict.fromkeys(("top1_right", "top5_right", "mcc", "precision", "recall", "f1", "right_by_class"))
    frame = rossbench.results([dataclasses.replace(record, **unknown, wilson95={})])
    nan = [name for name in dataframe.COLUMNS if name in unknown or name.startswith("top")]
    assert len(nan) == 8
    assert all(math.isnan(frame[name][0]) for name in nan)
    assert frame.robust[0] == record.metric("robust")


def test_mean_and_deviation_over_seeds_are_a_groupby(tmp_path):
    """The same numbers as in the table of the seeds."""
    several = [tiny(seed=seed, train_epsilons=(1,)) for seed in (0, 1, 2)]
    found = runner.run_suite(several, store=tmp_path, device="cpu")
    for given in (tmp_path, found):
        frame = rossbench.results(given)
        over = frame.groupby(["scenario", "pretrain_epsilon", "eval_epsilon"]).top1.agg(["mean", "std", "count"])
        (family,) = families(results.load(Store(tmp_path)))
        (_, cells), *_ = tables.over_seeds(family, "top1").lines
        assert list(over["count"]) == [3, 3]
        assert cells == [
            f"{100 * mean:.2f} ± {100 * std:.2f}" for mean, std in zip(over["mean"], over["std"], strict=True)
        ]


def test_a_frame_needs_pandas_and_no_torch(finished):
    code = "import sys, rossbench; assert len(rossbench.results(sys.argv[1])) == 4; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, finished], check=True)


def test_a_run_its_audit_and_its_tables_read_each_file_once(copied, monkeypatch):
    counts, real = collections.Counter(), records.read_file
    monkeypatch.setattr(records, "read_file", lambda path: counts.update([path.parent]) or real(path))
    runner.run(tiny(), store=copied, device="cpu")
    found = runner.audit(store=copied, device="cpu")
    for _ in range(2):
        (matrix,) = results.load(copied)
        assert tables.over_seeds([matrix], "top1").lines
    assert len(rossbench.results(copied)) == 4
    assert (len(matrix.records), len(matrix.audits), len(found)) == (4, 2, 2)
    assert sorted(counts.values()) == [1] * 6


@pytest.mark.parametrize("name", ["record.json", "SHA256SUMS"])
def test_what_was_changed_since_it_was_read_is_read_again(copied, name):
    place = 0.0, 0.0, 0.5
    (matrix,) = results.load(copied)
    path = copied.record_path(matrix.cells[place].key)
    if name == "record.json":
        tamper(path, encode(dataclasses.replace(matrix.cells[place], created="later")))
        assert results.load(copied)[0].cells[place].created == "later"
        path.unlink()
    else:
        (path.parent / "SHA256SUMS").write_text("0" * 64 + "  record.json\n")
    assert results.load(copied)[0].cells[place] is None
