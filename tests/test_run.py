"""What run and run_suite give: records of all cells, whose they are, and refusals before any work."""

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import comparable, tamper, tiny

from rossbench import registry
from rossbench.config.scenarios import Scenario, Suite
from rossbench.config.specs import EvaluateSpec
from rossbench.data import datasets
from rossbench.runner import run as runner
from rossbench.stages import metrics
from rossbench.store import artifacts
from rossbench.store.records import read_notes
from rossbench.store.store import Store
from rossbench.util.devices import resolve_device
from rossbench.util.errors import DataError, InvalidValue, StoreError, UnknownName

LITERAL = ("top1_right", "top5_right", "mcc", "precision", "recall", "f1", "right_by_class")


def run(scenario, store, **arguments):
    return runner.run(scenario, store=store, device="cpu", **arguments)


def run_suite(suite, store, **arguments):
    return runner.run_suite(suite, store=store, device="cpu", **arguments)


def with_stage(name, **changes):
    """The tiny recipe with changes of one stage."""
    recipe = tiny().recipe
    return dataclasses.replace(recipe, **{name: dataclasses.replace(getattr(recipe, name), **changes)})


# --- one scenario --------------------------------------------------------------------------------------------


def test_two_runs_with_one_seed_give_the_same_records_and_another_seed_other_weights(finished, tmp_path):
    assert comparable(run(tiny(), tmp_path)) == comparable(run(tiny(), finished))
    for place, cell in tiny().cells.items():
        ours, theirs = (artifacts.load_predictions(Store(root), cell)[0] for root in (tmp_path, finished))
        assert torch.equal(ours, theirs), place
    other = tiny(seed=1, train_epsilons=(0,), eval_epsilons=(0,))
    run(other, tmp_path)
    heads = [artifacts.load_classifier(Store(tmp_path), one.cells[0, 0, 0].finetune).linear for one in (tiny(), other)]
    assert not torch.equal(heads[0].weight, heads[1].weight)


def test_a_record_counts_its_own_predictions(finished):
    for place, record in run(tiny(), finished).items():
        ranked, labels = artifacts.load_predictions(Store(finished), tiny().cells[place])
        assert metrics.counts_right(ranked, labels).tolist() == [record.top1_right, record.top5_right]
        scores = metrics.scores(ranked[:, 0], labels, 10)
        assert {name: record.metric(name) for name in scores} == scores
        assert list(record.right_by_class) == metrics.confusion(ranked[:, 0], labels, 10).diagonal().tolist()
        assert list(record.right_by_class) == [int((ranked[labels == k, 0] == k).sum()) for k in range(10)]
        assert sum(record.right_by_class) == record.top1_right


def test_history_is_one_json_line_an_epoch(finished):
    cell = tiny().cells[1.0, 1.0, 0.0]
    for spec in (cell.finetune.pretrain, cell.finetune):
        lines = Store(finished).read(spec, "history.jsonl").decode().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_what_attacks_only_correct_images_gives_robust_accuracy_alone(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    scenario = tiny(recipe=with_stage("evaluation", attacked="correct"))
    found, every = run(scenario, tmp_path / "copy"), run(tiny(), finished)
    for place, record in found.items():
        assert record.robust_right == every[place].robust_right
        assert record.metric("robust") == record.robust_right / 40
        if place[2] == 0:  # nothing is attacked: the same cell
            assert record == every[place]
        else:
            assert record.deviations["recipe.evaluation.attacked"] == ("correct", "all")
            assert {name: getattr(record, name) for name in LITERAL} == dict.fromkeys(LITERAL)
            assert {record.metric(name) for name in ("top1", "top5", "mcc", "precision", "recall", "f1")} == {None}
    assert any(record.robust_right for place, record in found.items() if place[2] > 0)


def test_the_precision_of_a_pretraining_is_in_its_provenance(tmp_path):
    recipe = with_stage("pretraining", precision="bfloat16", epochs=1)
    (record,) = run(tiny(recipe=recipe, train_epsilons=(0,), eval_epsilons=(0,)), tmp_path).values()
    stages = {name: stage["dtype"] for name, stage in record.provenance.items()}
    assert stages == {"pretrain": "bfloat16", "finetune": "float32", "evaluate": "float32"}


def test_a_transfer_of_ones_own_runs_and_deviates_from_nothing(tmp_path):
    own = dataclasses.replace(tiny("digits-low-to-high", train_epsilons=(1,), eval_epsilons=(0,)), name="my-own")
    (record,) = run(own, tmp_path).values()
    assert (record.classes, record.top5_right, record.n) == (5, 40, 40)
    assert (record.scenario, record.deviations) == ("my-own", {})


def test_a_model_that_draws_random_numbers_of_its_own_is_reproducible(tmp_path):
    """Drop-path takes them from torch's global generator."""
    small = {"train_epsilons": (0,), "eval_epsilons": (0,), "train_limit": 10, "test_limit": 10}
    pretrain_only = tiny(encoder="tiny_vit_5m_224", recipe=with_stage("pretraining", epochs=1), **small)
    weights = []
    for name in ("a", "b"):
        torch.manual_seed(len(weights))
        run(pretrain_only, tmp_path / name)
        model = artifacts.load_simclr(Store(tmp_path / name), pretrain_only.cells[0, 0, 0].finetune.pretrain)
        weights.append(model.head.layers[0].weight)
    assert torch.equal(*weights)


def test_digits_shows_the_effect(digits):
    """A plain encoder is right without an attack and falls under it; one pretrained under attack stands.

    98 %, 1 % and 86 %, within a point with AVX-512 and AVX2: three, nine and 15 points from what is asked for here.
    """
    accuracy = {place: record.metric("top1") for place, record in digits.items()}
    assert len({row for row, _, _ in accuracy}) == 3
    assert len({column for _, _, column in accuracy}) == 5
    assert accuracy[0, 0, 0] >= 0.95
    assert accuracy[0, 0, 1] < 0.10
    assert accuracy[1, 1, 1] > 0.70
    assert all(record.deviations == {} for record in digits.values())


def test_real_cifar_goes_through(cifar, tmp_path):
    """The main job on real images, cut to a handful: every stage, adversarial and not, with the default encoder."""
    one = registry.get("cifar10-to-cifar100")
    stages = {name: dataclasses.replace(getattr(one.recipe, name), epochs=1) for name in ("pretraining", "finetuning")}
    limits = {"train_limit": 200, "test_limit": 100, "train_epsilons": (0, 1), "eval_epsilons": (0, 1)}
    found = run(
        dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, **stages), **limits), tmp_path, data_dir=cifar
    )
    assert [record.n for record in found.values()] == [100] * 4
    assert found[1, 1, 0].spec.finetune.pretrain.encoder == "resnet18"


# --- suites --------------------------------------------------------------------------------------------------


@pytest.fixture
def own_suite(own_registry):
    """Two registered scenarios that share a pretraining, and one of them a head, and a suite of both."""
    base = tiny("digits-low-to-low", train_epsilons=(1,), eval_epsilons=(0,))
    first = registry.register(dataclasses.replace(base, name="robust", eval_epsilons=(0, 0.5)))
    second = registry.register(dataclasses.replace(base, name="heads", finetune_epsilons=(0, 1)))
    registry.register(Suite("both", ("robust", "heads")))
    return first, second


def test_what_scenarios_of_a_suite_share_is_built_once_and_each_is_noted(own_suite, tmp_path):
    """One encoder and two heads; the robust head's cell without an attack belongs to both."""
    seen = []
    found = run_suite("both", tmp_path, observe=seen.append)
    built = [progress.spec for progress in seen if progress.tick is None]
    assert [spec.stage for spec in built] == ["pretrain", "finetune", *["evaluate"] * 2, "finetune", "evaluate"]
    assert len({spec.key for spec in built}) == 6
    assert {progress.total for progress in seen} == {6}
    assert {name: list(records) for name, records in found.items()} == {
        "robust": [(1, 1, 0), (1, 1, 0.5)],
        "heads": [(1, 0, 0), (1, 1, 0)],
    }
    assert found["heads"][1, 1, 0] == found["robust"][1, 1, 0]
    assert found["heads"][1, 1, 0].scenario == "robust"
    assert found["heads"][1, 0, 0].scenario == "heads"
    assert found["heads"][1, 0, 0].key == own_suite[1].cells[1, 0, 0].key != found["heads"][1, 1, 0].key
    notes = {note.name: note for _, note in read_notes(Store(tmp_path))}
    assert set(notes) == {"robust", "heads"}
    for one in own_suite:
        assert notes[one.name].cells == tuple((*place, cell.key) for place, cell in one.cells.items())
        assert notes[one.name].registered_rows == tuple(one.rows)
        assert notes[one.name].deviations == {}
    assert run_suite("both", tmp_path, observe=lambda progress: pytest.fail("built again")) == found


def test_a_suite_gives_what_its_scenarios_give_alone(own_suite, tmp_path):
    """Also where a second scenario comes into the store of a first, with whom it shares a pretraining."""
    found = run_suite("both", tmp_path / "suite")
    for one in own_suite:
        alone = comparable(run(one, tmp_path / "alone"))
        ours = comparable(found[one.name])
        for place in alone:
            del alone[place]["scenario"], ours[place]["scenario"]  # whose it was first
        assert ours == alone
    assert list(found) == ["robust", "heads"]
    assert run_suite("robust", tmp_path / "suite") == {"robust": found["robust"]}


def test_run_suite_takes_a_name_a_suite_or_any_of_names_and_scenarios(finished, tmp_path, own_registry):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    registry._scenarios["digits"] = tiny()
    suite = registry.register(Suite("mine", ("digits",)))
    expected = run(tiny(), tmp_path)
    for given in ("mine", suite, ["digits"], [tiny()], ["mine"]):
        assert run_suite(given, tmp_path) == {"digits": expected}


def test_a_shard_gives_its_records_alone(finished):
    found = [run_suite([tiny()], finished, shard=(k, 2))["digits"] for k in (1, 2)]
    assert [list(one) for one in found] == [[(0, 0, 0), (0, 0, 0.5)], [(1, 1, 0), (1, 1, 0.5)]]


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suite", "error", "said"),
    [
        ([tiny(), tiny(train_limit=40)], InvalidValue, r"scenarios of different names or seeds, got \['digits', 'dig"),
        ("ross2023", UnknownName, "unknown scenario or suite 'ross2023'; did you mean ross2022"),
    ],
)
def test_a_suite_that_is_none_is_refused(tmp_path, suite, error, said):
    with pytest.raises(error, match=said):
        run_suite(suite, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_data_that_is_missing_is_said_before_anything_is_built(tmp_path, monkeypatch):
    real = datasets.load

    def load(name, split, *arguments):
        if split == "test":
            raise DataError("digits: not there")
        return real(name, split, *arguments)

    monkeypatch.setattr(datasets, "load", load)
    with pytest.raises(DataError, match="not there"):
        run(tiny(), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_damaged_weights_are_named(finished, tmp_path):
    store, cell = Store(tmp_path / "copy"), tiny().cells[1.0, 1.0, 0.5]
    shutil.copytree(finished, store.root)
    path = store.path(cell.finetune) / "weights.safetensors"
    tamper(path, path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"weights\.safetensors: expected safetensors, got a damaged file"):
        artifacts.load_classifier(store, cell.finetune)


@pytest.mark.parametrize("name", ["cpu:1", "tpu", "cuda:", "cuda:99", "", "cuda:x", "cuda:²"])
def test_a_device_that_is_not_there_is_refused(name):
    if name == "cuda:" and torch.cuda.is_available():
        pytest.skip("cuda is there")
    with pytest.raises(InvalidValue, match="device"):
        resolve_device(name)


def test_auto_finds_a_device():
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")


def test_a_large_images_scenario_can_be_declared_without_its_data():
    own = Scenario("stl", source="stl10", target="stl10", encoder="resnet50")
    assert all(isinstance(cell, EvaluateSpec) for cell in own.cells.values())
