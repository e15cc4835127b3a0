"""PGD beside torchattacks', and the bounds of all attacks."""

import pytest
import torch
import torchattacks
from torch import nn

from rossbench.attacks import pgd
from rossbench.config.recipes import Attack
from rossbench.util.errors import AttackError


class Model(nn.Module):
    """Modes differ below: BatchNorm inside is frozen, dropout is not."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.rest = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 49, 10))

    def forward(self, images):
        return self.rest(self.frozen(images))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Model().train()
    model.frozen.eval()
    return model


@pytest.fixture
def batch(generator):
    """Of a size by which a mean is rounded."""
    return torch.rand(15, 3, 16, 16, generator=generator), torch.randint(0, 10, (15,), generator=generator)


ORDER = {"L2": 2, "Linf": torch.inf}
both_norms = pytest.mark.parametrize("norm", ["L2", "Linf"])
cases = pytest.mark.parametrize(
    ("norm", "epsilon"), [("L2", 0.05), ("L2", 1.0), ("L2", 5.0), ("Linf", 8 / 255), ("Linf", 0.5)]
)


def theirs(model, norm, **settings):
    if norm == "L2":
        return torchattacks.PGDL2(model, eps_for_division=pgd.EPS_FOR_DIVISION, **settings)
    return torchattacks.PGD(model, **settings)


def distances(adversarial, images, norm):
    return torch.linalg.vector_norm((adversarial - images).flatten(1), ord=ORDER[norm], dim=1)


# --- in training: one radius ---------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_it_is_torchattacks_bit_for_bit_for_the_same_seed(model, batch, norm, epsilon, random_start, mode):
    attack, made = Attack(norm=norm, steps=4, step_size=0.1, random_start=random_start), []
    for seed in (7, 8):
        torch.manual_seed(seed)
        made.append(pgd.perturb(model, *batch, attack, epsilon, mode=mode)[0])
    torch.manual_seed(7)
    search = theirs(model, norm, eps=epsilon, alpha=0.1, steps=4, random_start=random_start)
    search.set_model_training_mode(*[mode == "train"] * 3)
    assert torch.equal(made[0], search(*batch))
    assert torch.equal(*made) is (not random_start and mode == "eval")  # dropout draws in train mode


@cases
def test_the_result_is_bounded_in_range_finite_and_stronger_than_nothing(model, batch, norm, epsilon):
    images, labels = batch
    adversarial, extremes = pgd.perturb(model, *batch, Attack(norm=norm, steps=20, step_size=0.1), epsilon)
    pgd.check(extremes.tolist(), norm)
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    moved = distances(adversarial, images, norm)
    assert 0 < moved.min() <= moved.max() <= epsilon * (1 + 1e-4) + 1e-6
    model.eval()
    loss = nn.functional.cross_entropy
    assert loss(model(adversarial), labels) > loss(model(images), labels)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("channels", [3, 2])
def test_modes_are_as_before_also_when_the_model_raises(model, batch, mode, channels):
    """The mode under attack is the one asked for, seen from BatchNorm's statistics, which move in train mode only."""
    modes, statistics = [module.training for module in model.modules()], model.frozen[1].running_mean.clone()
    try:
        pgd.perturb(model, batch[0][:, :channels], batch[1], Attack(steps=2), 0.5, mode=mode)
        moved = not torch.equal(model.frozen[1].running_mean, statistics)
        assert (channels, moved) == (3, mode == "train")
    except RuntimeError:
        assert channels == 2
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_epsilon_0_is_no_attack(model, batch):
    images, extremes = pgd.perturb(model, *batch, Attack(), 0)
    assert images is batch[0]
    pgd.check(extremes.tolist(), "L2")


@both_norms
def test_nothing_waits_for_the_device(model, batch, no_waiting, norm):
    with no_waiting:
        pgd.perturb(model, *batch, Attack(norm=norm, steps=2), 0.5)
        start = pgd.random_start(Attack(norm=norm), batch[0], 1)
        pgd.pgd(model, *batch, Attack(norm=norm, steps=2), torch.full((15,), 0.5), start)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_confident_image_in_a_large_batch_moves_like_any_other(generator, reduction):
    """Its share of the mean loss has a gradient far below torchattacks' default floor of 1e-10."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 12, generator=generator) * 10)
    images = torch.rand(1024, 3, 2, 2, generator=generator) / 2 + 0.25
    with torch.no_grad():
        labels = model(images).argmax(1)
    made = pgd.pgd(model, images, labels, Attack(steps=1, step_size=0.2), 0.2, torch.zeros_like(images), reduction)
    torch.testing.assert_close(distances(made, images, "L2"), torch.full((1024,), 0.2))


# --- radii of each image's own -------------------------------------------------------------------------------


@cases
def test_equal_radii_are_one_radius(model, batch, norm, epsilon):
    """Of 8 images the sum of the loss is 8 times its mean, exactly. In L2 radius / length rounds differently: torch
    divides a number by a tensor as reciprocal times number.
    """
    model.eval()
    images, labels = (part[:8] for part in batch)
    made = [
        pgd.pgd(model, images, labels, Attack(norm=norm, steps=4, step_size=0.1), radii, torch.zeros_like(images))
        for radii in (torch.full((8,), epsilon), epsilon)
    ]
    torch.testing.assert_close(*made, atol=1e-7 if norm == "L2" else 0, rtol=0)


@pytest.mark.parametrize("size", [1, 5, 14])
@pytest.mark.parametrize(("norm", "most"), [("L2", 2.0), ("Linf", 0.5)])
def test_each_image_has_its_own_radius_and_others_do_not_matter(model, batch, norm, most, size):
    model.eval()
    attack, radii = Attack(norm=norm, steps=4, step_size=0.3), torch.linspace(most / 50, most, 15)
    start = pgd.random_start(attack, batch[0], 1, torch.Generator().manual_seed(0)) * radii.view(-1, 1, 1, 1)
    whole = pgd.pgd(model, *batch, attack, radii, start)
    parts = zip(*(tensor.split(size) for tensor in (*batch, radii, start)), strict=True)
    made = torch.cat([pgd.pgd(model, x, y, attack, r, s) for x, y, r, s in parts])
    torch.testing.assert_close(made, whole, atol=1e-6, rtol=0)
    moved = distances(whole, batch[0], norm)
    assert (moved <= radii * (1 + 1e-4) + 1e-6).all()
    assert (moved > radii / 3)[: 15 // 2].all()  # where nothing but the radius is in the way


# --- starts --------------------------------------------------------------------------------------------------


def test_starts_are_of_the_ball_and_a_larger_one_has_the_same_enlarged(generator):
    """L2: a random direction and a length uniform in [0, radius]; L-infinity: uniform in the cube."""
    like = torch.empty(4000, 3, 4, 4)
    ball = pgd.random_start(Attack(norm="L2"), like, 1, generator).flatten(1)
    lengths = ball.norm(dim=1)
    directions = ball / lengths[:, None]
    assert directions.mean(0).abs().max() < 5 / (48 * 4000) ** 0.5  # no coordinate's sign is likelier
    assert directions.pow(4).mean() == pytest.approx(3 / (48 * 50), rel=0.03)  # uniform on the sphere of 48 dimensions
    assert lengths.max() <= 1 + 1e-5
    assert torch.allclose(lengths.quantile(torch.linspace(0, 1, 11)), torch.linspace(0, 1, 11), atol=0.03)
    cube = pgd.random_start(Attack(norm="Linf"), like, 1, generator)
    assert cube.abs().max() <= 1
    assert torch.allclose(cube[:200].flatten().quantile(torch.linspace(0, 1, 5)), torch.linspace(-1, 1, 5), atol=0.05)
    assert not pgd.random_start(Attack(random_start=False), like, 1, generator).any()
    for norm in ("L2", "Linf"):
        small, large = (
            pgd.random_start(Attack(norm=norm), like, radius, torch.Generator().manual_seed(5)) for radius in (1, 0.3)
        )
        torch.testing.assert_close(0.3 * small, large, atol=1e-6, rtol=0)


# --- bounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x + 0.1).clamp(0, 1), "expected L2 distances of at most epsilon, got one that is"),
        (lambda x: x - 1e-4, r"expected pixels in \[0, 1\]"),
        (lambda x: x * torch.nan, "expected finite gradients"),
    ],
)
def test_what_an_attack_returns_is_not_trusted(batch, change, message):
    images = batch[0].clone()
    images[0, 0, 0, 0] = 0
    with pytest.raises(AttackError, match=message):
        pgd.check(pgd.extremes(change(images), images, "L2", 0.5).tolist(), "L2")


def test_a_gradient_that_is_not_finite_shows(batch):
    def broken(images):
        return (images.flatten(1)[:, :2] * 0).sqrt() / 0

    made = pgd.pgd(broken, batch[0], batch[1] % 2, Attack(steps=2), 0.5, torch.zeros_like(batch[0]))
    with pytest.raises(AttackError, match="expected finite gradients"):
        pgd.check(pgd.extremes(made, batch[0], "L2", 0.5).tolist(), "L2")
