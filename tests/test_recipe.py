import math

import pytest
from conftest import TEXTS, refusal, values
from hypothesis import example, given
from hypothesis import strategies as st

from rossbench.config.recipes import (
    ATTACKS,
    Attack,
    Augmentation,
    Evaluation,
    Finetuning,
    Pretraining,
    Recipe,
    attack_of,
)
from rossbench.config.scenarios import Scenario
from rossbench.util.errors import InvalidValue, UnknownName
from rossbench.util.values import flatten


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


PGD = Attack()  # the study's


@pytest.mark.parametrize(
    ("text", "base", "expected"),
    [
        ("pgd", PGD, PGD),
        ("steps=100", PGD, Attack(steps=100)),
        ("pgd,steps=100,restarts=5", PGD, Attack(steps=100, restarts=5)),
        ("step_size=0.1,step_unit=epsilon,random_start=false", PGD, Attack("pgd", "L2", 20, 0.1, False, "epsilon")),
        ("norm=Linf,step_size=2/255", PGD, Attack(norm="Linf", step_size=2 / 255)),
        ("apgd-ce", PGD, Attack("apgd-ce", steps=100)),
        ("apgd-ce,steps=50", Attack(norm="Linf", step_size=0.1), Attack("apgd-ce", "Linf", steps=50)),
        ("square", PGD, Attack("square", steps=5000)),
        ("norm=Linf", Attack("square", steps=300), Attack("square", "Linf", steps=300)),
        ("pgd", Attack("square", "Linf"), Attack("pgd", "Linf", step_size=0.1, step_unit="epsilon")),
        ("autoattack-standard,norm=Linf", PGD, Attack("autoattack-standard", "Linf", steps=100)),
    ],
)
def test_an_attack_from_text(text, base, expected):
    assert attack_of(text, base) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown attack ''"),
        ("PGD", "unknown attack 'PGD'; known: apgd-ce"),
        ("pgd,", "unknown attack setting ''"),
        ("pgd,speed=3", "unknown attack setting 'speed'"),
        ("pgd,name=fgsm", "unknown attack setting 'name'"),
        ("steps=ten", "attack steps: expected a value such as 20, got 'ten'"),
        ("steps=0", "Attack.steps: expected a number of at least 1, got 0"),
        ("steps", "unknown attack 'steps'"),
        ("step_size=1/0", "attack step_size: expected a value such as 3.0, got '1/0'"),
        ("step_size=-1", "Attack.step_size"),
        ("random_start=maybe", "attack random_start: expected a value such as True, got 'maybe'"),
        ("norm=L3", "unknown Attack.norm 'L3'"),
        ("norm=Linf", "expected a step_size with norm=Linf, got one for L2 only"),
        ("autoattack-standard,steps=10", "expected 100, which autoattack-standard stands for, got 10"),
    ],
)
def test_a_text_that_is_no_attack(text, message):
    with pytest.raises((InvalidValue, UnknownName)) as raised:
        attack_of(text, PGD)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("attack", "shown"),
    [
        (PGD, "PGD-L2, 20 steps of 3"),
        (
            Attack(norm="Linf", step_size=0.1, step_unit="epsilon", restarts=5),
            "PGD-Linf, 20 steps of 0.1 ε, 5 restarts",
        ),
        (Attack(random_start=False), "PGD-L2, 20 steps of 3, no random start"),
        (ATTACKS["fgsm"], "FGSM-L2"),
        (ATTACKS["negative"], "negative image"),
        (ATTACKS["square"], "Square-L2, 5000 queries"),
        (ATTACKS["apgd-t"], "APGD-T-L2, 100 steps"),
        (ATTACKS["autoattack-standard"], "AutoAttack standard-L2"),
        (Attack("my-own", "Linf"), "my-own-Linf"),
    ],
)
def test_an_attack_is_shown_by_what_it_uses(attack, shown):
    assert str(attack) == shown


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        (PGD, 40),
        (Attack(steps=10, restarts=3), 60),
        (ATTACKS["fgsm"], 2),
        (ATTACKS["negative"], 0),
        (ATTACKS["square"], 5000),
        (ATTACKS["apgd-ce"], 202),
        (ATTACKS["autoattack-standard"], 202 + 9 * 203 + 9 * 300 + 5000),
    ],
    ids=str,
)
def test_what_an_attack_costs_at_most(attack, passes):
    assert attack.passes == passes


SETTINGS = st.builds(
    "{}={}".format,
    st.sampled_from(sorted(Attack.__dataclass_fields__)),
    st.text("0123456789./e-", max_size=9) | st.sampled_from(["L2", "Linf", "true", "epsilon", "pixel"]) | TEXTS,
)


@given(st.lists(SETTINGS | st.sampled_from(sorted(ATTACKS)) | TEXTS, max_size=3).map(",".join), values(Attack))
@example("step_size=1e400", PGD)
@example("step_size=1e999999999", PGD)
@example("steps=" + "9" * 5000, PGD)
def test_any_text_is_an_attack_or_refused_in_one_line(text, base):
    if refusal(attack_of, text, base) is None:
        found = attack_of(text, base)
        assert isinstance(found, Attack)
        assert len(str(found).splitlines()) == 1


@given(values(Attack))
def test_any_attack_is_shown_in_one_line_and_has_a_cost(attack):
    assert len(str(attack).splitlines()) == 1
    assert attack.passes >= 0
