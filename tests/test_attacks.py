import contextlib

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
    return torch.rand(16, 3, 16, 16, generator=generator), torch.randint(0, 10, (16,), generator=generator)


def seeded(seed, *arguments):
    torch.manual_seed(seed)
    return pgd.perturb(*arguments)[0]


THEIRS = {"L2": torchattacks.PGDL2, "Linf": torchattacks.PGD}
CASES = [("L2", 0.05), ("L2", 1.0), ("L2", 5.0), ("Linf", 8 / 255), ("Linf", 0.5)]


@pytest.mark.parametrize(("norm", "epsilon"), CASES)
def test_the_result_is_torchattacks_own_for_the_same_seed(model, batch, norm, epsilon):
    attack = Attack(norm=norm, steps=4, step_size=0.1)
    ours = seeded(7, model, *batch, attack, epsilon)
    torch.manual_seed(7)
    more = {"eps_for_division": pgd.EPS_FOR_DIVISION} if norm == "L2" else {}
    theirs = THEIRS[norm](model, eps=epsilon, alpha=0.1, steps=4, **more)(*batch)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, seeded(8, model, *batch, attack, epsilon))


@pytest.mark.parametrize(("norm", "epsilon"), CASES)
def test_the_result_is_bounded_in_range_finite_and_stronger_than_nothing(model, batch, norm, epsilon):
    images, labels = batch
    attack = Attack(norm=norm, steps=20, step_size=0.1)
    adversarial, extremes = pgd.perturb(model, images, labels, attack, epsilon)
    pgd.check(extremes.tolist(), norm)
    order = 2 if norm == "L2" else torch.inf
    distance = torch.linalg.vector_norm((adversarial - images).flatten(1), ord=order, dim=1)
    assert adversarial.isfinite().all()
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    assert distance.max() <= epsilon * (1 + 1e-4) + 1e-6
    assert distance.min() > 0
    model.eval()
    loss = nn.functional.cross_entropy
    assert loss(model(adversarial), labels) > loss(model(images), labels)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_modes_are_as_before(model, batch, mode):
    modes = [module.training for module in model.modules()]
    pgd.perturb(model, *batch, Attack(steps=2), 0.5, mode=mode)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_as_before_when_the_attack_raises(model, batch):
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError):
        pgd.perturb(model, batch[0][:, :2], batch[1], Attack(steps=2), 0.5)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(("mode", "changed"), [("eval", False), ("train", True)])
def test_the_mode_under_attack_is_the_one_asked_for(model, batch, mode, changed):
    """Seen from BatchNorm's statistics, which move in train mode only."""
    statistics = model.frozen[1].running_mean.clone()
    pgd.perturb(model, *batch, Attack(steps=2), 0.5, mode=mode)
    assert (not torch.equal(model.frozen[1].running_mean, statistics)) is changed


def test_epsilon_0_is_no_attack(model, batch):
    images, extremes = pgd.perturb(model, *batch, Attack(), 0)
    assert images is batch[0]
    pgd.check(extremes.tolist(), "L2")


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_nothing_waits_for_the_device(model, batch, no_waiting, norm):
    with no_waiting:
        pgd.perturb(model, *batch, Attack(norm=norm, steps=2), 0.5)


def test_a_confident_sample_in_a_large_batch_is_attacked_like_any_other(generator):
    """Its share of the mean loss has a gradient far below torchattacks' default floor of 1e-10."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, 12, generator=generator) * 10)
    images = torch.rand(1024, 3, 2, 2, generator=generator) / 2 + 0.25
    with torch.no_grad():
        labels = model(images).argmax(1)
    attack = Attack(steps=1, step_size=0.2, random_start=False)
    moved = (pgd.perturb(model, images, labels, attack, 0.2)[0] - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, torch.full((1024,), 0.2))


class Wrong(nn.Module):
    """Logits whose gradient is not a number."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return (self.weight * images.flatten(1)[:, :2] * 0).sqrt() / 0


def test_a_result_that_is_not_finite_is_refused(batch):
    images, labels = batch[0], batch[1] % 2
    _, extremes = pgd.perturb(Wrong(), images, labels, Attack(steps=2), 0.5)
    with pytest.raises(AttackError, match="expected finite gradients"):
        pgd.check(extremes.tolist(), "L2")
    with pytest.raises(AttackError, match="expected finite gradients"):
        pgd.perturb_each(Wrong(), images, labels, Attack(steps=2), torch.full((16,), 0.5), torch.zeros_like(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :, :8], "expected shape"),
        (lambda x: (x + 0.1).clamp(0, 1), "expected a L2 distance of at most epsilon, got one that is"),
        (lambda x: x - 1e-4, r"expected pixels in \[0, 1\]"),
    ],
)
def test_what_an_attack_returns_is_not_trusted(batch, change, message):
    images = batch[0].clone()
    images[0, 0, 0, 0] = 0
    with pytest.raises(AttackError, match=message):
        pgd.check(pgd.extremes(change(images), images, "L2", 0.5).tolist(), "L2")


@pytest.mark.parametrize(("norm", "epsilon"), CASES)
def test_equal_radii_are_torchattacks_own(model, batch, norm, epsilon):
    """Of 16 images the sum of the loss is 16 times its mean, exactly. In L2 the two round radius / length differently:
    torchattacks divides a number by a tensor, which torch does as reciprocal times number.
    """
    attack = Attack(norm=norm, steps=4, step_size=0.1, random_start=False)
    ours = pgd.perturb_each(model, *batch, attack, torch.full((16,), epsilon), torch.zeros_like(batch[0]))
    more = {"eps_for_division": pgd.EPS_FOR_DIVISION} if norm == "L2" else {}
    theirs = THEIRS[norm](model, eps=epsilon, alpha=0.1, steps=4, random_start=False, **more)
    torch.testing.assert_close(ours, theirs(*batch), atol=1e-7 if norm == "L2" else 0, rtol=0)


@pytest.mark.parametrize(("norm", "radii"), [("L2", (0.05, 0.5, 2.0)), ("Linf", (0.01, 0.05, 0.5))])
def test_each_image_has_its_own_radius_and_others_do_not_matter(model, batch, norm, radii):
    attack = Attack(norm=norm, steps=4, step_size=0.1)
    images, labels = batch
    start = pgd.unit_start(attack, images, torch.Generator().manual_seed(0))
    mixed = torch.tensor(radii).repeat(6)[:16]
    together = pgd.perturb_each(model, images, labels, attack, mixed, start)
    for radius in radii:
        chosen = mixed == radius
        alone = pgd.perturb_each(model, images[chosen], labels[chosen], attack, mixed[chosen], start[chosen])
        torch.testing.assert_close(together[chosen], alone, atol=1e-6, rtol=0)
        order = 2 if norm == "L2" else torch.inf
        distance = torch.linalg.vector_norm((alone - images[chosen]).flatten(1), ord=order, dim=1)
        assert radius / 2 < distance.max() <= radius * (1 + 1e-4) + 1e-6


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("size", [1, 5, 15])
def test_how_the_images_are_batched_does_not_matter(model, batch, norm, size):
    model.eval()
    attack, radii = Attack(norm=norm, steps=4, step_size=0.1), torch.linspace(0.05, 1, 16)
    given = (*batch, radii, pgd.unit_start(attack, batch[0], torch.Generator().manual_seed(0)))
    parts = zip(*(tensor.split(size) for tensor in given), strict=True)
    made = [pgd.perturb_each(model, x, y, attack, r, start) for x, y, r, start in parts]
    images, labels, radii, start = given
    whole = pgd.perturb_each(model, images, labels, attack, radii, start)
    torch.testing.assert_close(torch.cat(made), whole, atol=1e-6, rtol=0)


def test_a_confident_image_moves_as_far_in_a_large_batch_as_alone():
    """Of so small a gradient, about as long as the floor below it, a mean over the batch would leave too little."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[6.0], [-6.0]]).expand(2, 12))
    images, labels = torch.full((64, 3, 2, 2), 0.5), torch.zeros(64, dtype=torch.int64)
    attack = Attack(steps=1, step_size=0.2)
    moved = []
    for count in (1, 64):
        given = images[:count], labels[:count], attack, torch.ones(count), torch.zeros(count, 3, 2, 2)
        moved.append((pgd.perturb_each(model, *given)[0] - images[0]).norm())
    assert moved[0] > 0.1
    torch.testing.assert_close(*moved, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_starts_are_torchattacks_own_for_the_same_seed(model, norm):
    """Seen before its first step, around a gray where no pixel is clamped."""
    gray, radius = torch.full((16, 3, 16, 16), 0.5), 0.5
    torch.manual_seed(5)
    theirs = THEIRS[norm](model, eps=radius, steps=0)(gray, torch.zeros(16, dtype=torch.int64))
    ours = pgd.unit_start(Attack(norm=norm), gray, torch.Generator().manual_seed(5))
    torch.testing.assert_close(gray + radius * ours, theirs, atol=1e-6, rtol=0)


def test_starts_are_drawn_as_torchattacks_draws_them(generator):
    """L2: a random direction and a length uniform in [0, 1]; L-infinity: uniform in the cube."""
    like = torch.empty(4000, 3, 4, 4)
    ball = pgd.unit_start(Attack(norm="L2"), like, generator).flatten(1)
    lengths = ball.norm(dim=1)
    directions = ball / lengths[:, None]
    assert directions.mean(0).abs().max() < 5 / (48 * 4000) ** 0.5  # no coordinate's sign is likelier
    assert directions.pow(4).mean() == pytest.approx(3 / (48 * 50), rel=0.03)  # uniform on the sphere of 48 dimensions
    assert lengths.max() <= 1 + 1e-5
    assert torch.allclose(lengths.quantile(torch.linspace(0, 1, 11)), torch.linspace(0, 1, 11), atol=0.03)
    cube = pgd.unit_start(Attack(norm="Linf"), like, generator)
    assert cube.abs().max() <= 1
    assert torch.allclose(cube[:200].flatten().quantile(torch.linspace(0, 1, 5)), torch.linspace(-1, 1, 5), atol=0.05)
    assert not pgd.unit_start(Attack(random_start=False), like, generator).any()


@pytest.mark.parametrize("broken", [False, True])
def test_radii_leave_modes_as_they_were(model, batch, broken):
    modes = [module.training for module in model.modules()]
    images = batch[0][:, :2] if broken else batch[0]
    with pytest.raises(RuntimeError) if broken else contextlib.nullcontext():
        pgd.perturb_each(model, images, batch[1], Attack(steps=2), torch.full((16,), 0.5), torch.zeros_like(images))
    assert [module.training for module in model.modules()] == modes
