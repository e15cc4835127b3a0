"""A model card is read by hubs and by people, and tells what the store does."""

import re
import shutil

import pytest
import yaml
from conftest import tiny
from huggingface_hub import ModelCard
from test_names import run_given

from rossbench.report.card import card
from rossbench.store import lookup
from rossbench.store.store import Store


@pytest.fixture(scope="module")
def store(audited, tmp_path_factory):
    """An encoder pretrained here, on two tasks, audited on one; and a module that was given, under two seeds."""
    root = tmp_path_factory.mktemp("card") / "store"
    shutil.copytree(audited, root)
    for seed in (0, 1):
        run_given(root, 1, "mine v3", tiny(seed=seed))
    return root


def facts_of(text):
    _, front, body = text.split("---\n", 2)
    assert front.startswith("# license: your choice, such as mit\n")
    return yaml.safe_load(front), body


@pytest.mark.parametrize(
    ("model", "name", "datasets"), [("digits@1", "conv3 ε=1", ["digits"]), ("mine v3", "mine v3", ["digits"])]
)
def test_its_front_matter_is_what_hubs_read(store, model, name, datasets):
    models = lookup.find_encoder(Store(store), model)
    text = card(models)
    facts, _ = facts_of(text)
    assert (facts["library_name"], facts["metrics"], facts["datasets"]) == ("rossbench", ["accuracy"], datasets)
    assert {"adversarial-robustness", "rossbench"} <= set(facts["tags"])
    results = ModelCard(text).data.eval_results  # as the hub's own library reads them
    found = {one.metric_name: one.metric_value for one in results}
    rates = {}
    for matrix, row in models:
        for column in matrix.columns:
            rates.setdefault(column, []).append(matrix.cells[*row, column].metric("robust"))
    for column, shown in ((0, "without an attack"), (0.5, "under PGD-L2, 20 steps of 3, ε=0.5")):
        assert found[f"accuracy {shown}"] == pytest.approx(sum(rates[column]) / len(rates[column]), abs=1e-4)
    assert {one.dataset_name for one in results} == set(datasets)
    assert facts["model-index"][0]["name"] == name


def test_it_tells_numbers_audit_protocol_and_commands(store):
    models = lookup.find_encoder(Store(store), "digits@1")
    (matrix, row) = models[0]
    _, text = facts_of(card(models))
    record, audit = matrix.cells[*row, 0.5], matrix.audits[row]
    low, high = (100 * bound for bound in record.interval("robust"))
    mark = "!" * (audit.verdict == "fail")
    assert f"{100 * record.robust_right / record.n:.2f}{mark} [{low:.1f}–{high:.1f}]" in text
    for one in audit.verdicts:
        assert (f"- {one.verdict}, {one.check}: {one.figure}" in text) == (one.verdict != "pass")
    for name, item in (("attack.steps", 20), ("attack.restarts", 1), ("attack.step_size", 3.0), ("attack.norm", "L2")):
        assert f"| evaluation.{name} | {item} |" in text
    assert "REDUCED OR CHANGED PROTOCOL: pretraining.epochs 2" in text
    assert "pretrained on digits by contrastive learning, under PGD-L2, 3 steps of 1 at ε=1, 2 epochs, seed 0" in text
    assert re.search(r"\nrossbench run digits --train-eps 1 --eval-eps 0,0.5 --set \S+", text)


def test_of_an_encoder_from_elsewhere_it_names_the_source(store):
    models = lookup.find_encoder(Store(store), "mine v3")
    _, text = facts_of(card(models))
    assert f"`{models[0][0].weights}`" in text
    assert "- from: `Python module Sequential`" in text
    assert "which is built and loaded by its own code" in text
    assert "Not audited." in text
    assert "| digits | linear, ε=0 | 0, 1 | — |" in text
    assert "```python\nfor seed in [0, 1]: rossbench.evaluate_encoder(module, " in text
