"""Attacks by name, on images of a classifier that they can fool."""

import copy
import dataclasses

import pytest
import torch
import torchattacks
from conftest import tiny
from torch import nn

from rossbench import registry
from rossbench.attacks import autoattack
from rossbench.attacks.table import ATTACKS, Attack
from rossbench.attacks.task import Draws, Task, run_attack
from rossbench.data import datasets
from rossbench.models.simclr import build
from rossbench.stages.finetune import finetune
from rossbench.stages.train_loop import Hooks
from rossbench.util.errors import AttackError
from rossbench.util.seeds import derive, seeded

COUNT = 48
RADIUS = {"L2": 0.4, "Linf": 0.02}


@pytest.fixture(scope="module")
def trained():
    """A classifier of random features, good enough to be fooled; test images, and whether it gets them right."""
    cell = tiny().cells[0.0, 0.0, 0.5].finetune
    train, test = datasets.load("digits", "train", 600), datasets.load("digits", "test", COUNT)
    spec = dataclasses.replace(cell, recipe=dataclasses.replace(cell.recipe, epochs=20))
    classifier, _ = finetune(spec, build(cell.pretrain).encoder, train.images, train.labels, 10, Hooks())
    classifier.requires_grad_(False)
    return classifier, test.images / 255, test.labels


def attack(name, norm="L2", **changes):
    """With its own settings, or for the slow ones fewer steps."""
    steps = {"square": 150, "pgd": 10, "fab-t": 8, "apgd-t": 8}.get(name, 15)
    return dataclasses.replace(ATTACKS[name].defaults, norm=norm, **{"steps": steps} | changes)


def attacked(trained, one, some=None, radius=None):
    """What an attack makes of some of the images."""
    classifier, images, labels = trained
    places = torch.arange(COUNT) if some is None else some
    radii = torch.full((len(places),), radius or RADIUS[one.norm])
    return run_attack(classifier, images[places], labels[places], one, radii, Draws(5, COUNT, places))


def right(trained, images):
    return trained[0](images).argmax(1) == trained[2]


TIE = 1e-3
"""Of logits up to 8. Natural images are at least 0.05 from a tie, but FAB ends beside the boundary, often below 1e-4,
where rounding says on which side an image is: nothing below hangs on one that is so near.
"""


def ahead(trained, images):
    """By how much the right class leads; below 0 where another does."""
    logits, labels = trained[0](images), trained[2][:, None]
    return (logits.gather(1, labels) - logits.scatter(1, labels, -torch.inf).amax(1, keepdim=True))[:, 0]


def same_are_right(trained, ours, theirs):
    """Of two ways to the same, but for what is near to a tie in either; that is a third of the images at most."""
    one, other = ahead(trained, ours), ahead(trained, theirs)
    clear = torch.minimum(one.abs(), other.abs()) > TIE
    assert clear.sum() > COUNT * 2 / 3
    return torch.equal((one > 0)[clear], (other > 0)[clear])


NAMES = [name for name in ATTACKS if name != "autoattack-standard"]  # the slow one has tests of its own below
SEARCHES = ["square", "apgd-ce", "apgd-t", "fab-t"]
both_norms = pytest.mark.parametrize("norm", ["L2", "Linf"])
every = pytest.mark.parametrize("name", NAMES)


@both_norms
@every
def test_images_are_bounded_and_hang_on_seed_and_place_alone(trained, name, norm):
    """Neighbours: not a bit. Smaller batches, whose convolutions round otherwise on some CPUs: not who is turned."""
    classifier, one = copy.deepcopy(trained[0]).train(), attack(name, norm)
    classifier.zero_grad()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    made = attacked((classifier, *trained[1:]), one)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in classifier.modules())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not made.requires_grad
    distance = torch.linalg.vector_norm((made - trained[1]).flatten(1), ord=2 if norm == "L2" else torch.inf, dim=1)
    assert 0 <= made.min() <= made.max() <= 1
    assert distance.max() > 0
    assert name == "negative" or distance.max() <= RADIUS[norm] * (1 + 1e-4) + 1e-6
    torch.manual_seed(2)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    assert torch.equal(attacked(trained, one, order), made[order])
    parts = torch.cat([attacked(trained, one, some) for some in torch.arange(COUNT).split(17)])
    assert same_are_right(trained, parts, made)


@both_norms
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_turns_images_and_leaves_those_it_cannot_turn_and_those_wrong_before(trained, name, norm):
    """Of 48 images 42 are right before, and at this radius 10 to 38 after: four between any two, on any CPU."""
    made = attacked(trained, attack(name, norm), radius=1.5 * RADIUS[norm])
    natural, moved = right(trained, trained[1]), (made != trained[1]).flatten(1).any(1)
    assert 0 < (natural & ~moved).sum() < natural.sum() < COUNT
    assert ahead(trained, made)[moved].max() < TIE
    assert not (moved & ~natural).any()


@both_norms
def test_apgd_is_torchattacks_own_from_the_same_starts(trained, norm):
    classifier, images, labels = trained
    correct = right(trained, images).nonzero()[:, 0]
    theirs = torchattacks.APGD(classifier, norm=norm, eps=RADIUS[norm], steps=15)
    with seeded(derive(5, "apgd", 0)):
        start = (torch.rand if norm == "Linf" else torch.randn)(COUNT, *images.shape[1:])[correct]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand" if norm == "Linf" else "randn", lambda shape: start)
        _, standing, _, found = theirs.attack_single_run(images[correct], labels[correct])
    expected = images.clone()
    expected[correct] = torch.where(standing.view(-1, 1, 1, 1), images[correct], found)
    assert torch.equal(attacked(trained, attack("apgd-ce", norm)), expected)


def test_the_targeted_loss_is_that_of_the_paper(generator):
    """Croce & Hein (2020), equation 7, written down from the paper."""
    logits, labels = torch.randn(64, 10, generator=generator), torch.randint(0, 10, (64,), generator=generator)
    target = (labels + 3) % 10
    search = autoattack._Apgd(nn.Linear(1, 1))
    search.target = target
    for z, y, t, found in zip(logits, labels, target, search.dlr_loss(logits, labels), strict=True):
        first, _, third, fourth = z.sort(descending=True).values[:4]
        assert found == pytest.approx(float(-(z[y] - z[t]) / (first - (third + fourth) / 2)), rel=1e-4)


@both_norms
def test_fab_is_torchattacks_own_and_keeps_what_is_near_enough(trained, norm):
    classifier, images, labels = trained
    correct = right(trained, images)
    theirs = torchattacks.FAB(classifier, norm, RADIUS[norm], 8, multi_targeted=True, n_classes=10)
    with seeded(0):
        expected = theirs(images, labels)
    classifier.eval()
    ours = attacked(trained, attack("fab-t", norm))
    assert same_are_right(trained, ours, expected)
    assert (right(trained, ours) < correct).any()  # 24 and 28 of 42 are left


def test_square_has_the_references_schedule_and_queries(trained, monkeypatch):
    made = []

    class Recorded(autoattack._Square):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(autoattack, "_Square", Recorded)
    attacked(trained, attack("square"))
    (search,) = made
    assert (search.n_queries, search.rescale_schedule, search.p_init, search.n_restarts) == (150, False, 0.8, 1)
    assert search.loss == "margin"


def test_square_in_l2_takes_one_norm_of_a_window_for_each_channel():
    """Six images of whole numbers, a linear model, 40 queries: how far ahead the right class is afterwards.

    Computed once in float64 by a program written from Andriushchenko et al. (2020), algorithms 1 and 3, on the same
    random numbers. With one norm over all channels it gives -0.0038, -0.0487, 1.2182, 0.6792, -0.0099, 0.3306.
    """
    weights = (torch.arange(192 * 4) * 7919 % 1009).view(192, 4) / 1009 - 0.5
    images = (torch.arange(6 * 192) * 104729 % 997).view(6, 3, 8, 8) / 997
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False))
    model[1].weight = nn.Parameter(weights.T, requires_grad=False)
    labels = model(images).argmax(1)
    draws = Draws(3, 6, torch.arange(6))
    found = autoattack._square(Task(model, images, labels, Attack("square", steps=40), torch.full((6,), 0.5), draws))
    left = ahead((model, None, labels), found)
    torch.testing.assert_close(
        left, torch.tensor([0.0458, -0.0487, 1.2344, 0.7305, -0.0974, 0.3521]), atol=1e-3, rtol=0
    )


@both_norms
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_square_attacks_small_images_too(size, norm, generator):
    images = torch.rand(8, 3, size, size, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, 4)).requires_grad_(False)
    model[1].weight.copy_((torch.arange(model[1].weight.numel()) * 7919 % 13).view(4, -1) / 13 - 0.5)
    model[1].bias.copy_(-model[1].weight.sum(1) / 2)  # gray is a tie, so that two images or more are turned
    labels, radii = model(images).argmax(1), torch.full((8,), 0.5)
    found = run_attack(model, images, labels, attack("square", norm), radii, Draws(0, 8, torch.arange(8)))
    assert (model(found).argmax(1) != labels).any()


@pytest.mark.parametrize("name", [*SEARCHES, "pgd", "fgsm"])
def test_without_a_gradient_an_attack_that_follows_one_finds_nothing(trained, name):
    class Detached(nn.Module):
        def forward(self, images):
            return trained[0](images.detach())

    class NaN(nn.Module):
        def forward(self, images):
            return trained[0](images.sqrt().square())

    one, without = attack(name, steps=15), (Detached(), *trained[1:])
    if name == "square":
        assert attacked(without, one).ne(trained[1]).any()
        return
    assert torch.equal(attacked(without, one), trained[1])
    assert attacked((NaN(), *trained[1:]), one).isfinite().all()  # digits have black pixels


def test_noise_is_as_long_as_epsilon_and_a_negative_is_a_share_of_the_way(trained):
    gray = trained[0], torch.full_like(trained[1], 0.5), trained[2]
    for norm, order in (("L2", 2), ("Linf", torch.inf)):
        moved = (attacked(gray, attack("gaussian-noise", norm)) - 0.5).flatten(1)
        torch.testing.assert_close(
            torch.linalg.vector_norm(moved, ord=order, dim=1), torch.full((COUNT,), RADIUS[norm])
        )
        assert abs(float((moved / moved.std()).mean())) < 0.02
    torch.testing.assert_close(attacked(trained, attack("negative"), radius=1.0), 1 - trained[1])
    torch.testing.assert_close(attacked(trained, attack("negative"), radius=0.5), torch.full_like(trained[1], 0.5))


@both_norms
def test_fgsm_is_one_step_along_the_gradient(trained, norm):
    classifier, images, labels = trained
    given = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(classifier(given), labels, reduction="sum"), given)
    lengths = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = (images + RADIUS[norm] * (gradient.sign() if norm == "Linf" else gradient / lengths)).clamp(0, 1)
    torch.testing.assert_close(attacked(trained, attack("fgsm", norm)), expected, atol=1e-6, rtol=0)


@both_norms
def test_more_restarts_turn_more_and_never_give_an_image_back(trained, norm):
    """One short step in a wide ball, where much hangs on the start: of 10 (12) images left 1 (3) stand eight starts."""
    weak, radius = {"steps": 1, "step_size": 0.3, "step_unit": "epsilon"}, 8 * RADIUS[norm]
    once, twice, often = (
        right(trained, attacked(trained, attack("pgd", norm, restarts=restarts, **weak), radius=radius))
        for restarts in (1, 2, 8)
    )
    assert not (twice & ~once).any()
    assert not (often & ~twice).any()
    assert often.sum() < once.sum()


@both_norms
def test_relative_steps_are_lengths_times_epsilon(trained, norm):
    share = attack("pgd", norm, step_size=0.25, step_unit="epsilon")
    length = attack("pgd", norm, step_size=0.25 * RADIUS[norm], step_unit="pixel")
    torch.testing.assert_close(attacked(trained, share), attacked(trained, length), atol=1e-6, rtol=0)


# --- AutoAttack ---------------------------------------------------------------------------------------------

AA = ATTACKS["autoattack-standard"].defaults


@pytest.fixture(scope="module")
def few():
    """Images that a small network gets right, and is quickly asked about: AutoAttack does so 7,000 times an image."""
    train, test = datasets.load("digits", "train", 600), datasets.load("digits", "test", 60)
    with seeded(0):
        layers = [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10)]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(train.images / 255), train.labels).backward()
        optimizer.step()
    network.requires_grad_(False)
    images = test.images / 255
    right = network(images).argmax(1) == test.labels
    return network, images[right][:12], test.labels[right][:12]


def of_few(few, one):
    radii = torch.full((12,), 1.25 * RADIUS[one.norm])
    return few[0](run_attack(*few, one, radii, Draws(5, 12, torch.arange(12)))).argmax(1) == few[2]


@both_norms
def test_autoattack_is_the_worst_of_its_parts_for_each_image_and_no_weaker_than_pgd(few, norm, monkeypatch):
    """With the reference's 100 steps, but two targets and a tenth of its queries: 7 of 12 images stand."""
    square = ATTACKS["square"]
    monkeypatch.setattr(autoattack, "TARGETS", 2)
    fewer = dataclasses.replace(square, defaults=dataclasses.replace(square.defaults, steps=500))
    monkeypatch.setitem(ATTACKS, "square", fewer)
    parts = [of_few(few, dataclasses.replace(ATTACKS[name].defaults, norm=norm)) for name in SEARCHES]
    union = of_few(few, dataclasses.replace(AA, norm=norm))
    assert torch.equal(union, torch.stack(parts).all(0))
    assert 0 < union.sum() < 12
    assert union.sum() <= of_few(few, Attack(norm=norm, step_size=0.1, step_unit="epsilon")).sum()


def test_autoattack_runs_its_parts_in_order_with_the_references_settings_on_those_still_standing(few, monkeypatch):
    calls = []

    def recorded(name, turned):
        def run(task, rank=0):
            calls.append((name, rank, task.attack.steps, len(task.images)))
            found = task.images.clone()
            found[:turned] = 1 - found[:turned]  # turns a digit
            return found

        return run

    for name, turned in (("_apgd", 1), ("_fab", 0), ("_square", 0)):
        monkeypatch.setattr(autoattack, name, recorded(name, turned))
    task = Task(*few, AA, torch.full((12,), 30.0), Draws(5, 12, torch.arange(12)))
    autoattack.standard(task)
    assert [name for name, *_ in calls] == ["_apgd"] * 10 + ["_fab"] * 9 + ["_square"]
    assert [rank for _, rank, *_ in calls] == [0, *range(1, 10), *range(1, 10), 0]
    assert [steps for *_, steps, _ in calls] == [100] * 19 + [5000]
    standing = [count for *_, count in calls]
    assert standing == sorted(standing, reverse=True)
    assert standing[-1] < standing[0]


# --- a user's own -------------------------------------------------------------------------------------------


def test_an_attack_of_ones_own(trained, own_registry):
    def towards_white(model, images, labels, epsilon, attack):
        return (images + epsilon * torch.rand_like(images) / images[0].numel() ** 0.5).clamp(0, 1)

    registry.register_attack("own", towards_white)
    made = attacked(trained, Attack("own"))
    assert torch.equal(made, attacked(trained, Attack("own")))
    assert (made >= trained[1]).all()
    with seeded(5):
        torch.testing.assert_close(made, towards_white(None, trained[1], None, RADIUS["L2"], None))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x, y, e, a: x + 1, "expected a L2 distance of at most epsilon"),
        (lambda m, x, y, e, a: x[:, :1], r"attack 'own': expected images \(48, 3, 16, 16\), got \(48, 1, 16, 16\)"),
        (lambda m, x, y, e, a: None, r"attack 'own': expected images \(48, 3, 16, 16\), got NoneType"),
        (lambda m, x, y, e, a: x * torch.nan, "expected finite"),
    ],
)
def test_what_ones_own_attack_returns_is_not_trusted(trained, own_registry, function, message):
    registry.register_attack("own", function)
    with pytest.raises(AttackError, match=message):
        attacked(trained, Attack("own"))


def test_images_of_several_radii_are_attacked_as_each_alone(trained, own_registry):
    registry.register_attack("own", lambda m, x, y, e, a: (x + e * torch.ones_like(x) / 100).clamp(0, 1))
    radii = torch.tensor([0.2, 0.4]).repeat(COUNT // 2)
    for one in (*map(attack, ("square", "apgd-ce", "fab-t")), Attack("own")):
        mixed = run_attack(*trained, one, radii, Draws(5, COUNT, torch.arange(COUNT)))
        for radius in (0.2, 0.4):
            chosen = radii == radius
            torch.testing.assert_close(mixed[chosen], attacked(trained, one, radius=radius)[chosen], atol=1e-4, rtol=0)


class Bare(nn.Module):
    """A classifier without parameters."""

    def forward(self, images):
        return images.flatten(1)[:, 100:110] * 5


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_printed_of_a_model_without_parameters(trained, name, capfd):
    images = trained[1][:4]
    labels = Bare()(images).argmax(1)
    some = Draws(5, 4, torch.arange(4))
    made = run_attack(Bare(), images, labels, ATTACKS[name].defaults, torch.full((4,), 0.3), some)
    assert made.shape == images.shape
    assert capfd.readouterr() == ("", "")
