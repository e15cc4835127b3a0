import pytest
from conftest import TEXTS, refusal, values
from hypothesis import example, given
from hypothesis import strategies as st

from rossbench.attacks.table import ATTACKS, Attack, attack_of
from rossbench.util.errors import InvalidValue, UnknownName

PGD = Attack()  # the study's


@pytest.mark.parametrize("name", ATTACKS)
def test_a_row_is_found_under_its_name_and_has_a_function(name):
    assert ATTACKS[name].defaults.name == name
    assert callable(ATTACKS[name].load())


@pytest.mark.parametrize(
    ("attack", "shown", "passes"),
    [
        (PGD, "PGD-L2, 20 steps of 3", 40),
        (
            Attack(norm="Linf", step_size=0.1, step_unit="epsilon", restarts=5),
            "PGD-Linf, 20 steps of 0.1 ε, 5 restarts",
            200,
        ),
        (Attack(steps=10, random_start=False), "PGD-L2, 10 steps of 3, no random start", 20),
        (ATTACKS["fgsm"].defaults, "FGSM-L2", 2),
        (ATTACKS["gaussian-noise"].defaults, "Gaussian noise-L2", 0),
        (ATTACKS["negative"].defaults, "negative image", 0),
        (ATTACKS["square"].defaults, "Square-L2, 5000 queries", 5000),
        (ATTACKS["apgd-ce"].defaults, "APGD-CE-L2, 100 steps", 202),
        (ATTACKS["apgd-t"].defaults, "APGD-T-L2, 100 steps", 9 * 203),
        (ATTACKS["fab-t"].defaults, "FAB-T-L2, 100 steps", 9 * 300),
        (ATTACKS["autoattack-standard"].defaults, "AutoAttack standard-L2", 202 + 9 * 203 + 9 * 300 + 5000),
        (Attack("my-own", "Linf", restarts=2), "my-own-Linf, 2 restarts", 80),
    ],
    ids=str,
)
def test_an_attack_is_shown_by_what_it_uses_and_costs_at_most(attack, shown, passes):
    assert (str(attack), attack.passes) == (shown, passes)


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
        ("steps=ten", "Attack.steps: expected a whole number, got 'ten'"),
        ("steps=0", "Attack.steps: expected a number of at least 1, got 0"),
        ("steps", "unknown attack 'steps'"),
        ("step_size=1/0", "Attack.step_size: expected a finite number, got '1/0'"),
        ("step_size=-1", "Attack.step_size"),
        ("random_start=maybe", "Attack.random_start: expected true or false, got 'maybe'"),
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
    shown = [base]
    if refusal(attack_of, text, base) is None:
        shown.append(attack_of(text, base))
    for attack in shown:
        assert len(str(attack).splitlines()) == 1
        assert attack.passes >= 0
