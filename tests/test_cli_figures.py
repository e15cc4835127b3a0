"""figure, layers, features, compare and report --html on the command line."""

import json

import numpy as np
import pytest
from conftest import tiny

from rossbench.cli.figures import FORMS, figure
from rossbench.report import figures
from rossbench.runner import run as runner
from rossbench.store.store import Store

SMALL = ["--perplexity", 5, "--iterations", 250]
MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def test_every_kind_of_figure_is_a_command():
    assert sorted(kind.replace("-", "_") for kind in figure.commands) == figures.__all__
    assert FORMS == ("png", "svg", "pdf")


@pytest.mark.parametrize(
    ("kind", "form", "options"),
    [
        ("robustness", "png", ["--metric", "mcc"]),
        ("matrix", "svg", ["--metric", "f1"]),
        ("confusion", "pdf", ["--eval-eps", "0.5"]),
        ("per-class", "png", ["--models", "1"]),
        ("tsne", "svg", [*SMALL, "--layer", "encoder.backbone.8", "--epsilon", "0.5"]),
        ("tsne-together", "png", [*SMALL, "--limit", 20]),
        ("examples", "png", ["--epsilon", 5, "--count", 2]),
        ("training", "svg", ["--stage", "finetune"]),
    ],
)
def test_a_figure_is_saved_in_the_form_of_its_name(rossbench, finished, tmp_path, kind, options, form):
    code, out, err = rossbench(
        "figure", kind, "digits", "--store", finished, "--save", f"f.{form}", "--device", "cpu", *options
    )
    assert (code, out) == (0, f"saved f.{form}\n")
    assert err.startswith("rossbench: digits: REDUCED OR CHANGED PROTOCOL: pretraining.epochs 2")  # the figure does not
    assert (tmp_path / f"f.{form}").read_bytes().startswith(MAGIC[form])


def test_without_a_name_a_figure_is_called_after_what_it_shows(rossbench, finished, tmp_path):
    assert rossbench("figure", "per-class", "digits", "--store", finished)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["digits-per-class.png"]


def test_layers_are_listed(rossbench, finished):
    code, out, _ = rossbench("layers", "digits", "--store", finished)
    assert code == 0
    assert "encoder.backbone.0 │ 32 x 8 x 8" in out
    assert "linear             │ 10" in out


def test_features_are_saved_as_arrays(rossbench, finished, tmp_path):
    given = ["digits", "--store", finished, "--layer", "linear", "--epsilon", "0.5", "--model", "0", "--save", "f.npz"]
    assert rossbench("features", *given)[:2] == (0, "saved f.npz\n")
    arrays = np.load(tmp_path / "f.npz")
    assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
        "features": ((40, 10), "float32"),
        "labels": ((40,), "int64"),
    }


def test_a_page_is_written(rossbench, tmp_path):
    """Small, and on a subset that is too small for the study's maps: those say so, the rest is there."""
    runner.run(tiny(train_limit=30), store=tmp_path / "rossbench-store", device="cpu")
    code, out, err = rossbench("report", "digits", "--html", "report.html", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "saved report.html" in out
    text = (tmp_path / "report.html").read_text()
    assert "RoSS digits → digits" in text
    assert "Not drawn: t-SNE: expected a perplexity of 1 to 13" in text


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """A store that holds digits records under the name of a published scenario's note."""
    root = tmp_path_factory.mktemp("reduced")
    scenario = tiny(train_epsilons=(0,), eval_epsilons=(0,))
    runner.run(scenario, store=root, device="cpu")
    (path,) = (root / "matrices").glob("*.json")
    note = json.loads(path.read_text()) | {"name": "cifar10-to-cifar10"}
    path.unlink()
    Store(root).write_note(note["name"], note["protocol"], json.dumps(note).encode())
    return root


def test_compare_refuses_a_reduced_run_and_shows_it_when_asked(rossbench, reduced):
    code, out, err = rossbench("compare", "--store", reduced)
    assert (code, out) == (2, "")
    assert "expected runs under the published protocol, got reduced or changed protocol: pretraining.epochs 2" in err
    assert "(tables 5.1); see --show-reduced" in err
    code, out, err = rossbench("compare", "cifar10-to-cifar10", "--store", reduced, "--show-reduced")
    assert (code, err) == (0, "")
    assert "NOT COMPARABLE: reduced or changed protocol" in out
    assert "Table 5.1: Top-1 accuracy (%)" in out
    assert out.index("NOT COMPARABLE") < out.index("published")
