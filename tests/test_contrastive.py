import dataclasses

import pytest
import torch
import torchattacks
from lightly.loss import NTXentLoss

from rossbench import attacks, contrastive
from rossbench.pretrain import build
from rossbench.recipe import Attack, Pretraining
from rossbench.specs import PretrainSpec


@pytest.fixture
def recipe():
    return Pretraining(attack=Attack(steps=3, step_size=1.0), temperature=0.2)


@pytest.fixture
def model(recipe):
    return build(PretrainSpec("digits", None, "conv3", recipe=recipe)).train()


@pytest.fixture
def views(generator):
    return torch.rand(24, 3, 16, 16, generator=generator)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_the_hooks_loss_is_lightlys_nt_xent(generator, temperature):
    """Cross-entropy on the similarities, which the attack raises, is the loss that training lowers; gradients too."""
    losses, gradients = [], []
    for loss_of in (
        lambda z: torch.nn.functional.cross_entropy(
            contrastive.similarities(z, temperature), contrastive.partners(len(z), z.device)
        ),
        lambda z: NTXentLoss(temperature=temperature)(*z.chunk(2)),
        contrastive.nt_xent(temperature),
    ):
        projections = torch.randn(32, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
        losses.append(loss_of(projections))
        losses[-1].backward()
        gradients.append(projections.grad)
    for k in (0, 2):
        torch.testing.assert_close(losses[k], losses[1], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(gradients[k], gradients[1], atol=1e-7, rtol=1e-5)


def test_nt_xent_is_the_studys_equation(generator):
    """Equation 3.11, term by term."""
    projections = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    unit = projections / projections.norm(dim=1, keepdim=True)
    terms = []
    for i in range(8):
        j = (i + 4) % 8
        similar = [torch.exp(unit[i] @ unit[k] / 0.3) for k in range(8) if k != i]
        terms.append(-torch.log(torch.exp(unit[i] @ unit[j] / 0.3) / sum(similar)))
    torch.testing.assert_close(contrastive.nt_xent(0.3)(projections), sum(terms) / 8)


def test_a_view_is_never_its_own_partner(model, views):
    logits = model(views)
    assert logits.shape == (24, 24)
    assert logits.diagonal().isneginf().all()
    assert contrastive.partners(6, views.device).tolist() == [3, 4, 5, 0, 1, 2]


def test_adversarial_views_raise_the_loss_within_epsilon(model, recipe, views):
    """In the mode in which they are made; the loss is that of the whole batch."""
    epsilon = 1.0
    adversarial = contrastive.adversarial_views(model, views, recipe, epsilon, seed=0)
    assert (adversarial - views).flatten(1).norm(dim=1).max() <= epsilon * (1 + 1e-4)
    loss = contrastive.nt_xent(recipe.temperature)
    noise = torch.randn_like(views)
    noise = (views + epsilon * noise / noise.flatten(1).norm(dim=1)[:, None, None, None]).clamp(0, 1)
    model.eval()
    with torch.no_grad():
        natural, noisy, attacked = (loss(model.project(x)) for x in (views, noise, adversarial))
    assert attacked > noisy
    assert attacked > natural


def test_adversarial_views_are_torchattacks_on_the_similarities(model, recipe, views):
    ours = contrastive.adversarial_views(model, views, recipe, 0.5, seed=3)
    torch.manual_seed(3)
    floor = attacks.EPS_FOR_DIVISION
    theirs = torchattacks.PGDL2(model, eps=0.5, alpha=1.0, steps=3, random_start=True, eps_for_division=floor)
    assert torch.equal(ours, theirs(views, torch.arange(24).roll(12)))


def test_epsilon_0_is_plain_simclr(model, recipe, views):
    assert contrastive.adversarial_views(model, views, recipe, 0, seed=0) is views


@pytest.mark.parametrize(("norm", "layers"), [(False, 3), (True, 5)])
def test_the_projection_head_is_lightlys(recipe, norm, layers):
    spec = PretrainSpec("digits", None, "conv3", recipe=dataclasses.replace(recipe, projection_batch_norm=norm))
    head = build(spec).head
    assert len(head.layers) == layers
    assert head(torch.zeros(4, 512)).shape == (4, 128)
