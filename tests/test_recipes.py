import math

import pytest

from rossbench.config.recipes import (
    FINETUNINGS,
    Attack,
    Augmentation,
    Evaluation,
    Finetuning,
    Pretraining,
    Recipe,
)
from rossbench.config.scenarios import Scenario
from rossbench.util.errors import InvalidValue, UnknownName
from rossbench.util.values import flatten, with_fields


def test_the_defaults_are_the_protocol_of_the_study():
    flat = flatten(Recipe())
    expected = {
        # section 5.2
        "pretraining.epochs": 500,
        "pretraining.batch_size": 256,
        "pretraining.learning_rate": 2e-4,
        "pretraining.attack.steps": 3,
        "pretraining.attack.step_size": 1.0,
        "pretraining.attack.norm": "L2",
        "pretraining.augmentation.jitter_probability": 0.8,
        "pretraining.augmentation.grayscale_probability": 0.2,
        "pretraining.augmentation.blur_kernel": 0.1,
        "finetuning.epochs": 100,
        "finetuning.batch_size": 256,
        "finetuning.learning_rate": 8e-5,
        "finetuning.attack.steps": 3,
        "finetuning.attack.step_size": 1.0,
        # section 5.4.1
        "evaluation.attack.steps": 20,
        "evaluation.attack.step_size": 3.0,
        "evaluation.batch_size": 1024,
        # sthalles/SimCLR, where the study is silent
        "pretraining.temperature": 0.07,
        "pretraining.weight_decay": 1e-4,
        "pretraining.projection_dim": 128,
        "pretraining.projection_batch_norm": False,
        "pretraining.normalize": False,
        "pretraining.constant_epochs": 10,
        "pretraining.augmentation.crop_scale": (0.08, 1.0),
        "pretraining.augmentation.jitter": (0.8, 0.8, 0.8, 0.2),
        "pretraining.augmentation.blur_probability": 1.0,
        "finetuning.weight_decay": 8e-4,
        # what was done before these were choices
        "pretraining.precision": "float32",
        "pretraining.channels_last": False,
        "evaluation.attacked": "all",
    }
    assert {name: flat[name] for name in expected} == expected
    scenario = Scenario("x", "cifar10", "cifar100")
    assert scenario.train_epsilons == scenario.eval_epsilons == (0, 0.2, 0.4, 0.6, 0.8, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pretraining(epochs=0), "Pretraining.epochs: expected a number of at least 1, got 0"),
        (lambda: Pretraining(epochs=1.5), "Pretraining.epochs: expected a whole number, got 1.5"),
        (lambda: Pretraining(epochs=True), "Pretraining.epochs: expected a whole number, got True"),
        (lambda: Pretraining(learning_rate=0), "Pretraining.learning_rate: expected a number above 0, got 0"),
        (lambda: Pretraining(learning_rate=math.nan), "got nan"),
        (lambda: Pretraining(temperature="hot"), "got 'hot'"),
        (
            lambda: Pretraining(epochs=3, epsilon_warmup=3),
            "expected fewer than the 3 epochs, or it never reaches the full",
        ),
        (lambda: Pretraining(epsilon_warmup=-1), "Pretraining.epsilon_warmup: expected a number of at least 0, got -1"),
        (lambda: Pretraining(normalize=1), "Pretraining.normalize: expected true or false, got 1"),
        (lambda: Pretraining(attack_mode="evil"), "unknown Pretraining.attack_mode 'evil'; did you mean eval"),
        (lambda: Pretraining(precision="float16"), "unknown Pretraining.precision 'float16'; did you mean"),
        (lambda: Pretraining(channels_last=1), "Pretraining.channels_last: expected true or false, got 1"),
        (lambda: Evaluation(attacked="wrong"), "unknown Evaluation.attacked 'wrong'"),
        (lambda: Finetuning(attack="pgd"), "Finetuning.attack: expected the fields of Attack, got 'pgd'"),
        (lambda: Attack(norm="L3"), "unknown Attack.norm 'L3'"),
        (lambda: Attack(steps=0), "Attack.steps"),
        (lambda: Augmentation(crop_scale=(1, 0.5)), "Augmentation.crop_scale: expected (low, high)"),
        (lambda: Augmentation(jitter=(0.8, 0.8)), "Augmentation.jitter.2: expected a value"),
        (
            lambda: Augmentation(jitter=(0.8, 0.8, 0.8, 0.6)),
            "Augmentation.jitter.3: expected a number of at most 0.5, got 0.6",
        ),
    ],
)
def test_a_field_out_of_its_range_is_refused(make, message):
    with pytest.raises((InvalidValue, UnknownName)) as raised:
        make()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


COMMON = {"epochs": 25, "weight_decay": 2e-4, "optimizer": "sgd", "momentum": 0.9, "crop_padding": 4}
COMMON |= {"flip_probability": 0.5, "head_init": "zero", "attack.norm": "Linf", "attack.steps": 10}
LINEAR = {"trained": "linear", "batch_size": 512, "learning_rate": 0.01, "milestones": (10, 20), "loss": "ce"}
FULL = {"trained": "full", "batch_size": 128, "learning_rate": 0.1, "milestones": (15, 20), "loss": "trades"}


@pytest.mark.parametrize(
    ("name", "settings", "epsilon"),
    [("field-slf", LINEAR, 0), ("field-alf", LINEAR, 8 / 255), ("field-aff", {**FULL, "trades_beta": 6}, 8 / 255)],
)
def test_a_preset_is_the_protocol_of_the_field(name, settings, epsilon):
    one = with_fields(Scenario("x", "cifar10", "cifar10"), FINETUNINGS[name])
    flat = flatten(one.recipe.finetuning)
    assert {field: flat[field] for field in (*COMMON, *settings)} == {**COMMON, **settings}
    assert one.recipe.finetuning.attack.length(8 / 255) == pytest.approx(2 / 255)
    test = one.recipe.evaluation.attack
    assert (test.name, test.norm, test.steps, test.random_start) == ("pgd", "Linf", 20, True)
    assert test.length(8 / 255) == pytest.approx(2 / 255)
    assert (one.finetune_epsilons, one.eval_epsilons) == ((epsilon,), (0, 8 / 255))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "lars"}, "unknown Finetuning.optimizer 'lars'"),
        ({"momentum": 1.5}, "Finetuning.momentum: expected a number of at most 1, got 1.5"),
        ({"milestones": (0,)}, "Finetuning.milestones.0: expected a number of at least 1, got 0"),
        ({"milestones": 10}, "Finetuning.milestones: expected a list, got 10"),
        ({"crop_padding": -1}, "Finetuning.crop_padding: expected a number of at least 0, got -1"),
        ({"crop_padding": 65}, "Finetuning.crop_padding: expected a number of at most 64, got 65"),
        ({"flip_probability": 2}, "Finetuning.flip_probability: expected a number of at most 1, got 2"),
        ({"head_init": "one"}, "unknown Finetuning.head_init 'one'"),
        ({"loss": "mart"}, "unknown Finetuning.loss 'mart'"),
        ({"trades_beta": -1}, "Finetuning.trades_beta: expected a number of at least 0, got -1"),
    ],
)
def test_a_field_of_finetuning_out_of_its_range_is_refused(fields, message):
    with pytest.raises((InvalidValue, UnknownName)) as raised:
        Finetuning(**fields)
    assert message in str(raised.value)
