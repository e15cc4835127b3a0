"""The shape of the package: what is public, who imports whom, and that it is clean."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import rossbench

PACKAGE = Path(rossbench.__file__).parent
ROOT = PACKAGE.parent

FOLDERS = ["util", "data", "attacks", "config", "registry", "models", "store", "stages", "runner", "report", "cli"]
"""docs/architecture.md's picture, from below: each imports from itself and from those before it."""
HOMES = {
    "filelock": {"util.locks"},
    "click": {"cli"},
    "jinja2": {"report.templates"},
    "lightly": {"models.simclr"},
    "matplotlib": {"report.plot_style", "report.figures", "report.page_figures", "util.backend"},
    "openTSNE": {"report.figures.maps"},
    "pandas": {"report.dataframe"},
    "ray": {"runner.cluster"},
    "rich": {"cli", "runner.display", "report.formats"},
    "safetensors": {"store.artifacts", "store.export", "models.checkpoints", "stages.evaluate"},
    "scipy": {"util.statistics"},
    "sklearn": {"data.datasets"},
    "timm": {"models.encoders", "models.checkpoints"},
    "torchattacks": {"attacks.autoattack"},
    "torchmetrics": {"stages.metrics"},
    "torchvision": {"data", "stages.kinds.corruptions"},
    "yaml": {"report.card"},
}
"""Modules, or folders, that alone import a library."""
NO_TORCH = {"config", "data", "registry", "cli", "report.tables", "report.formats", "report.published"}
NO_TORCH |= {"report.dataframe", "report.ranking", "report.model", "report.card", "report.leaderboard"}
NO_TORCH.add("attacks.table")
NO_TORCH |= {f"store.{name}" for name in ("store", "records", "results", "several", "lookup", "maintenance")}
NO_TORCH |= {f"util.{name}" for name in ("errors", "encoding", "locks", "signals", "statistics", "torchrun")}
NO_TORCH |= {"util.values", "util.epsilons", "util.backend"}
"""Modules, or folders, whose import loads no torch: what list, show and report need."""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, ast.parse(path.read_text())


def imports(tree, name):
    """(imported rossbench module or outside package, whether at the top of the file)."""
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], id(node) in top
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0], id(node) in top
        elif isinstance(node, ast.ImportFrom):
            home = name.split(".") if name in FOLDERS and name != "registry" else name.split(".")[:-1]
            base = [*home[: len(home) + 1 - node.level], *([node.module] if node.module else [])]
            for alias in node.names:
                yield ".".join(["rossbench", *base, alias.name]), id(node) in top


def within(name, places):
    """Whether a module is one of these, or in one of these folders."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def test_the_folders_are_these_and_few():
    there = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert there == {*FOLDERS, "__init__", "__main__", "py"}  # py.typed
    assert len(there) <= 14
    picture = (ROOT / "docs" / "architecture.md").read_text()
    for folder in FOLDERS:
        assert f"{folder}" in picture


def test_no_file_is_too_long_to_read():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path


def test_imports_go_one_way_between_folders():
    for name, tree in modules():
        folder = name.split(".")[0]
        for target, _ in imports(tree, name):
            other = target.removeprefix("rossbench.").split(".")[0]
            if folder in FOLDERS and other in FOLDERS and target.startswith("rossbench."):
                assert FOLDERS.index(other) <= FOLDERS.index(folder), f"{name} imports {target}"


def test_each_library_has_one_home():
    for name, tree in modules():
        for target, _ in imports(tree, name):
            if target in HOMES:
                assert within(name, HOMES[target]), f"{name} imports {target}"


def test_torch_distributed_has_one_home():
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
                assert name == "util.distributed" or not any("distributed" in one for one in named), name


def test_below_the_line_nothing_imports_torch_at_the_top():
    for name, tree in modules():
        if within(name, NO_TORCH):
            for target, at_top in imports(tree, name):
                heavy = {"torch", "numpy", "pandas", "sklearn", "scipy", "matplotlib", "torchvision"}
                assert not (at_top and target in heavy), name


def test_the_public_names_are_these():
    values = "Attack Augmentation Evaluation Finetuning Pretraining Recipe RossbenchError Scenario Suite"
    functions = (
        "audit evaluate_encoder get load_classifier members names "
        "register register_attack register_folder results run run_suite"
    )
    assert sorted(rossbench.__all__) == [*values.split(), *functions.split()]
    for name in rossbench.__all__:
        assert getattr(rossbench, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rossbench.nothing


def test_importing_the_package_or_its_report_imports_no_torch():
    code = "import sys, rossbench; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    code += "; from rossbench.report import card, leaderboard, page, published; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_typed_and_licensed():
    assert (PACKAGE / "py.typed").exists()
    assert importlib.metadata.metadata("rossbench")["License-Expression"] == "MIT"


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_it_is_clean(command):
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
