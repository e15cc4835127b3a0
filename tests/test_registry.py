import importlib.metadata
import logging

import pytest
from conftest import refusal

from rossbench import registry
from rossbench.config.recipes import Attack, Evaluation, Recipe
from rossbench.config.scenarios import Scenario, Suite, specs_of
from rossbench.util.errors import InvalidValue, UnknownName

pytestmark = pytest.mark.usefixtures("own_registry")


def mine(name="svhn-to-cifar10"):
    return Scenario(name, source="svhn", target="cifar10")


def test_built_in_names():
    pairs = [f"cifar{a}-to-cifar{b}" for a in (10, 100) for b in (10, 100)]
    stl10 = [f"cifar{a}-to-stl10" for a in (10, 100)]
    halves = [f"digits-{a}-to-{b}" for a in ("low", "high") for b in ("low", "high")]
    names = [*pairs, *stl10, "stl10-to-stl10", *(f"{one}-{norm}" for one in pairs for norm in ("linf", "l2"))]
    laptop = [f"{one}-laptop" for one in pairs]
    names += [*(f"{one}-linf" for one in stl10), *laptop, "digits", *halves]
    assert registry.names() == [*names, *(f"{one}-finetuning" for one in (*pairs, *laptop, *halves))]
    assert [registry.get(name).name for name in registry.names()] == registry.names()
    parts = ("-same-task", "-transfer", "-finetuning", "")
    studies = ("ross2022", "cifar-laptop", "digits-study")
    assert [suite.name for suite in registry.suites()] == [study + part for study in studies for part in parts]


def test_a_name_is_registered_once():
    assert registry.register(mine()) is registry.get("svhn-to-cifar10")
    with pytest.raises(InvalidValue, match="'svhn-to-cifar10' is registered already"):
        registry.register(mine())


def test_a_suites_members_are_its_scenarios_in_its_order():
    suite = registry.register(Suite("mine", ("digits-low-to-high", "digits")))
    assert suite in registry.suites()
    assert registry.members("mine") == (registry.get("digits-low-to-high"), registry.get("digits"))
    assert registry.members(suite) == registry.members("mine")
    assert "mine" not in registry.names()
    assert registry.members("digits") == (registry.get("digits"),)
    with pytest.raises(UnknownName, match="'mine' is a suite, not a scenario; run_suite runs it"):
        registry.get("mine")


def test_suites_in_suites_give_each_scenario_once():
    registry.register(Suite("inner", ("digits", "digits-low-to-high")))
    registry.register(Suite("outer", ("digits-low-to-low", "inner", "digits", "digits-low-to-low")))
    registry.register(Suite("outermost", ("outer", "inner")))
    expected = ["digits-low-to-low", "digits", "digits-low-to-high"]
    assert [one.name for one in registry.members("outer")] == expected
    assert [one.name for one in registry.members("outermost")] == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Suite("digits", ("digits",)), "'digits' is registered already; choose another name"),
        (Suite("ross2022", ("digits",)), "'ross2022' is registered already; choose another name"),
        (mine("ross2022"), "'ross2022' is registered already; choose another name"),
        (Suite("mine", ("digits", "digitz")), "unknown member of suite 'mine' 'digitz'; did you mean digits"),
        (Suite("mine", ("ross2O22",)), "unknown member of suite 'mine' 'ross2O22'; did you mean ross2022"),
        (Suite("mine", ("mine",)), "unknown member of suite 'mine' 'mine'"),
        ("digits", "expected a Scenario or a Suite, got 'digits'"),
    ],
)
def test_what_cannot_be_registered_is_refused_and_leaves_nothing(entry, message):
    before = registry.names(), registry.suites()
    assert message in refusal(registry.register, entry)
    assert (registry.names(), registry.suites()) == before


STUDIES = [
    # pretrainings, heads and cells; the studied sets; epsilons of pretraining and of evaluation
    ("ross2022", (12, 28, 168), ("cifar10", "cifar100"), (0, 0.2, 0.4, 0.6, 0.8, 1), (0, 0.2, 0.4, 0.6, 0.8, 1)),
    ("digits-study", (6, 16, 80), ("digits-low", "digits-high"), (0, 0.5, 1), (0, 0.25, 0.5, 0.75, 1)),
]


@pytest.mark.parametrize(("suite", "counts", "sets", "rows", "columns"), STUDIES, ids=[name for name, *_ in STUDIES])
def test_a_study_is_the_three_experiments(suite, counts, sets, rows, columns):
    """Sections 5.4.1 to 5.4.3: same task, another task, and standard against adversarial heads."""
    whole = registry.members(suite)
    specs = list(specs_of(whole))
    assert tuple(sum(s.stage == stage for s in specs) for stage in ("pretrain", "finetune", "evaluate")) == counts
    same, other, heads = (registry.members(f"{suite}-{part}") for part in ("same-task", "transfer", "finetuning"))
    assert whole == (*same, *other, *heads)
    a, b = sets
    assert {(one.source, one.target) for one in same} == {(a, a), (b, b)}
    assert {(one.source, one.target) for one in other} == {(a, b), (b, a)}
    assert {(one.source, one.target) for one in heads} == {(a, a), (b, b), (a, b), (b, a)}
    assert len(whole) == 8
    for one in (*same, *other):
        assert one.rows == [(epsilon, epsilon) for epsilon in rows]
        assert one.eval_epsilons == columns
    bases = {(one.source, one.target): one for one in (*same, *other)}
    for one in heads:
        assert one.rows == [(1, 0), (1, 1)]
        base = bases[one.source, one.target]
        for column in columns:
            assert one.cells[1, 1, column].key == base.cells[1, 1, column].key
            assert one.cells[1, 0, column].finetune.pretrain.key == base.cells[1, 1, column].finetune.pretrain.key
            assert one.cells[1, 0, column].key not in {cell.key for cell in base.cells.values()}


@pytest.mark.parametrize(
    ("find", "name", "said"),
    [
        (registry.get, "cifar10-cifar100", "unknown scenario 'cifar10-cifar100'; did you mean cifar10-to-cifar100 or"),
        (registry.get, "digit", "'digit'; did you mean digits?"),
        (registry.get, "zzz", "'zzz'; known: cifar10-to-cifar10, "),
        (registry.members, "ross-2022", "unknown scenario or suite 'ross-2022'; did you mean ross2022"),
        (registry.members, "digit", "unknown scenario or suite 'digit'; did you mean digits"),
        (registry.members, "zzz", "unknown scenario or suite 'zzz'; known: cifar-laptop, "),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(find, name, said):
    with pytest.raises(UnknownName) as raised:
        find(name)
    assert said in str(raised.value)


OWN = """
from rossbench.registry import Scenario, Suite, register
mine = register(Scenario("svhn-to-cifar10", source="svhn", target="cifar10"))
"""


def test_a_file_registers_scenarios_and_suites(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(OWN + "register(Suite('mine', (mine.name, 'digits')))\n")
    registry.load_file(path)
    assert registry.members("mine") == (mine(), registry.get("digits"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("from rossbench.registry import *\nregister(get('digits'))", "'digits' is registered already"),
        ("from rossbench.registry import *\nregister(Suite('x', ('digitz',)))", "unknown member of suite 'x' 'digitz'"),
        ("from rossbench.registry import *\nScenario('x', 'cifar10', 'mnist')", "expected images of cifar10's size"),
    ],
)
def test_a_file_that_fails_is_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "my.py"
    path.write_text(text)
    said = refusal(registry.load_file, path)
    assert str(path) in said
    assert message in said


def plugged(monkeypatch, folder, **plugins):
    """Plug-ins as if they were installed: name -> code."""
    for name, code in plugins.items():
        (folder / f"{name}_plugin.py").write_text(code)
    found = [importlib.metadata.EntryPoint(name, f"{name}_plugin", "rossbench.scenarios") for name in plugins]
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)


def test_plugins_are_loaded_and_a_broken_one_only_warns(monkeypatch, caplog, tmp_path):
    plugged(monkeypatch, tmp_path, bad="1 / 0\n", good=OWN)
    with caplog.at_level(logging.WARNING):
        assert "svhn-to-cifar10" in registry.names()
    assert "plug-in bad (bad_plugin) is left out: ZeroDivisionError" in caplog.text


def test_a_suite_may_name_what_only_a_plugin_knows(monkeypatch, tmp_path):
    plugged(monkeypatch, tmp_path, late=OWN)
    registry.register(Suite("mine", ("svhn-to-cifar10",)))
    assert registry.members("mine") == (mine(),)


def own(model, images, labels, epsilon, attack):
    return images


def test_an_attack_is_registered_and_a_scenario_may_name_it():
    recipe = Recipe(evaluation=Evaluation(attack=Attack("my-attack")))
    with pytest.raises(UnknownName, match="unknown attack 'my-attack'"):
        Scenario("x", "digits", "digits", recipe)
    assert registry.register_attack("my-attack", own) is own
    assert Scenario("x", "digits", "digits", recipe).recipe.evaluation.attack.name == "my-attack"
    assert registry.attack("my-attack").user_function is own
    with pytest.raises(UnknownName, match="unknown attack 'my-atack'; did you mean my-attack"):
        registry.attack("my-atack")


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("pgd", own, "attack 'pgd' is registered already"),
        ("My Attack", own, "attack name: expected lower-case letters"),
        ("../x", own, "attack name: expected lower-case letters"),
        ("mine", "own", "attack 'mine': expected a function, got 'own'"),
    ],
)
def test_an_attack_that_cannot_be_registered(name, function, message):
    assert message in refusal(registry.register_attack, name, function)


def test_leaderboards_scenarios_are_attacked_as_leaderboards_do():
    for norm, epsilon in (("Linf", 8 / 255), ("L2", 0.5)):
        one = registry.get(f"cifar10-to-cifar100-{norm.lower()}")
        attacks = (one.recipe.pretraining.attack, one.recipe.finetuning.attack, one.recipe.evaluation.attack)
        assert {attack.norm for attack in attacks} == {norm}
        assert one.recipe.evaluation.attack.name == "autoattack-standard"
        assert one.recipe.evaluation.attacked == "correct"
        assert one.train_epsilons == one.eval_epsilons == (0, epsilon)
