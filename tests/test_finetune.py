import contextlib
import copy
import dataclasses
import math
import signal

import pytest
import torch
from conftest import tiny

from rossbench.attacks import pgd
from rossbench.config.recipes import DEACL_ADVERSARIAL, DEACL_LINEAR, FIELD_FULL, FIELD_LINEAR, Finetuning
from rossbench.data import datasets
from rossbench.models import encoders
from rossbench.models.classifier import Classifier
from rossbench.models.simclr import build
from rossbench.stages.finetune import check_batch_norm, diverge, encode, finetune, learning_rate, trades
from rossbench.stages.train_loop import Hooks
from rossbench.util.errors import InvalidValue
from rossbench.util.seeds import derive, seeded
from rossbench.util.signals import Interrupted


@pytest.fixture(scope="module")
def data():
    return datasets.load("digits", "train", 60)


def spec(epsilon, **changes):
    base = tiny().cells[1.0, 1.0, 0].finetune
    return dataclasses.replace(base, epsilon=epsilon, recipe=dataclasses.replace(base.recipe, **changes))


@pytest.fixture
def encoder():
    """With statistics and a mode that any training would change."""
    encoder = build(spec(0).pretrain).encoder.train()
    encoder(torch.rand(30, 3, 16, 16))
    return encoder


def field(preset, epsilon, **changes):
    """A preset of the field, in small."""
    small = {"epochs": 3, "batch_size": 20, "attack": dataclasses.replace(preset.attack, steps=2)}
    return dataclasses.replace(spec(epsilon), recipe=dataclasses.replace(preset, **{**small, **changes}))


FROZEN = {
    "SLF": spec(0.0, epochs=3),
    "ALF": spec(1.0, epochs=3),
    "field-slf": field(FIELD_LINEAR, 0.0),
    "field-alf": field(FIELD_LINEAR, 8 / 255),
    "linear TRADES": field(FIELD_LINEAR, 8 / 255, loss="trades"),
}


@pytest.mark.parametrize("one", FROZEN.values(), ids=FROZEN)
def test_frozen_is_frozen_bit_for_bit(encoder, data, one):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    classifier, _ = finetune(one, encoder, data.images, data.labels, 10, Hooks())
    assert classifier.encoder is encoder
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(module.training for module in classifier.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("epsilon", [0.0, 1.0], ids=["standard", "adversarial"])
def test_training_lowers_the_loss_and_gets_training_images_right(encoder, data, epsilon):
    one = spec(epsilon, epochs=30, learning_rate=0.1)
    classifier, history = finetune(one, encoder, data.images, data.labels, 10, Hooks())
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    with torch.no_grad():
        right = (classifier(data.images / 255).argmax(1) == data.labels).float().mean()
    assert right > 0.5


def test_features_computed_once_train_the_same_head_as_features_of_every_batch(encoder, data):
    """The shortcut for epsilon 0 against the long way round."""
    one = spec(0.0, epochs=3)
    quick, _ = finetune(one, encoder, data.images, data.labels, 10, Hooks())
    slow = Classifier(encoder, 10)
    with seeded(derive(one.seed, "linear layer")):
        slow.linear.reset_parameters()
    optimizer = torch.optim.Adam(slow.linear.parameters(), one.recipe.learning_rate, weight_decay=0, fused=True)
    for epoch in range(3):
        shuffle = torch.Generator().manual_seed(derive(one.seed, "finetune", "order", epoch))
        for indices in torch.randperm(60, generator=shuffle).split(20):
            loss = torch.nn.functional.cross_entropy(slow(data.images[indices] / 255), data.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(quick.linear.weight, slow.linear.weight)
    torch.testing.assert_close(quick.linear.bias, slow.linear.bias)


def test_features_do_not_depend_on_the_batch(encoder, data):
    encoder.eval()
    whole = encode(encoder, data.images, 60, Hooks())
    torch.testing.assert_close(encode(encoder, data.images, 7, Hooks()), whole)


def test_adversarial_finetuning_sees_attacked_images(encoder, data, monkeypatch):
    seen = []

    def recorded(model, images, labels, attack, epsilon):
        seen.append((epsilon, attack))
        return images * 0, torch.zeros(3)

    monkeypatch.setattr("rossbench.stages.finetune.perturb", recorded)
    one = spec(0.3, epochs=2)
    finetune(one, encoder, data.images, data.labels, 10, Hooks())
    assert seen == [(0.3, one.recipe.attack)] * 6


@pytest.mark.parametrize("epsilon", [0.0, 1.0], ids=["standard", "adversarial"])
def test_a_full_finetuning_trains_encoder_statistics_and_all(encoder, data, epsilon):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    one = spec(epsilon, epochs=3, trained="full")
    classifier, history = finetune(one, encoder, data.images, data.labels, 10, Hooks())
    moved = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(before) - {"mean", "std"}
    assert history[-1]["loss"] < history[0]["loss"]
    assert not any(module.training for module in classifier.modules())


def test_a_full_finetuning_attacks_in_eval_mode_and_trains_in_train_mode(encoder, data, monkeypatch):
    modes, real = [], pgd.perturb

    def recorded(model, *arguments):
        made = real(model, *arguments)
        modes.append({module.training for module in model.modules()})
        return made

    monkeypatch.setattr("rossbench.stages.finetune.perturb", recorded)
    batches = []
    hook = encoder.backbone[0].register_forward_hook(lambda layer, *_: batches.append(layer.training))
    finetune(spec(0.5, epochs=1, trained="full"), encoder, data.images, data.labels, 10, Hooks())
    hook.remove()
    assert modes == [{True}] * 3
    assert batches == [*[False] * 3, True] * 3  # three steps of the attack, then the step of the training


def test_a_full_finetuning_is_what_its_seed_says(data):
    made = []
    for _ in range(2):
        encoder = build(spec(0).pretrain).encoder
        made.append(finetune(spec(0.5, trained="full"), encoder, data.images, data.labels, 10, Hooks())[0])
    for one, other in zip(*(classifier.state_dict().values() for classifier in made), strict=True):
        assert torch.equal(one, other)


# --- as the field finetunes ----------------------------------------------------------------------------------


def dual(encoder):
    """An encoder with a clean BatchNorm beside each of its own, unlike it."""
    norms = [name for name in encoder.state_dict() if name.endswith("running_var")]
    encoders.add_clean_branches(encoder, map(encoders.clean_name, norms))
    for module in encoder.modules():
        if isinstance(module, encoders.DualBatchNorm2d):
            torch.nn.init.uniform_(module.clean.weight, 0.5, 1, generator=torch.Generator().manual_seed(0))
            module.clean.running_var *= 3
    return encoder


def halves(classifier):
    """What natural and attacked images go through: of a dual classifier two models, which share all but BatchNorms."""
    natural, attacked = [], []
    for module in classifier.encoder.backbone:
        natural.append(getattr(module, "clean", module))
        attacked.append(copy.copy(module))
        if isinstance(module, torch.nn.BatchNorm2d):
            attacked[-1].__class__ = torch.nn.BatchNorm2d
    return [torch.nn.Sequential(*parts, classifier.linear) for parts in (natural, attacked)]


def reference_trades(natural_model, model, images, labels, start, attack, epsilon, beta):
    """TRADES as its authors wrote it down, for models in train mode: attacked images and the loss."""
    divergence = torch.nn.KLDivLoss(reduction="sum")
    natural_model.eval(), model.eval()
    adversarial = images + start
    for _ in range(attack.steps):
        adversarial.requires_grad_()
        loss = divergence(torch.log_softmax(model(adversarial), 1), torch.softmax(natural_model(images), 1))
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach() + attack.length(epsilon) * gradient.sign()
        adversarial = torch.min(torch.max(adversarial, images - epsilon), images + epsilon).clamp(0, 1)
    natural_model.train(), model.train()
    natural = natural_model(images)
    robust = divergence(torch.log_softmax(model(adversarial), 1), torch.softmax(natural, 1)) / len(images)
    return adversarial, torch.nn.functional.cross_entropy(natural, labels) + beta * robust


BATCH_NORMS = pytest.mark.parametrize("batch_norm", ["single", "dual"])


@BATCH_NORMS
@pytest.mark.parametrize(("epsilon", "steps"), [(8 / 255, 1), (8 / 255, 10), (0.3, 10)])
def test_trades_and_its_gradients_are_the_references(encoder, data, generator, epsilon, steps, batch_norm):
    branch = encoders.natural_branch if batch_norm == "dual" else contextlib.nullcontext
    classifier = Classifier(dual(encoder) if batch_norm == "dual" else encoder, 10).double().requires_grad_().train()
    reference = copy.deepcopy(classifier)
    images = 0.1 + 0.8 * torch.rand(12, 3, 16, 16, generator=generator, dtype=torch.float64)  # no start is clipped
    attack = dataclasses.replace(FIELD_FULL.attack, steps=steps)
    with seeded(5):
        start = 0.001 * torch.randn_like(images)
    with seeded(5):
        adversarial, extremes = diverge(classifier, images, attack, epsilon, branch)
    assert all(module.training for module in classifier.modules())
    pgd.check(extremes.tolist(), "Linf")
    with branch(classifier):
        natural = classifier(images)
    found = trades(natural, classifier(adversarial), data.labels[:12], 6.0)
    expected, loss = reference_trades(*halves(reference), images, data.labels[:12], start, attack, epsilon, 6.0)
    torch.testing.assert_close(adversarial, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(found, loss, atol=1e-8, rtol=0)
    gradients = (
        torch.autograd.grad(of, list(model.parameters())) for of, model in ((found, classifier), (loss, reference))
    )
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-8, rtol=0)


@BATCH_NORMS
def test_a_step_of_aff_is_sgd_on_trades(data, batch_norm):
    """In float64, on one batch, whose order and start are named by the seed; each BatchNorm sees its own images."""

    def made():
        encoder = build(one.pretrain).encoder
        return (dual(encoder) if batch_norm == "dual" else encoder).double()

    plain = {"head_init": "default", "momentum": 0.0, "weight_decay": 0.0, "crop_padding": 0}
    one = field(FIELD_FULL, 8 / 255, trades_batch_norm=batch_norm, **plain)
    one = dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, epochs=1, flip_probability=0.0))
    images, labels, device = data.images[:20], data.labels[:20], torch.device("cpu")
    torch.set_default_dtype(torch.float64)
    try:
        with seeded(derive(one.seed, "linear layer")):
            reference = Classifier(made(), 10).requires_grad_().train()
        tuned, _ = finetune(one, made(), images, labels, 10, Hooks())
    finally:
        torch.set_default_dtype(torch.float32)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(derive(one.seed, "finetune", "order", 0)))
    natural = images[order].float() / 255
    with seeded(derive(one.seed, "finetune", 0, 0), device):
        start = 0.001 * torch.randn_like(natural)
    attack, before = one.recipe.attack, [weight.clone() for weight in reference.parameters()]
    start = (natural + start).clamp(0, 1) - natural  # as all attacks here, it starts from an image
    precise = natural.double(), labels[order], start.double()
    _, loss = reference_trades(*halves(reference), *precise, attack, one.epsilon, 6.0)
    gradients = torch.autograd.grad(loss, list(reference.parameters()))
    for weight, old, gradient in zip(tuned.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(weight, old - 0.1 * gradient, atol=1e-6, rtol=1e-4)
    for statistic, expected in zip(tuned.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(statistic, expected, atol=1e-6, rtol=1e-6)


def test_each_batch_norm_sees_its_own_images(data, monkeypatch):
    """Attacked ones are black here, so that one of them in the wrong place moves statistics by much."""
    monkeypatch.setattr("rossbench.stages.finetune.diverge", lambda *given: (given[1] * 0, torch.zeros(3)))
    encoder = dual(build(spec(0).pretrain).encoder)
    one = field(FIELD_FULL, 8 / 255, trades_batch_norm="dual", learning_rate=1e-30, epochs=40)
    tuned, _ = finetune(one, encoder, data.images, data.labels, 10, Hooks())
    norm = tuned.encoder.backbone[1]
    assert norm.running_mean.abs().max() < 1e-6
    assert norm.running_var.max() < 1e-4
    with torch.no_grad():
        seen = tuned.encoder.backbone[0](data.images.float() / 255).var((0, 2, 3))
    assert (norm.clean.running_var / seen).median() == pytest.approx(1, abs=0.3)
    assert not norm.is_natural
    with torch.no_grad():
        logits = tuned(data.images / 255)
        norm.clean = None
        assert torch.equal(tuned(data.images / 255), logits)  # tested without it


@pytest.mark.parametrize("encoder", [build(spec(0).pretrain).encoder, None], ids=["given", "pretrained here"])
def test_two_batch_norms_are_refused_where_there_is_one(encoder, data):
    one = field(FIELD_FULL, 8 / 255, trades_batch_norm="dual")
    with pytest.raises(
        InvalidValue, match=r"expected an encoder with a clean and an adversarial .*=single does with that"
    ):
        check_batch_norm(one, encoder)
    check_batch_norm(dataclasses.replace(one, epsilon=0.0), encoder)


@pytest.mark.parametrize(("preset", "epsilon"), [(DEACL_LINEAR, 0.0), (DEACL_ADVERSARIAL, 8 / 255)])
def test_deacls_statistics_drift_and_its_weights_are_frozen(data, preset, epsilon):
    encoder = build(spec(0).pretrain).encoder
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    tuned, _ = finetune(field(preset, epsilon), encoder, data.images, data.labels, 10, Hooks())
    moved = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert int(encoder.backbone[1].num_batches_tracked) == 9 * (1 + (epsilon > 0))
    assert not any(module.training for module in tuned.modules())


def test_deacls_head_learns_from_features_normalised_by_the_batch(encoder, data):
    one = field(DEACL_LINEAR, 0.0, epochs=1, batch_size=60, momentum=0.0, weight_decay=0.0)
    one = dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, crop_padding=0, flip_probability=0.0))
    with seeded(derive(one.seed, "linear layer")):
        reference = Classifier(copy.deepcopy(encoder), 10)
    reference.linear.requires_grad_()
    tuned, _ = finetune(one, encoder, data.images, data.labels, 10, Hooks())
    loss = torch.nn.functional.cross_entropy(reference.train()(data.images / 255), data.labels)
    (gradient,) = torch.autograd.grad(loss, reference.linear.weight)
    torch.testing.assert_close(tuned.linear.weight, reference.linear.weight - 0.1 * gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("milestones", [(), (10, 20), (15, 20), (1,), (2, 2, 3), (3, 1)])
def test_the_rate_is_that_of_multi_step_lr(milestones):
    recipe = Finetuning(epochs=25, learning_rate=0.1, milestones=milestones)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(milestones), gamma=0.1)
    for epoch in range(25):
        assert learning_rate(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_the_history_has_the_rates_of_the_milestones(encoder, data):
    _, history = finetune(field(FIELD_LINEAR, 0.0, milestones=(1, 2)), encoder, data.images, data.labels, 10, Hooks())
    assert [entry["learning_rate"] for entry in history] == pytest.approx([0.01, 0.001, 0.0001])


def test_a_zero_head_starts_at_zero(encoder, data):
    """From where a rate next to nothing does not move it; a first, whole batch has the loss of ten equal logits."""
    for start, largest in (("zero", 0), ("default", 512**-0.5)):
        one = dataclasses.replace(spec(0.0), recipe=Finetuning(1, 60, learning_rate=1e-30, head_init=start))
        classifier, history = finetune(one, encoder, data.images, data.labels, 10, Hooks())
        for parameter in classifier.linear.parameters():
            assert parameter.abs().max().item() == pytest.approx(largest, abs=1e-20, rel=0.2)
        assert (history[0]["loss"] == pytest.approx(math.log(10), rel=1e-6)) == (start == "zero")


def test_images_move_in_every_epoch_anew(encoder, data, monkeypatch):
    """Which a standard finetuning on features computed once would not see."""
    seen = []
    hook = encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    one = field(FIELD_LINEAR, 0.0)
    finetune(one, encoder, data.images, data.labels, 10, Hooks())
    hook.remove()
    epochs = [torch.cat(seen[k : k + 3]) for k in (0, 3, 6)]
    for epoch in range(3):
        order = torch.Generator().manual_seed(derive(one.seed, "finetune", "order", epoch))
        epochs[epoch] = epochs[epoch][torch.randperm(60, generator=order).argsort()]
    assert not torch.equal(epochs[0], data.images / 255)
    assert not torch.equal(epochs[0], epochs[1])


def test_without_an_attack_trades_is_cross_entropy(data):
    plain, other = (
        finetune(
            field(FIELD_FULL, 0.0, loss=loss), build(spec(0).pretrain).encoder, data.images, data.labels, 10, Hooks()
        )
        for loss in ("ce", "trades")
    )
    assert torch.equal(plain[0].linear.weight, other[0].linear.weight)


@pytest.mark.parametrize(
    "error", [Interrupted(signal.SIGTERM), KeyboardInterrupt()], ids=["signal", "as abrupt as a kill"]
)
@pytest.mark.parametrize("stopped_at", [2, 7])
@pytest.mark.parametrize("preset", [FIELD_FULL, DEACL_ADVERSARIAL], ids=["AFF", "DeACL's ALF"])
def test_what_is_resumed_is_the_uninterrupted_one(tmp_path, data, error, stopped_at, preset):
    """With momentum, crops, flips and Gaussian starts; a signal ends it inside an epoch, of three batches."""
    one, ticks = field(preset, 8 / 255, milestones=(1,), trades_batch_norm="dual"), []

    def tick(now):
        ticks.append(now)
        if len(ticks) == stopped_at:
            raise error

    def tuned(hooks):
        return finetune(one, dual(build(one.pretrain).encoder), data.images, data.labels, 10, hooks)

    whole, expected = tuned(Hooks())
    with pytest.raises(type(error)):
        tuned(Hooks(tick, tmp_path / "resume.pt"))
    resumed, history = tuned(Hooks(resume=tmp_path / "resume.pt"))
    for mine, theirs in zip(history, expected, strict=True):
        assert mine | {"seconds": 0} == theirs | {"seconds": 0}
    for mine, theirs in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
