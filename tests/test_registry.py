import importlib.metadata
import logging

import pytest

from rossbench import registry
from rossbench.errors import InvalidValue, UnknownName
from rossbench.scenario import Scenario


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Registrations of a test end with it."""
    monkeypatch.setattr(registry, "_scenarios", dict(registry._scenarios))
    registry._load_plugins.cache_clear()
    yield
    registry._load_plugins.cache_clear()


def mine(name="svhn-to-cifar10"):
    return Scenario(name, source="svhn", target="cifar10")


def test_built_in_names():
    assert registry.names() == [
        "cifar10-to-cifar10",
        "cifar10-to-cifar100",
        "cifar100-to-cifar10",
        "cifar100-to-cifar100",
        "digits",
        "digits-low-to-high",
    ]
    for name in registry.names():
        assert registry.get(name).name == name


def test_what_is_registered_is_found():
    assert registry.register(mine()) is registry.get("svhn-to-cifar10")


def test_a_name_is_registered_once():
    registry.register(mine())
    with pytest.raises(InvalidValue, match="'svhn-to-cifar10' is registered already"):
        registry.register(mine())


def test_only_scenarios_are_registered():
    with pytest.raises(InvalidValue, match="expected a Scenario, got 'digits'"):
        registry.register("digits")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar10-cifar100", "did you mean cifar10-to-cifar100 or"),
        ("digit", "did you mean digits?"),
        ("zzz", "known: cifar10-to-cifar10, "),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(name, hint):
    with pytest.raises(UnknownName) as raised:
        registry.get(name)
    assert hint in str(raised.value)


def test_a_file_registers(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(
        "from rossbench.registry import Scenario, register\n"
        "register(Scenario('svhn-to-cifar10', source='svhn', target='cifar10'))\n"
    )
    registry.load_file(path)
    assert registry.get("svhn-to-cifar10") == mine()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nonsense_that_is_not_there", "No module named"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("from rossbench.registry import *\nregister(get('digits'))", "'digits' is registered already"),
        ("from rossbench.registry import *\nScenario('x', 'cifar10', 'mnist')", "expected images of cifar10's size"),
    ],
)
def test_a_file_that_fails_is_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "my.py"
    path.write_text(text)
    with pytest.raises(InvalidValue) as raised:
        registry.load_file(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


def test_plugins_are_loaded_and_a_broken_one_only_warns(monkeypatch, caplog, tmp_path):
    (tmp_path / "good_plugin.py").write_text(
        "from rossbench.registry import Scenario, register\n"
        "register(Scenario('svhn-to-cifar10', source='svhn', target='cifar10'))\n"
    )
    (tmp_path / "bad_plugin.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = [importlib.metadata.EntryPoint(name, name + "_plugin", "rossbench.scenarios") for name in ("bad", "good")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
    with caplog.at_level(logging.WARNING):
        assert "svhn-to-cifar10" in registry.names()
    assert "plug-in bad (bad_plugin) is left out: ZeroDivisionError" in caplog.text
