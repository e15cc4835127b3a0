import pytest
from conftest import refusal

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


WRONG = [
    (Pretraining, {"epochs": 0}, "Pretraining.epochs: expected a number of at least 1, got 0"),
    (Pretraining, {"learning_rate": 0}, "Pretraining.learning_rate: expected a number above 0, got 0"),
    (Pretraining, {"epochs": 3, "epsilon_warmup": 3}, "fewer than the 3 epochs, or it never reaches the full"),
    (Pretraining, {"epsilon_warmup": -1}, "Pretraining.epsilon_warmup: expected a number of at least 0, got -1"),
    (Pretraining, {"normalize": 1}, "Pretraining.normalize: expected true or false, got 1"),
    (Pretraining, {"attack_mode": "evil"}, "unknown Pretraining.attack_mode 'evil'; did you mean eval"),
    (Evaluation, {"attacked": "wrong"}, "unknown Evaluation.attacked 'wrong'"),
    (Attack, {"norm": "L3"}, "unknown Attack.norm 'L3'"),
    (Augmentation, {"crop_scale": (1, 0.5)}, "Augmentation.crop_scale: expected (low, high)"),
    (Augmentation, {"jitter": (0.8, 0.8)}, "Augmentation.jitter.2: expected a value"),
    (Augmentation, {"jitter": (0.8, 0.8, 0.8, 0.6)}, "Augmentation.jitter.3: expected a number of at most 0.5"),
    (Finetuning, {"attack": "pgd"}, "Finetuning.attack: expected the fields of Attack, got 'pgd'"),
    (Finetuning, {"milestones": (0,)}, "Finetuning.milestones.0: expected a number of at least 1, got 0"),
    (Finetuning, {"crop_padding": 65}, "Finetuning.crop_padding: expected a number of at most 64, got 65"),
    (Finetuning, {"flip_probability": 2}, "Finetuning.flip_probability: expected a number of at most 1, got 2"),
    (Finetuning, {"trades_beta": -1}, "Finetuning.trades_beta: expected a number of at least 0, got -1"),
]


@pytest.mark.parametrize(("part", "fields", "message"), WRONG)
def test_a_field_out_of_its_range_is_refused_in_one_line(part, fields, message):
    assert message in refusal(lambda: part(**fields))


COMMON = {"epochs": 25, "weight_decay": 2e-4, "optimizer": "sgd", "momentum": 0.9, "crop_padding": 4}
COMMON |= {"flip_probability": 0.5, "head_init": "zero", "attack.norm": "Linf", "attack.steps": 10}
LINEAR = {"trained": "linear", "batch_size": 512, "learning_rate": 0.01, "milestones": (10, 20), "loss": "ce"}
DEACL = {"trained": "linear+statistics", "batch_size": 512, "learning_rate": 0.01, "milestones": (15, 20)}
DEACL |= {"loss": "trades", "trades_beta": 6, "head_init": "default"}
FULL = {"trained": "full", "batch_size": 128, "learning_rate": 0.1, "milestones": (15, 20), "loss": "trades"}


@pytest.mark.parametrize(
    ("name", "settings", "epsilon"),
    [
        ("field-slf", LINEAR, 0),
        ("field-alf", LINEAR, 8 / 255),
        ("field-aff", {**FULL, "trades_beta": 6}, 8 / 255),
        ("deacl-slf", {**DEACL, "learning_rate": 0.1, "loss": "ce"}, 0),
        ("deacl-alf", DEACL, 8 / 255),
        ("deacl-aff", {**DEACL, "trained": "full"}, 8 / 255),
    ],
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
