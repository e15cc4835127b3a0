"""stages.kinds.corruptions: the authors' files, and the built-in set beside what its parameters say."""

import numpy as np
import pytest
import torch
from conftest import subject
from torch import nn

from rossbench.config.kinds import SEVERITIES, Kind
from rossbench.data.image_folder import balanced
from rossbench.models.classifier import Classifier
from rossbench.models.encoders import Encoder, build
from rossbench.stages.kinds import corruptions as module
from rossbench.stages.kinds import subject as subjects
from rossbench.stages.kinds.corruptions import CORRUPTIONS, corrupt
from rossbench.util.errors import DataError


def smooth(n, size):
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return (255 * nn.functional.interpolate(coarse, size=size, mode="bilinear")).round().byte()


def grey(value, size=32, n=4):
    return torch.full((n, 3, size, size), value, dtype=torch.uint8)


def made(name, severity, images):
    return corrupt(images, name, severity, range(len(images))).float() / 255


@pytest.mark.parametrize("size", [16, 32, 40])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_by_its_seed_alone_and_more_at_a_higher_severity(name, size):
    images, seeds = smooth(6, size), [3, 1, 4, 1, 5, 9]
    found = [corrupt(images, name, severity, seeds) for severity in range(1, 6)]
    assert all(one.dtype == torch.uint8 and one.shape == images.shape for one in found)
    assert torch.equal(found[2][3:5], corrupt(images[3:5], name, 3, seeds[3:5]))
    far = [float((one.float() - images).abs().mean()) for one in found]
    assert min(far) > 0.05
    if name != "elastic_transform":  # whose first severity is an affine map that moves further than the last
        assert far[4] > far[0]


@pytest.mark.parametrize(
    ("name", "severity", "value", "of", "expected"),
    [
        ("gaussian_noise", 1, 128, torch.std, 0.04),
        ("gaussian_noise", 5, 128, torch.std, 0.10),
        ("shot_noise", 3, 128, torch.std, (128 / 255 / 100) ** 0.5),
        ("impulse_noise", 4, 128, lambda made: (made == 1).double().mean(), 0.025),
        ("impulse_noise", 4, 128, lambda made: (made == 0).double().mean(), 0.025),
        ("brightness", 2, 102, torch.mean, 0.5),
        ("brightness", 5, 0, torch.mean, 0.3),
        ("brightness", 5, 230, torch.mean, 1.0),
        ("contrast", 5, 102, torch.mean, 0.4),
        ("defocus_blur", 5, 102, torch.mean, 0.4),
        ("motion_blur", 5, 102, torch.mean, 0.4),
        ("pixelate", 5, 102, torch.mean, 0.4),
        ("elastic_transform", 5, 102, torch.mean, 0.4),
        ("fog", 3, 255, torch.amax, 1.0),
        ("fog", 3, 255, torch.amin, 1 / 1.75),
    ],
)
def test_a_grey_image_becomes_what_the_parameters_say(name, severity, value, of, expected):
    assert float(of(made(name, severity, grey(value, n=20)))) == pytest.approx(expected, rel=0.05, abs=0.003)


def test_contrast_shrinks_deviations_and_brightness_keeps_hue():
    images = smooth(4, 32)
    spread = [
        one.sub(one.mean((2, 3), keepdim=True)).std() for one in (images.float() / 255, made("contrast", 2, images))
    ]
    assert float(spread[1] / spread[0]) == pytest.approx(0.5, rel=0.01)
    colour = torch.tensor([40, 80, 120], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    raised = made("brightness", 3, colour)[0, :, 0, 0] * 255
    assert raised.tolist() == pytest.approx([158.25 / 3, 158.25 * 2 / 3, 158.25], abs=0.6)


def test_blurs_spread_a_point_by_the_kernel():
    point = grey(0, n=40)
    point[:, :, 16, 16] = 255
    disk = made("defocus_blur", 4, point)[0, 0]
    assert float(disk.sum()) == pytest.approx(1, abs=0.02)
    assert (255 * disk[15:18, 15:18]).int().tolist() == [[0, 51, 0], [51, 51, 51], [0, 51, 0]]
    y, x = torch.meshgrid(torch.arange(32.0) - 16, torch.arange(32.0) - 16, indexing="ij")
    blurred = made("motion_blur", 5, point)[:, 0]
    middle = torch.stack([(blurred * along).sum((1, 2)) for along in (x, y)]) / blurred.sum((1, 2))
    assert middle[0].max() < 0, "along the horizon, to one side"
    assert (middle[1].abs() <= middle[0].abs() + 0.1).all(), "up to 45 degrees"
    assert middle[1].min() < -0.5
    assert middle[1].max() > 0.5


def of_own_labels(images, **changes):
    """A head that is right on all natural images."""
    head = Classifier(build("conv3", images.shape[-1], 0), 10).requires_grad_(False)
    head.linear.weight.data = torch.randn(head.linear.weight.shape, generator=torch.Generator().manual_seed(2))
    head.linear.bias.data.zero_()
    labels = head(images.float() / 255).argmax(1)
    return subject(
        head.encoder, images, SEVERITIES, classifier=head, labels=labels, kind=Kind("corruptions"), **changes
    )


def test_the_kind_has_a_row_a_corruption_and_severity_0_is_natural(monkeypatch):
    images = smooth(30, 16)
    found = module.corruptions(of_own_labels(images))
    assert list(found.rows) == [*(f"{name.replace('_', ' ')} (%)" for name in CORRUPTIONS), "mean (%)"]
    assert {row[0] for row in found.rows.values()} == {100}
    assert found.right.shape == (6, 30)
    assert found.right[0].all()
    rows = np.array(list(found.rows.values()))
    assert rows[-1] == pytest.approx(rows[:-1].mean(0))
    assert found.summary == {"mCE (%)": pytest.approx(100 - rows[:-1, 1:].mean()), "built-in corruptions": 11}
    assert (100 * found.right.double().mean(1).numpy() <= rows.min(0) + 1e-9).all(), "the worst for each image"
    monkeypatch.setattr(subjects, "at_once", lambda images, device: 7)
    again = module.corruptions(of_own_labels(images))
    assert again.rows == found.rows
    assert torch.equal(again.right, found.right)
    other = module.corruptions(of_own_labels(images, seed=1))
    assert other.rows != found.rows


class Red(nn.Module):
    """Features: how red an image is, and how little."""

    def forward(self, images):
        red = images[:, 0].mean((1, 2))
        return torch.stack([1 - red, red], 1)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """An archive of 40 images, of which one in five more is wrong with each severity, and its labels."""
    monkeypatch.setattr(module, "_IMAGES", 40)
    labels = np.arange(40, dtype=np.uint8) // 3 % 2
    wrong = np.concatenate([np.arange(40) % 5 < severity for severity in range(1, 6)])
    images = np.zeros((200, 32, 32, 3), np.uint8)
    images[..., 0] = 255 * (np.tile(labels, 5) ^ wrong)[:, None, None]
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels, 5))
    for name in module._STORED:
        np.save(folder / f"{name}.npy", images)
    return folder, torch.from_numpy(labels.astype(np.int64))


def red(folder, labels, chosen, size=32, **changes):
    images = torch.zeros(len(chosen), 3, size, size, dtype=torch.uint8)
    images[:, 0] = 255 * labels[chosen, None, None].byte()
    head = Classifier(Encoder(Red(), size), 2)
    head.linear.weight.data, head.linear.bias.data = torch.eye(2), torch.zeros(2)
    given = {"labels": labels[chosen], "data_dir": folder.parent, "target": "cifar10", "classifier": head}
    return subject(head.encoder, images, SEVERITIES, kind=Kind("corruptions"), **{**given, **changes})


@pytest.mark.parametrize(("limit", "size"), [(None, 32), (13, 32), (13, 16)])
def test_the_authors_files_are_read_by_severity_and_limit(stored, limit, size):
    folder, labels = stored
    chosen = np.arange(40) if limit is None else balanced(labels.numpy(), limit)
    found = module.corruptions(red(folder, labels, chosen, size, limit=limit))
    expected = [100 * float((chosen % 5 >= severity).mean()) for severity in range(6)]
    assert all(row == pytest.approx(expected) for row in found.rows.values())
    assert len(found.rows) == 16
    assert found.summary["corruptions of CIFAR-10-C"] == 15
    assert found.right[2].tolist() == (chosen % 5 >= 2).tolist()


def test_without_the_folder_cifar_has_the_built_in_set(tmp_path):
    labels = torch.tensor([0, 1])
    found = module.corruptions(red(tmp_path / "none", labels, np.arange(2)))
    assert found.summary["built-in corruptions"] == 11


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("fog", lambda file: file.unlink(), "fog.npy: expected an array"),
        ("labels", lambda file: np.save(file, np.zeros(200, np.uint8)), "labels of cifar10's test images"),
        ("fog", lambda file: np.save(file, np.zeros((200, 3, 32, 32), np.uint8)), r"uint8 \(200, 32, 32, 3\)"),
        ("fog", lambda file: file.write_bytes(file.read_bytes()[:1000]), "fog.npy: expected an array"),
    ],
    ids=["no file", "other labels", "other shape", "cut"],
)
def test_files_that_are_not_the_archives_are_an_error(stored, name, damage, said):
    folder, labels = stored
    damage(folder / f"{name}.npy")
    with pytest.raises(DataError, match=said):
        module.corruptions(red(folder, labels, np.arange(40)))
