"""The public functions: options by the command line's names, a stored classifier, and arguments of another type."""

import pytest
import torch
from conftest import tiny
from torch import nn

import rossbench as package
from rossbench.runner import overrides
from rossbench.store import artifacts
from rossbench.store.store import Store
from rossbench.util.errors import RossbenchError, UnknownName

OPTIONS = {
    "attack": ({"attack": "pgd,steps=100"}, lambda one: one.recipe.evaluation.attack.steps == 100),
    "an Attack": ({"attack": package.Attack(steps=7)}, lambda one: one.recipe.evaluation.attack.steps == 7),
    "attacked": ({"attacked": "correct"}, lambda one: one.recipe.evaluation.attacked == "correct"),
    "epsilons": ({"epsilons": (0, 0.25)}, lambda one: one.eval_epsilons == (0, 0.25)),
    "one epsilon": ({"epsilons": 0.25}, lambda one: one.eval_epsilons == (0.25,)),
    "limits": ({"train_limit": 50, "test_limit": 30}, lambda one: (one.train_limit, one.test_limit) == (50, 30)),
    "seed": ({"seed": 3}, lambda one: one.seed == 3),
    "finetuning": ({"finetuning": "AFF"}, lambda one: one.recipe.finetuning.trained == "full"),
    "finetune_epochs": ({"finetune_epochs": 9}, lambda one: one.recipe.finetuning.epochs == 9),
    "settings": (
        {"settings": {"finetuning.learning_rate": 0.5, "evaluation.attack.random_start": False}},
        lambda one: (one.recipe.finetuning.learning_rate, one.recipe.evaluation.attack.random_start) == (0.5, False),
    ),
    "None": ({"attack": None, "epsilons": None, "settings": None}, lambda one: one == tiny()),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_have_the_names_of_the_command_line(case):
    given, holds = OPTIONS[case]
    assert holds(overrides.with_options(tiny(), given))


WRONG = {
    "a wrong name": ({"attak": "square"}, "unknown option of evaluate_encoder 'attak'; did you mean attack"),
    "another's name": ({"test_limits": 3}, "did you mean test_limit"),
    "a wrong attack": ({"attack": "squar"}, "unknown attack 'squar'; did you mean square"),
    "a number as attack": ({"attack": 3}, "attack: expected a name, settings or an Attack, got 3"),
    "a wrong finetuning": ({"finetuning": "alf"}, "unknown finetuning 'alf'"),
    "a list as finetuning": ({"finetuning": []}, "unknown finetuning"),
    "epsilons in words": ({"epsilons": "0,1"}, "expected a list"),
    "too large": ({"epsilons": (0, 99)}, "at most 27.71, the largest L2 distance"),
    "a text as limit": ({"test_limit": "many"}, "expected a whole number"),
    "a wrong field": ({"settings": {"finetuning.epoch": 3}}, "did you mean finetuning.epochs"),
    "no dictionary": ({"settings": ["finetuning.epochs=3"]}, "settings: expected a dictionary"),
    "of the pretraining": ({"settings": {"pretraining.epochs": 3}}, "is of the pretraining, which the module replaces"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_one_line(case, tmp_path):
    given, message = WRONG[case]
    with pytest.raises(RossbenchError, match=message) as error:
        package.evaluate_encoder(nn.Flatten(), scenario=tiny(), store=tmp_path, **given)
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("row", [1, 1.0, (1, 1), [1.0, 1.0]])
def test_a_stored_classifier_is_that_of_the_row(finished, row):
    found = package.load_classifier(finished, tiny(), row)
    expected = artifacts.load_classifier(Store(finished), tiny().cells[1, 1, 0].finetune).eval()
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(found(images), expected(images))
    assert not any(module.training for module in found.modules())
    assert not any(parameter.requires_grad for parameter in found.parameters())


@pytest.mark.parametrize("row", [0.5, (0, 1), (1, 0), 2])
def test_a_row_that_is_not_there_lists_those_that_are(finished, row):
    with pytest.raises(RossbenchError, match=r"models: expected the ε of a model that was run, 0 or 1, got"):
        package.load_classifier(finished, "digits", row)


@pytest.mark.parametrize("row", ["x", None, (1,), (1, 1, 1), {}, (None, 1), object()])
def test_a_row_that_is_none_is_one_line(finished, row):
    with pytest.raises(RossbenchError, match="row: expected an epsilon"):
        package.load_classifier(finished, "digits", row)


def test_a_module_of_ones_own_is_given_again(tmp_path):
    where = {"scenario": tiny(), "store": tmp_path, "device": "cpu", "epsilons": 0}
    package.evaluate_encoder(nn.Flatten(), mean=0.5, **where)
    with pytest.raises(RossbenchError, match=r"call rossbench\.evaluate_encoder with it again"):
        package.load_classifier(tmp_path, "digits", 0)
    assert (
        package.load_classifier(tmp_path, "digits", 0, module=nn.Flatten(), mean=0.5)(torch.rand(2, 3, 16, 16))
        .isfinite()
        .all()
    )
    with pytest.raises(RossbenchError, match="expected a module that digits was run with, got another"):
        package.load_classifier(tmp_path, "digits", 0, module=nn.Flatten())


ODD = (5, None, 1.5, [], {}, object(), b"x", ("a",))


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_arguments_of_another_type_are_one_line(odd, tmp_path):
    calls = [
        lambda: package.run(odd, store=tmp_path),
        lambda: package.get(odd),
        lambda: package.members(odd),
        lambda: package.register(odd),
        lambda: package.register_attack(odd, len),
        lambda: package.register_folder(odd, tmp_path, size=8),
        lambda: package.evaluate_encoder(odd, store=tmp_path),
        lambda: package.evaluate_encoder(nn.Flatten(), scenario=odd, store=tmp_path),
        lambda: package.run(tiny(), store=odd),
        lambda: package.run(tiny(), store=tmp_path, device=odd),
        lambda: package.load_classifier(odd, "digits", 0),
        lambda: package.load_classifier(tmp_path, odd, 0),
    ]
    if odd is not None:
        calls.append(lambda: package.run(tiny(), store=tmp_path, data_dir=odd))
    for call in calls:
        with pytest.raises(RossbenchError) as error:
            call()
        assert len(str(error.value).splitlines()) == 1


def test_a_metric_that_no_record_has_gets_the_nearest(finished):
    record = package.run(tiny(), store=finished, device="cpu")[0, 0, 0]
    for name in ("acc", "top-1", "key", "metric", None, 3):
        with pytest.raises(UnknownName, match="unknown metric"):
            record.metric(name)
    with pytest.raises(UnknownName, match="did you mean top1"):
        record.metric("top-1")
