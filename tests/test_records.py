import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import AUDITS, FIXTURES, JSON, RECORDS, TEXTS, changed, refusal, tiny
from hypothesis import example, given
from hypothesis import strategies as st

from rossbench.config.specs import AuditSpec, EvaluateSpec
from rossbench.stages.evaluate import save_cell
from rossbench.store import artifacts, records
from rossbench.store.records import Audit, Record, Verdict, read_audit, read_record
from rossbench.store.store import Store, encode
from rossbench.util import statistics
from rossbench.util.errors import StoreError
from rossbench.util.values import build


@pytest.fixture
def record(finished):
    return read_record(Store(finished).record_path(tiny().cells[1.0, 1.0, 0.5].key))


def test_a_record_survives_being_written_and_read(record, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(encode(dataclasses.asdict(record)))
    assert read_record(path) == record


def test_a_record_says_what_was_run_and_how(record):
    cell = tiny().cells[1.0, 1.0, 0.5]
    assert record.schema == records.SCHEMA
    assert record.key == cell.key
    assert record.spec == json.loads(json.dumps(dataclasses.asdict(cell)))
    assert (record.scenario, record.seed, record.n, record.classes) == ("digits", 0, 40, 10)
    assert 0 <= record.robust_right <= record.top1_right <= record.top5_right <= 40
    assert -1 <= record.mcc <= 1
    assert all(0 <= rate <= 1 for rate in (record.precision, record.recall, record.f1))
    assert len(record.right_by_class) == record.classes
    assert sum(record.right_by_class) == record.top1_right
    assert set(record.seconds) == set(record.provenance) == {"pretrain", "finetune", "evaluate"}
    assert record.deviations["recipe.pretraining.epochs"][0] == 2
    assert record.deviations["train_limit"] == [60, None]


def test_provenance_says_what_can_change_a_result(record):
    for stage in record.provenance.values():
        assert set(stage) == {
            "git_commit",
            "git_dirty",
            "versions",
            "python",
            "platform",
            "device",
            "dtype",
            "threads",
            "deterministic",
            "data",
        }
        assert {"torch", "torchattacks", "lightly", "timm", "rossbench"} <= set(stage["versions"])
        assert (stage["device"], stage["dtype"]) == ("cpu", "float32")
    assert record.provenance["pretrain"]["data"] == record.provenance["finetune"]["data"]
    assert record.provenance["evaluate"]["data"] != record.provenance["finetune"]["data"]


def test_the_commit_is_that_of_the_code_and_of_no_other_checkout(tmp_path):
    """A copy of the package inside somebody else's repository has no commit."""
    here = Path(records.__file__).parent
    for command in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "rossbench").mkdir()
    for path in here.glob("*.py"):
        (tmp_path / "rossbench" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "rossbench" / "__init__.py").write_text("")
    code = "from rossbench.store import records; print(records._git())"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "(None, None)"


NEW = {
    1: ("wilson95", "robust_right", "precision", "recall", "f1", "right_by_class"),
    2: ("wilson95", "robust_right"),
    3: ("wilson95",),
}
"""What records of each earlier schema lack."""


def of_schema(content, schema, without=None):
    return {name: item for name, item in content.items() if name not in (*NEW[schema], without)} | {"schema": schema}


@pytest.mark.parametrize("schema", NEW)
def test_a_record_of_an_earlier_schema_is_read_with_none_for_what_it_lacks(schema):
    """The fixtures were written by the last versions of the package whose records had these schemas."""
    path = FIXTURES / f"record-{schema}.json"
    old, record = json.loads(path.read_bytes()), read_record(path)
    assert old["schema"] == schema
    assert dataclasses.asdict(record) == {**old, **dict.fromkeys(NEW[schema])}
    assert (record.metric("top1"), record.metric("top5")) == (old["top1_right"] / 40, old["top5_right"] / 40)
    assert record.metric("mcc") == old["mcc"]
    assert record.metric("robust") == (old["robust_right"] / 40 if schema > 2 else None)
    low, high = record.interval("top1")  # computed, where it is not in the record
    assert 0 < low < record.metric("top1") < high < 1
    assert (record.interval("robust") is None) == (schema < 3)
    assert [record.metric(name) for name in ("precision", "recall", "f1")] == [
        old.get(name) for name in ("precision", "recall", "f1")
    ]


@pytest.mark.parametrize("schema", NEW)
def test_what_an_earlier_schema_named_has_the_same_key_now(schema):
    old = json.loads((FIXTURES / f"record-{schema}.json").read_bytes())
    assert old["key"] == build(EvaluateSpec, old["spec"]).key == tiny().cells[1, 1, 0.5].key


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


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda content: content | {"schema": 0}, "got one of schema 0"),
        (lambda content: content | {"schema": 99}, "got one of schema 99"),
        (lambda content: {}, "got one of schema None"),
        (lambda content: [content], "got one of schema None"),
        (lambda content: {k: v for k, v in content.items() if k != "n"}, "expected a record of schema 4"),
        (lambda content: {k: v for k, v in content.items() if k != "f1"}, "expected a record of schema 4"),
        (lambda content: content | {"extra": 1}, "expected a record of schema 4"),
        (lambda content: of_schema(content, 2) | {"f1": None, "extra": 1}, "expected a record of schema 4"),
        (lambda content: of_schema(content, 1, without="n"), "expected a record of schema 4"),
        (lambda content: of_schema(content, 1) | {"extra": 1}, "expected a record of schema 4"),
    ],
)
def test_what_is_no_record_of_this_schema_is_refused_by_name(record, tmp_path, change, found):
    path = tmp_path / "record.json"
    path.write_bytes(encode(change(dataclasses.asdict(record))))
    with pytest.raises(StoreError, match="expected a record of schema 4") as raised:
        read_record(path)
    assert found in str(raised.value)
    assert str(path) in str(raised.value)


def test_every_field_is_documented():
    text = (Path(__file__).parent.parent / "docs" / "records.md").read_text()
    for field in dataclasses.fields(Record):
        assert f"`{field.name}`" in text, field.name


def test_a_damaged_record_of_schema_1_is_named_as_such(tmp_path):
    path = tmp_path / "record.json"
    content = json.loads((FIXTURES / "record-1.json").read_text())
    del content["n"]
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="expected a record of schema 4, got one of schema 1"):
        read_record(path)


def test_robust_is_right_without_and_under_the_attack(finished):
    for place, cell in tiny().cells.items():
        natural, under = (
            artifacts.load_predictions(Store(finished), tiny().cells[*place[:2], column]) for column in (0, place[2])
        )
        both = (natural[0][:, 0] == natural[1]) & (under[0][:, 0] == under[1])
        assert read_record(Store(finished).record_path(cell.key)).robust_right == int(both.sum())


COUNTED = {"all": (25, 25, [3] * 5 + [2] * 5), "correct": (None, None, None)}


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
    made = {"scenario": "digits", "deviations": {}, "seconds": 1.0, "provenance": {}}
    save_cell(Store(tmp_path), cell, under, natural, labels, **made)
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


@given(record=RECORDS)
def test_any_record_is_read_as_it_was_written(path, record):
    path.write_bytes(encode(dataclasses.asdict(record)))
    assert read_record(path) == record


@given(audit=AUDITS)
def test_any_audit_is_read_as_it_was_written(path, audit):
    path.write_bytes(encode({**dataclasses.asdict(audit), "schema": records.AUDIT_SCHEMA}))
    found = read_audit(path)
    assert found == audit
    assert found.summary.startswith(found.verdict)


@pytest.mark.parametrize("read", [read_record, read_audit])
@given(content=st.binary(max_size=30) | TEXTS.map(str.encode) | JSON.map(as_file))
@example(content=b'{"schema": "4"}')
@example(content=b'{"schema": [4]}')
@example(content=b'{"schema": "\\n"}')
def test_whatever_bytes_are_no_record_and_no_audit(path, read, content):
    assert refused(read, path, content)


@given(data=st.data(), record=RECORDS)
def test_a_record_with_anything_in_it_is_used_or_refused_by_name(path, data, record):
    content = changed(data, dataclasses.asdict(record))
    if refused(read_record, path, as_file(content)):
        return
    found = read_record(path)
    for name in ("top1", "top5", "robust"):
        assert found.metric(name) is None or 0 <= found.metric(name) <= 1
        assert found.interval(name) is None or len(found.interval(name)) == 2
    assert isinstance(build(EvaluateSpec, found.spec), EvaluateSpec)


@given(data=st.data(), audit=AUDITS)
def test_an_audit_with_anything_in_it_is_used_or_refused_by_name(path, data, audit):
    content = changed(data, {**dataclasses.asdict(audit), "schema": records.AUDIT_SCHEMA})
    if refused(read_audit, path, as_file(content)):
        return
    found = read_audit(path)
    assert found.summary.startswith(found.verdict)
    assert all(isinstance(one, Verdict) for one in found.verdicts)


WRONG_IN_RECORDS = [
    ({"wilson95": "[0, 1]"}, "wilson95: expected an object, got '[0, 1]'"),
    ({"wilson95": {"top1": [0.5]}}, "wilson95.top1: expected 2 numbers, got [0.5]"),
    ({"spec": []}, "spec: expected an object, got []"),
    ({"spec": {}}, "EvaluateSpec: expected the fields epsilon, finetune, limit, recipe, got {}"),
    ({"n": 0}, "n: expected a whole number in [1, 9.0072e+15], got 0"),
    ({"top1_right": 41}, "expected counts of 0 to n, got ("),
    ({"mcc": math.nan}, "mcc: expected a finite number, got nan"),
    ({"right_by_class": [1, "2"]}, "right_by_class: expected a whole number, got '2'"),
    ({"seconds": {"evaluate": None}}, "seconds.evaluate: expected a finite number, got None"),
    ({"provenance": {"evaluate": 3}}, "provenance.evaluate: expected an object, got 3"),
    ({"schema": 4.0}, "schema: expected a whole number, got 4.0"),
]


@pytest.mark.parametrize(("change", "said"), WRONG_IN_RECORDS, ids=[str(change) for change, _ in WRONG_IN_RECORDS])
def test_a_record_with_something_wrong_in_it_says_what(record, path, change, said):
    path.write_bytes(as_file(dataclasses.asdict(record) | change))
    with pytest.raises(StoreError) as raised:
        read_record(path)
    assert str(raised.value).startswith(f"{path}: {said}")


GOOD = dict.fromkeys(("check", "verdict", "figure", "meaning"), "pass")
WRONG_IN_AUDITS = [
    ({"verdicts": 3}, "verdicts: expected a list, got 3"),
    ({"verdicts": []}, "verdicts: expected at least one, each pass, warn, fail, got []"),
    ({"verdicts": [GOOD, GOOD | {"verdict": "good"}]}, "verdicts: expected at least one, each pass, warn, fail"),
    ({"verdicts": [{}]}, "Verdict: expected the fields check, figure, meaning, verdict, got {}"),
    ({"verdicts": [GOOD | {"figure": 3}]}, "verdicts.figure: expected str, got 3"),
    ({"spec": {}}, "AuditSpec: expected the fields epsilons, finetune, limit, recipe, got {}"),
    ({"images": None}, "images: expected a whole number, got None"),
]


@pytest.mark.parametrize(("change", "said"), WRONG_IN_AUDITS, ids=[str(change) for change, _ in WRONG_IN_AUDITS])
def test_an_audit_with_something_wrong_in_it_says_what(path, change, said):
    cell = tiny().cells[1, 1, 0.5]
    spec = AuditSpec(cell.finetune, cell.limit, (0, 0.5), cell.recipe)
    audit = Audit(dataclasses.asdict(spec), (Verdict(**GOOD),), 40, 1.0, "", {})
    content = {**dataclasses.asdict(audit), "schema": records.AUDIT_SCHEMA}
    assert not refused(read_audit, path, as_file(content))
    path.write_bytes(as_file(content | change))
    with pytest.raises(StoreError) as raised:
        read_audit(path)
    assert str(raised.value).startswith(f"{path}: {said}")
