import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import AUDITS, JSON, RECORDS, TEXTS, changed, refusal, tiny
from hypothesis import example, given
from hypothesis import strategies as st

from rossbench.config.specs import AuditSpec
from rossbench.data.datasets import Data
from rossbench.stages.context import Context
from rossbench.stages.evaluate import save_cell
from rossbench.store import artifacts, records
from rossbench.store.records import Audit, Record, Verdict, read_audit, read_record
from rossbench.store.store import Store, encode
from rossbench.util import statistics
from rossbench.util.errors import StoreError


@pytest.fixture
def record(finished):
    return read_record(Store(finished).record_path(tiny().cells[1.0, 1.0, 0.5].key))


def test_a_record_says_what_was_run_and_how(record):
    cell = tiny().cells[1.0, 1.0, 0.5]
    assert record.key == cell.key
    assert record.spec == cell
    assert record.spec.recipe.attack == cell.recipe.attack
    assert (record.scenario, record.seed, record.n, record.classes) == ("digits", 0, 40, 10)
    assert 0 <= record.robust_right <= record.top1_right <= record.top5_right <= 40
    assert -1 <= record.mcc <= 1
    assert all(0 <= rate <= 1 for rate in (record.precision, record.recall, record.f1))
    assert len(record.right_by_class) == record.classes
    assert sum(record.right_by_class) == record.top1_right
    assert set(record.seconds) == set(record.provenance) == {"pretrain", "finetune", "evaluate"}
    assert record.deviations["recipe.pretraining.epochs"][0] == 2
    assert record.deviations["train_limit"] == (60, None)


def test_provenance_says_what_can_change_a_result(record):
    for stage in record.provenance.values():
        names = "git_commit git_dirty versions python platform device dtype threads deterministic data"
        assert set(stage) == set(names.split())
        assert {"torch", "torchattacks", "lightly", "timm", "rossbench"} <= set(stage["versions"])
        assert (stage["device"], stage["dtype"]) == ("cpu", "float32")
    assert record.provenance["pretrain"]["data"] == record.provenance["finetune"]["data"]
    assert record.provenance["evaluate"]["data"] != record.provenance["finetune"]["data"]


def test_the_commit_is_that_of_the_code_and_of_no_other_checkout(tmp_path):
    """A copy of the package inside somebody else's repository has no commit."""
    for command in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    shutil.copytree(Path(records.__file__).parents[1], tmp_path / "rossbench")
    code = "from rossbench.store import records; print(records._git())"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "(None, None)"


def test_intervals_of_the_known_rates_are_in_the_record(record):
    assert set(record.wilson95) == {"top1", "top5", "robust"}
    for name, (low, high) in record.wilson95.items():
        assert (low, high) == statistics.wilson(getattr(record, f"{name}_right"), record.n) == record.interval(name)
        assert 0 <= low <= record.metric(name) <= high <= 1


METRICS = [("top1", 0.275), ("top5", 0.8), ("robust", 0.25), ("mcc", 0.25), ("f1", 0.5)]


@pytest.mark.parametrize(("metric", "value"), METRICS)
def test_metrics_are_shares_and_not_percent(record, metric, value):
    known = dataclasses.replace(record, n=40, top1_right=11, top5_right=32, robust_right=10, mcc=0.25, f1=0.5)
    assert known.metric(metric) == value


def test_every_field_is_documented():
    text = (Path(__file__).parent.parent / "docs" / "records.md").read_text()
    for field in dataclasses.fields(Record):
        assert f"`{field.name}`" in text, field.name


def test_robust_is_right_without_and_under_the_attack(finished):
    for place, cell in tiny().cells.items():
        natural, under = (
            artifacts.load_predictions(Store(finished), tiny().cells[*place[:2], column]) for column in (0, place[2])
        )
        both = (natural[0][:, 0] == natural[1]) & (under[0][:, 0] == under[1])
        assert read_record(Store(finished).record_path(cell.key)).robust_right == int(both.sum())


COUNTED = {"all": (25, 25, (3,) * 5 + (2,) * 5), "correct": (None, None, None)}


@pytest.mark.parametrize("attacked", COUNTED)
def test_what_an_attack_turns_right_counts_as_right_and_not_as_robust(finished, tmp_path, attacked):
    """Of 40 images 20 are right without an attack and under it, 10 are turned wrong and 5 right."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    cell = tiny().cells[1, 1, 0.5]
    cell = dataclasses.replace(cell, epsilon=0.7, recipe=dataclasses.replace(cell.recipe, attacked=attacked))
    labels = torch.arange(40) % 10
    right = (labels[:, None] + torch.arange(5)) % 10
    wrong = (right + 5) % 10
    under, natural = right.clone(), right.clone()
    natural[30:] = wrong[30:]
    under[20:30], under[35:] = wrong[20:30], wrong[35:]
    context = Context(Store(tmp_path), torch.device("cpu"), tmp_path, origins={cell.key: ("digits", {})})
    save_cell(context, cell, under, natural, Data(labels, labels, ""), 1.0)
    record = read_record(Store(tmp_path).record_path(cell.key))
    assert record.robust_right == 20
    assert (record.top1_right, record.top5_right, record.right_by_class) == COUNTED[attacked]
    assert set(record.wilson95) == ({"robust"} if attacked == "correct" else {"top1", "top5", "robust"})


# --- properties ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("file") / "of some name.json"


def refused(read, path, content):
    """Whether what the file then holds is not read, which has to be said by its name."""
    path.write_bytes(content)
    said = refusal(read, path)
    assert said is None or str(path) in said
    return said is not None


def as_file(content):
    return json.dumps(content).encode()  # NaN too, which encode refuses to write


def use(found):
    if isinstance(found, Audit):
        assert found.summary.startswith(found.verdict)
        assert all(isinstance(one, Verdict) for one in found.verdicts)
    else:
        for name in ("top1", "top5", "robust"):
            assert found.metric(name) is None or 0 <= found.metric(name) <= 1
            assert found.interval(name) is None or len(found.interval(name)) == 2
        assert found.key == found.spec.key


READ = pytest.mark.parametrize(
    ("read", "some"), [(read_record, RECORDS), (read_audit, AUDITS)], ids=["record", "audit"]
)


@READ
@given(data=st.data())
def test_any_record_and_any_audit_is_read_as_it_was_written(path, read, some, data):
    written = data.draw(some)
    path.write_bytes(encode(written))
    found = read(path)
    assert found == written
    use(found)


@pytest.mark.parametrize("read", [read_record, read_audit])
@given(content=st.binary(max_size=30) | TEXTS.map(str.encode) | JSON.map(as_file))
@example(content=b'{"schema": "4"}')
@example(content=b'{"schema": [4]}')
@example(content=b'{"schema": "\\n"}')
def test_whatever_bytes_are_no_record_and_no_audit(path, read, content):
    assert refused(read, path, content)


@READ
@given(data=st.data())
def test_one_with_anything_in_it_is_used_or_refused_by_name(path, read, some, data):
    if not refused(read, path, as_file(changed(data, dataclasses.asdict(data.draw(some))))):
        use(read(path))


GOOD = dict.fromkeys(("check", "verdict", "figure", "meaning"), "pass")
WRONG = [
    ({"schema": 4}, "unknown Record.schema '4'"),
    ({"extra": 1}, "unknown field 'Record.extra'"),
    ({"wilson95": "[0, 1]"}, "Record.wilson95: expected an object, got '[0, 1]'"),
    ({"wilson95": {"top1": [0.5]}}, "Record.wilson95.top1.1: expected a value, got none"),
    ({"spec": []}, "Record.spec: expected the fields of EvaluateSpec, got []"),
    ({"spec": {}}, "Record.spec.finetune: expected a value, got none"),
    ({"key": "0" * 16}, "Record.key: expected that of its spec"),
    ({"n": 0}, "Record.n: expected a number of at least 1, got 0"),
    ({"top1_right": 41}, "Record: expected counts of 0 to n, got ("),
    ({"mcc": math.nan}, "Record.mcc: expected a finite number, got nan"),
    ({"right_by_class": [1, "2"]}, "Record.right_by_class.1: expected a whole number, got '2'"),
    ({"seconds": {"evaluate": None}}, "Record.seconds.evaluate: expected a finite number, got None"),
    ({"provenance": {"evaluate": 3}}, "Record.provenance.evaluate: expected an object, got 3"),
    ({"schema": 1}, "unknown Audit.schema '1'"),
    ({"verdicts": 3}, "Audit.verdicts: expected a list, got 3"),
    ({"verdicts": []}, "Audit.verdicts: expected at least 1 items, got []"),
    ({"verdicts": [GOOD, GOOD | {"verdict": "good"}]}, "unknown Audit.verdicts.1.verdict 'good'"),
    ({"verdicts": [{}]}, "Audit.verdicts.0.check: expected a value, got none"),
    ({"verdicts": [GOOD | {"figure": 3}]}, "Audit.verdicts.0.figure: expected text, got 3"),
    ({"spec": {}}, "Audit.spec.finetune: expected a value, got none"),
    ({"images": None}, "Audit.images: expected a whole number, got None"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_record_or_an_audit_with_something_wrong_in_it_says_what(record, path, change, said):
    spec = AuditSpec(record.spec.finetune, record.spec.limit, (0, 0.5), record.spec.recipe)
    audit = Audit(spec, (Verdict(**GOOD),), 40, 1.0, "", {})
    read, one = (read_audit, audit) if "Audit" in said else (read_record, record)
    content = dataclasses.asdict(one)
    assert not refused(read, path, as_file(content))
    path.write_bytes(as_file(content | change))
    with pytest.raises(StoreError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: {said}")
