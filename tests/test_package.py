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

# docs/architecture.md's picture, from below. A module imports from its own layer or those below.
LAYERS = [
    {"errors"},
    {"folders"},
    {"datasets", "epsilons", "values", "uncertainty", "interrupts", "locks", "ranks"},
    {"recipe"},
    {"specs"},
    {"scenario"},
    {"scenarios", "store"},
    {"registry", "records", "upkeep"},
    {"seeds", "memory", "resume"},
    {"views", "metrics", "attacks", "encoders", "cudagraph"},
    {"adversaries"},
    {"contrastive", "training", "weights"},
    {"pretrain", "finetune"},
    {"evaluate", "artifacts", "verdicts", "progress", "cost"},
    {"report", "report.tables", "report.figures"},
    {"job"},
    {"runner"},
    {"report.compare", "report.audits", "report.forms"},
    {"report.page", "features", "display", "tensorboard", "cluster"},
    {"gallery"},
    {"versus"},
    {"exhibits"},
    {"cli.options", "cli.costs"},
    {"cli.study", "cli.results", "cli.figures", "cli.upkeep"},
    {"cli"},
    {"__main__"},
]
HOMES = {
    "filelock": {"locks"},
    "click": {"cli", "cli.options", "cli.study", "cli.results", "cli.figures", "cli.upkeep"},
    "jinja2": {"report.page"},
    "lightly": {"contrastive"},
    "matplotlib": {"report.figures", "gallery", "exhibits"},  # the latter two name its Figure
    "openTSNE": {"features"},
    "ray": {"cluster"},
    "rich": {
        "cli.costs",
        "cli.study",
        "cli.results",
        "cli.figures",
        "cli.upkeep",
        "display",
        "report.audits",
        "report.forms",
    },
    "safetensors": {"artifacts", "weights"},
    "scipy": {"uncertainty"},
    "sklearn": {"datasets"},
    "timm": {"encoders", "weights"},
    "torchattacks": {"adversaries", "attacks"},
    "torchmetrics": {"metrics"},
    "torchvision": {"datasets", "folders"},
}
PACKAGES = {"cli", "report"}
NO_TORCH = {
    *("errors", "folders", "datasets", "epsilons", "uncertainty", "values", "recipe", "specs", "scenario", "scenarios"),
    *("store", "registry", "records", "report", "cli", "interrupts", "locks", "upkeep", "ranks"),
}


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
            home = name.split(".") if name in PACKAGES else name.split(".")[:-1]
            base = [*home[: len(home) + 1 - node.level], *([node.module] if node.module else [])]
            for alias in node.names:
                inside = ".".join([*base, alias.name])
                known = inside if any(inside in layer for layer in LAYERS) else ".".join(base)
                yield f"rossbench.{known}" if known else "rossbench", id(node) in top


def layer_of(name):
    return next(k for k, layer in enumerate(LAYERS) if name in layer)


def test_every_module_has_a_layer_and_is_in_the_picture():
    names = {name for name, _ in modules()}
    assert names == set().union(*LAYERS)
    picture = (ROOT / "docs" / "architecture.md").read_text()
    for name in names - {"scenarios"}:
        assert name.split(".")[-1] in picture, name


def test_imports_go_down():
    for name, tree in modules():
        for target, _ in imports(tree, name):
            if target.startswith("rossbench."):
                below = target.removeprefix("rossbench.")
                assert layer_of(below) <= layer_of(name), f"{name} imports {below}"


def test_each_library_has_one_home():
    for name, tree in modules():
        for target, _ in imports(tree, name):
            if target in HOMES:
                assert name in HOMES[target], f"{name} imports {target}"


def test_torch_distributed_has_one_home():
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
                assert name == "ranks" or not any("distributed" in one for one in named), name


def test_below_the_line_nothing_imports_torch_at_the_top():
    for name, tree in modules():
        if name.split(".")[0] in NO_TORCH and name not in {"report.figures", "report.page"}:
            for target, at_top in imports(tree, name):
                heavy = {"torch", "numpy", "sklearn", "scipy", "matplotlib", "torchvision"}
                assert not (at_top and target in heavy), name


def test_the_report_imports_no_torch():
    code = "import sys, rossbench.report.page, rossbench.report.compare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_are_these():
    assert sorted(rossbench.__all__) == [
        "Attack",
        "Augmentation",
        "Evaluation",
        "Finetuning",
        "Pretraining",
        "Recipe",
        "RossbenchError",
        "Scenario",
        "Suite",
        "audit",
        "evaluate_encoder",
        "get",
        "members",
        "names",
        "register",
        "register_attack",
        "register_folder",
        "run",
        "run_suite",
    ]
    for name in rossbench.__all__:
        assert getattr(rossbench, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rossbench.nothing


def test_importing_the_package_imports_no_torch():
    code = "import sys, rossbench; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_typed_and_licensed():
    assert (PACKAGE / "py.typed").exists()
    assert importlib.metadata.metadata("rossbench")["License-Expression"] == "MIT"


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_it_is_clean(command):
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
