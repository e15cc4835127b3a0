import dataclasses

import pytest
import torch
import torchattacks
from lightly.loss import NTXentLoss

from rossbench.attacks import pgd
from rossbench.config.recipes import Attack, Pretraining
from rossbench.config.specs import PretrainSpec
from rossbench.models import simclr
from rossbench.models.simclr import build


def nt_xent(projections, temperature):
    logits = simclr.similarities(projections, temperature)
    return torch.nn.functional.cross_entropy(logits, simclr.partners(len(logits), logits.device))


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
def test_the_loss_is_lightlys_nt_xent(temperature):
    """Cross-entropy on the similarities, which the attack raises and training lowers; gradients too."""
    losses, gradients = [], []
    for loss_of in (lambda z: nt_xent(z, temperature), lambda z: NTXentLoss(temperature=temperature)(*z.chunk(2))):
        projections = torch.randn(32, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
        losses.append(loss_of(projections))
        losses[-1].backward()
        gradients.append(projections.grad)
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-5)


def test_nt_xent_is_the_studys_equation(generator):
    """Equation 3.11, term by term."""
    projections = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    unit = projections / projections.norm(dim=1, keepdim=True)
    terms = []
    for i in range(8):
        j = (i + 4) % 8
        similar = [torch.exp(unit[i] @ unit[k] / 0.3) for k in range(8) if k != i]
        terms.append(-torch.log(torch.exp(unit[i] @ unit[j] / 0.3) / sum(similar)))
    torch.testing.assert_close(nt_xent(projections, 0.3), sum(terms) / 8)


def test_a_view_is_never_its_own_partner(model, views):
    logits = model(views)
    assert logits.shape == (24, 24)
    assert logits.diagonal().isneginf().all()
    assert simclr.partners(6, views.device).tolist() == [3, 4, 5, 0, 1, 2]


def test_adversarial_views_raise_the_loss_within_epsilon(model, views):
    """In the mode in which they are made; the loss is that of the whole batch."""
    epsilon = 1.0
    adversarial, extremes = simclr.adversarial_views(model, views, epsilon)
    pgd.check(extremes.tolist(), "L2")
    assert (adversarial - views).flatten(1).norm(dim=1).max() <= epsilon * (1 + 1e-4)
    noise = torch.randn_like(views)
    noise = (views + epsilon * noise / noise.flatten(1).norm(dim=1)[:, None, None, None]).clamp(0, 1)
    model.eval()
    with torch.no_grad():
        natural, noisy, attacked = (nt_xent(model.project(x), 0.2) for x in (views, noise, adversarial))
    assert attacked > noisy
    assert attacked > natural


def test_adversarial_views_are_torchattacks_on_the_similarities(model, views):
    torch.manual_seed(3)
    ours, _ = simclr.adversarial_views(model, views, 0.5)
    torch.manual_seed(3)
    floor = pgd.EPS_FOR_DIVISION
    theirs = torchattacks.PGDL2(model, eps=0.5, alpha=1.0, steps=3, random_start=True, eps_for_division=floor)
    assert torch.equal(ours, theirs(views, torch.arange(24).roll(12)))


ATTACKS = [
    Attack(norm=norm, steps=3, step_size=size, step_unit=unit, random_start=start)
    for norm in ("L2", "Linf")
    for size, unit in ((0.3, "pixel"), (0.7, "epsilon"))
    for start in (True, False)
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
@pytest.mark.parametrize("dead", [False, True], ids=["", "zero gradients"])
def test_an_epsilon_on_the_device_attacks_as_the_number_does(recipe, views, attack, dead):
    """As in a warm-up; a random start in L-infinity may round otherwise. Radius 0 leaves the views as they are."""
    model = build(PretrainSpec("digits", None, "conv3", recipe=dataclasses.replace(recipe, attack=attack)))
    if dead:
        torch.nn.init.zeros_(model.head.layers[-1].weight)
    for epsilon in (0.0, 1e-4, 0.3):
        made = []
        for given in (epsilon, torch.tensor(epsilon, dtype=torch.float64)):
            torch.manual_seed(3)
            made.append(simclr.adversarial_views(model, views, given))
            assert made[-1][0].dtype == torch.float32
            pgd.check(made[-1][1].tolist(), attack.norm)
        if attack.norm == "L2" or not attack.random_start or not epsilon:
            assert torch.equal(made[0][0], made[1][0])


def test_a_tiny_ball_is_not_left_by_rounding(generator):
    """Of bright, large images each pixel's rounding adds up to more than a radius early in a warm-up."""
    images = 0.5 + 0.5 * torch.rand(4, 3, 224, 224, generator=generator)
    for epsilon in (1e-6, 1e-5, 1.2e-5, 1e-4):
        direction = torch.randn(images.shape, generator=generator)
        for moved in (direction, direction.sign()):
            near = (images + epsilon * moved / pgd.lengths(moved)).clamp(0, 1)
            pgd.check(pgd.extremes(near, images, "L2", epsilon).tolist(), "L2")


@pytest.mark.parametrize(("mode", "moved"), [("eval", False), ("train", True)])
def test_views_are_attacked_in_the_recipes_mode(recipe, views, mode, moved):
    """Seen from BatchNorm's statistics, which move in train mode only; afterwards the model trains on."""
    spec = PretrainSpec("digits", None, "conv3", recipe=dataclasses.replace(recipe, attack_mode=mode))
    model = build(spec).train()
    simclr.adversarial_views(model, views, 0.5)
    assert bool(model.encoder.backbone[1].running_mean.any()) is moved
    assert all(module.training for module in model.modules())


def test_epsilon_0_is_plain_simclr(model, views):
    assert simclr.adversarial_views(model, views, 0)[0] is views


@pytest.mark.parametrize(("norm", "layers"), [(False, 3), (True, 5)])
def test_the_projection_head_is_lightlys(recipe, norm, layers):
    spec = PretrainSpec("digits", None, "conv3", recipe=dataclasses.replace(recipe, projection_batch_norm=norm))
    head = build(spec).head
    assert len(head.layers) == layers
    assert head(torch.zeros(4, 512)).shape == (4, 128)


def changed(model, recipe, **changes):
    other = build(PretrainSpec("digits", None, "conv3", recipe=dataclasses.replace(recipe, **changes))).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_bfloat16_gives_float32_projections_that_are_nearly_those_of_float32(model, recipe, views):
    half, whole = changed(model, recipe, precision="bfloat16").project(views), model.eval().project(views)
    assert half.dtype == torch.float32
    assert not torch.equal(half, whole)
    assert torch.nn.functional.cosine_similarity(half, whole).min() > 0.999


@pytest.mark.parametrize("layout", [{"channels_last": True}, {"channels_last": True, "precision": "bfloat16"}])
def test_channels_last_can_be_attacked_and_changes_rounding_alone(model, recipe, views, layout):
    model.eval()
    other = changed(model, recipe, **layout).to(memory_format=torch.channels_last)
    close = 1e-5 if len(layout) == 1 else 1e-2
    torch.testing.assert_close(other.project(views), model.project(views), atol=close, rtol=close)
    adversarial, extremes = simclr.adversarial_views(other, views, 0.5)
    pgd.check(extremes.tolist(), "L2")
    assert nt_xent(model.project(adversarial), 0.2) > nt_xent(model.project(views), 0.2)
