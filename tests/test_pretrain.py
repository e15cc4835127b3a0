import dataclasses
import io
import math
import shutil

import pytest
import torch
from conftest import tiny
from lightly.loss import NTXentLoss
from rich.console import Console

import rossbench
from rossbench.config.recipes import Pretraining
from rossbench.data import datasets
from rossbench.models import simclr
from rossbench.models.simclr import build
from rossbench.report import page
from rossbench.report.figure_data import FigureData, choose, labels
from rossbench.report.figures import training
from rossbench.runner.display import showing
from rossbench.stages.augment import two_views
from rossbench.stages.pretrain import learning_rate, pretrain, warm_epsilon
from rossbench.stages.train_loop import Hooks
from rossbench.store import artifacts
from rossbench.store.store import Store, read_json
from rossbench.util.signals import Interrupted


@pytest.fixture(scope="module")
def images():
    return datasets.load("digits", "train", 60).images


def spec(epsilon=0.0, **changes):
    cell = tiny(train_epsilons=(epsilon,)).cells[epsilon, epsilon, 0]
    base = cell.finetune.pretrain
    return dataclasses.replace(base, recipe=dataclasses.replace(base.recipe, **changes))


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_training_lowers_the_loss(images, epsilon):
    model, history = pretrain(spec(epsilon, epochs=12, temperature=0.5), images, Hooks())
    assert not model.training
    assert [entry["epoch"] for entry in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(0 <= entry["top1"] <= entry["top5"] <= 1 for entry in history)


@pytest.mark.parametrize(
    ("changes", "close"), [({"precision": "bfloat16"}, 1e-3), ({"channels_last": True}, 1e-6)], ids=str
)
def test_precision_and_layout_change_the_first_step_by_rounding_alone_and_train_too(images, changes, close):
    """An epoch is one step. Later ones drift apart: Adam's first step is by a gradient's sign, also where it is 0."""
    one = {"temperature": 0.5, "epochs": 6, "batch_size": 60}
    (_, plain), (model, other) = (pretrain(spec(0.5, **one, **more), images, Hooks()) for more in ({}, changes))
    assert other[0]["loss"] == pytest.approx(plain[0]["loss"], rel=close)
    assert other[-1]["loss"] < other[0]["loss"]
    weight = model.encoder.backbone[3].weight
    assert weight.dtype == torch.float32
    assert weight.is_contiguous(memory_format=torch.channels_last) is ("channels_last" in changes)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 6), (4, 12)])
def test_work_is_linear_in_the_epochs(images, monkeypatch, epochs, steps):
    """Views and attacks are made once a step, and of a step there are as many in every epoch."""
    calls = []
    for name, real in (("two_views", two_views), ("adversarial_views", simclr.adversarial_views)):
        monkeypatch.setattr(
            f"rossbench.stages.pretrain.{name}", lambda *given, name=name, real=real: calls.append(name) or real(*given)
        )
    pretrain(spec(0.5, epochs=epochs), images, Hooks())
    assert calls == ["two_views", "adversarial_views"] * steps


def test_the_first_step_is_one_of_adam_on_nt_xent_of_adversarial_views(images, monkeypatch):
    """The hook is called with the spec's epsilon, and what it returns is what is trained on."""
    calls = []
    real = simclr.adversarial_views

    def recorded(model, views, epsilon):
        adversarial, extremes = real(model, views, epsilon)
        calls.append((views, epsilon, adversarial))
        return adversarial, extremes

    monkeypatch.setattr("rossbench.stages.pretrain.adversarial_views", recorded)
    one = spec(0.7, epochs=1, batch_size=60)
    trained, history = pretrain(one, images, Hooks())
    (views, epsilon, adversarial), *rest = calls
    assert not rest
    assert epsilon == 0.7
    assert views.shape == adversarial.shape == (120, 3, 16, 16)
    by_hand = build(one).train()
    optimizer = torch.optim.Adam(by_hand.parameters(), one.recipe.learning_rate, weight_decay=1e-4, fused=True)
    theirs = NTXentLoss(temperature=one.recipe.temperature)(*by_hand.project(adversarial).chunk(2)).item()
    by_hand.load_state_dict(build(one).state_dict())  # that pass moved BatchNorm's statistics
    loss = torch.nn.functional.cross_entropy(by_hand(adversarial), simclr.partners(120, views.device))
    loss.backward()
    optimizer.step()
    assert history[0]["loss"] == pytest.approx(loss.item(), rel=1e-6) == pytest.approx(theirs, rel=1e-6)
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], tensor, msg=name)


def test_the_same_spec_gives_the_same_weights_and_another_seed_others(images):
    runs = [pretrain(s, images, Hooks())[0].state_dict() for s in (spec(1.0), spec(1.0))]
    other = pretrain(dataclasses.replace(spec(1.0), seed=1), images, Hooks())[0].state_dict()
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not torch.equal(runs[0]["encoder.backbone.0.weight"], other["encoder.backbone.0.weight"])


def test_normalisation_takes_the_sources_statistics(images):
    model, _ = pretrain(spec(normalize=True, epochs=1), images, Hooks())
    pixels = images.float() / 255
    torch.testing.assert_close(model.encoder.mean.flatten(), pixels.mean((0, 2, 3)))
    torch.testing.assert_close(model.encoder.std.flatten(), pixels.std((0, 2, 3)))


def test_the_rate_is_full_then_a_cosine():
    recipe = Pretraining(epochs=110, constant_epochs=10, learning_rate=1.0)
    assert [learning_rate(recipe, e) for e in (0, 9, 10)] == [1, 1, 1]
    assert learning_rate(recipe, 60) == pytest.approx(0.5)
    assert 0 < learning_rate(recipe, 109) < 0.001
    assert learning_rate(Pretraining(epochs=5, learning_rate=1.0), 4) == 1


# --- warm-up of epsilon --------------------------------------------------------------------------------------


def test_epsilon_rises_batch_by_batch_and_leaves_the_first_views_alone(images, monkeypatch):
    """Three batches an epoch; over 1.5 epochs to 0.9."""
    seen, real = [], simclr.adversarial_views

    def recorded(model, views, epsilon):
        found = real(model, views, epsilon)
        seen.append((float(epsilon), torch.equal(found[0], views)))
        return found

    monkeypatch.setattr("rossbench.stages.pretrain.adversarial_views", recorded)
    history = pretrain(spec(0.9, epochs=3, epsilon_warmup=1.5), images, Hooks())[1]
    assert [epsilon for epsilon, _ in seen] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, *[0.9] * 4])
    assert [alone for _, alone in seen] == [True] + [False] * 8
    assert all(math.isfinite(entry["loss"]) for entry in history)


def test_epsilon_after_any_number_of_epochs():
    warm, cold = (spec(1.0, epochs=9, epsilon_warmup=warmup) for warmup in (2, 0))
    assert [warm_epsilon(warm, epochs) for epochs in (0, 0.5, 1, 2, 8.9)] == [0, 0.25, 0.5, 1, 1]
    assert [warm_epsilon(cold, epochs) for epochs in (0, 5)] == [1, 1]


@pytest.mark.parametrize("last", [1, 5], ids=["at radius 0", "in the second epoch"])
def test_resumed_within_the_warm_up_it_is_the_uninterrupted_one(images, tmp_path, last):
    warm, steps = spec(1.0, epochs=4, epsilon_warmup=3), []

    def interrupt(tick):
        steps.extend([1] * bool(tick.images))
        if len(steps) == last:
            raise Interrupted(15)

    whole, history = pretrain(warm, images, Hooks())
    with pytest.raises(Interrupted):
        pretrain(warm, images, Hooks(interrupt, tmp_path / "resume.pt"))
    resumed, again = pretrain(warm, images, Hooks(resume=tmp_path / "resume.pt"))
    assert [entry | {"seconds": 0} for entry in again] == [entry | {"seconds": 0} for entry in history]
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in resumed.state_dict().items())


# --- the collapsed state -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collapsing(tmp_path_factory):
    """A store in which the encoder at epsilon 1 projects every view to the same point, and cannot leave it; what the
    run showed."""

    def constant(spec):
        model = build(spec)
        if spec.epsilon:
            for part in model.head.layers[-1].parameters():
                torch.nn.init.zeros_(part)
        return model

    root, shown = tmp_path_factory.mktemp("collapsed"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, showing(Console(file=shown)) as observe:
        patch.setattr("rossbench.stages.pretrain.build_simclr", constant)
        rossbench.run(tiny(), store=root, device="cpu", observe=observe)
    return root, shown.getvalue()


@pytest.fixture
def collapsed(collapsing):
    return collapsing[0]


def test_a_collapsed_encoder_is_said_in_the_progress_and_others_are_not(collapsing):
    said = [line for line in collapsing[1].splitlines() if "constant features" in line]
    assert len(said) == 1
    assert "ε=1: the loss of epoch 1, 3.66" in said[0]  # ln 39


def test_a_collapsed_encoder_is_marked_in_history_and_records_and_others_are_not(collapsed, finished):
    """A finished one of seconds ends 0.1 below the loss of constant features, ten times the tolerance."""
    for store, expected in ((collapsed, {0: False, 1: True}), (finished, {0: False, 1: False})):
        frame = rossbench.results(store)
        assert dict(zip(frame.pretrain_epsilon, frame.collapsed, strict=True)) == expected
        for epsilon, told in expected.items():
            made = tiny().cells[epsilon, epsilon, 0].finetune.pretrain
            assert artifacts.load_history(Store(store), made)[-1]["collapsed"] is told
            provenance = read_json(Store(store).path(made) / "stage.json")["provenance"]
            assert provenance.get("collapsed", False) is told
    assert made.constant_loss == pytest.approx(math.log(39))


SHOWN = (
    "report",
    *(f"report --format {form}" for form in ("markdown", "latex", "csv", "json")),
    "compare digits@0 digits@1",
)


@pytest.mark.parametrize("line", SHOWN)
def test_a_collapsed_encoder_is_never_shown_without_a_mark(rossbench, collapsed, finished, line):
    for store, marked in ((collapsed, True), (finished, False)):
        code, out, _ = rossbench(*line.split(), "--out", store)
        assert code == 0
        assert ("COLLAPSED: its loss is that of constant features" in " ".join(out.split())) is marked


def test_a_collapsed_encoder_fails_its_audit(rossbench, collapsed, tmp_path):
    shutil.copytree(collapsed, tmp_path / "store")
    code, out, _ = rossbench("audit", "digits", "--out", tmp_path / "store")
    said = " ".join(out.replace("│", " ").split())
    assert code == 3
    assert said.count("This encoder learned nothing: its loss is that of constant features; try pretraining.") == 1


def test_a_collapsed_encoder_is_marked_on_the_page_and_in_figures(collapsed):
    data = FigureData(collapsed)
    matrices = data.matrices(["digits"])
    html = page.render(["digits"], matrices, [], "now")
    mark = "ε=1 of seed 0 COLLAPSED: its loss is that of constant features"
    assert html.count(mark) == 2  # in the finding, and above its table
    models = choose(matrices)
    assert labels(models) == ["model ε = 0", "model ε = 1, collapsed"]
    loss = training(data, models).axes[0]
    assert loss.lines[-2].get_ydata()[0] == pytest.approx(math.log(39))
    assert list(loss.lines[-1].get_xdata()) == [1, 2]
