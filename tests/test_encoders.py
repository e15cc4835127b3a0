import pytest
import timm
import torch

from rossbench import encoders
from rossbench.errors import InvalidValue, UnknownName


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [
        ("conv3", 16, 512),
        ("resnet18", 32, 512),
        ("resnet18:cifar", 32, 512),
        ("resnet18", 96, 512),
        ("mobilenetv3_small_050", 32, 1024),
        ("vit_tiny_patch16_224", 32, 192),
    ],
)
def test_images_in_features_out(name, size, features):
    encoder = encoders.build(name, size, seed=0).eval()
    out = encoder(torch.rand(2, 3, size, size))
    assert out.shape == (2, features)
    assert encoder.features == features


def test_the_default_is_timms_resnet18_with_the_imagenet_stem():
    torch.manual_seed(3)
    theirs = timm.create_model("resnet18", num_classes=0).eval()
    ours = encoders.build("resnet18", 32, seed=3).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))


def test_the_cifar_stem_keeps_the_resolution():
    backbone = encoders.build("resnet18:cifar", 32, seed=0).backbone
    stem = backbone.maxpool(backbone.conv1(torch.zeros(1, 3, 32, 32)))
    assert stem.shape[2:] == (32, 32)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    states = [encoders.build("conv3", 16, seed=s).state_dict() for s in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), before)
    weight = "backbone.0.weight"
    assert torch.equal(states[0][weight], states[1][weight])
    assert not torch.equal(states[0][weight], states[2][weight])


def test_normalisation_is_inside():
    encoder = encoders.build("conv3", 16, seed=0).eval()
    images = torch.rand(2, 3, 16, 16)
    plain = encoder.backbone((images - 0.25) / 0.5)
    encoder.mean.fill_(0.25)
    encoder.std.fill_(0.5)
    assert torch.equal(encoder(images), plain)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("resnet81", UnknownName, "did you mean"),
        ("resnet18:imagenet", UnknownName, "unknown encoder 'resnet18:imagenet'"),
        ("vgg11:cifar", InvalidValue, "expected a ResNet with a single-convolution stem"),
        ("resnet18d:cifar", InvalidValue, "expected a ResNet with a single-convolution stem"),
    ],
)
def test_what_is_no_encoder_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        encoders.build(name, 32, seed=0)
