import dataclasses

import pytest
import torch
from conftest import tiny

from rossbench.attacks import pgd
from rossbench.data import datasets
from rossbench.models.classifier import Classifier
from rossbench.models.simclr import build
from rossbench.stages.finetune import encode, finetune
from rossbench.stages.train_loop import Hooks
from rossbench.util.seeds import derive, seeded


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


@pytest.mark.parametrize("epsilon", [0.0, 1.0], ids=["standard", "adversarial"])
def test_frozen_is_frozen_bit_for_bit(encoder, data, epsilon):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    classifier, _ = finetune(spec(epsilon, epochs=3), encoder, data.images, data.labels, 10, Hooks())
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
