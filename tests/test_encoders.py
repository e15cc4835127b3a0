import pytest
import timm
import torch
from torch import nn

from rossbench.models import encoders
from rossbench.util.errors import InvalidValue, UnknownName


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [
        ("conv3", 16, 512),
        ("resnet18:cifar", 32, 512),
        ("test_resnet", 96, 96),
        ("test_efficientnet", 32, 256),
        ("test_vit", 32, 64),
        ("vit_tiny_patch16_224,patch_size=4,depth=2", 32, 192),
        ("resnet18:cifar,drop_path_rate=0.1", 32, 512),
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
    assert list(ours.backbone.state_dict()) == list(theirs.state_dict())


def test_arguments_of_timms_are_in_the_name():
    backbone = encoders.build("vit_tiny_patch16_224,patch_size=4,depth=2,qkv_bias=False", 32, seed=0).backbone
    assert (backbone.patch_embed.patch_size, len(backbone.blocks)) == ((4, 4), 2)
    assert backbone.blocks[0].attn.qkv.bias is None
    wanted = {"model_name": "resnet18", "num_classes": 0, "drop_rate": 0.5, "act_layer": "gelu", "zero_init_last": True}
    assert encoders.timm_arguments("resnet18,drop_rate=0.5,act_layer=gelu,zero_init_last=true", 32) == wanted
    for name in ("resnet18,nonsense=1", "vit_tiny_patch16_224,patch_size=x"):
        with pytest.raises(InvalidValue, match="cannot be built for 32 x 32 images"):
            encoders.build(name, 32, seed=0)


@pytest.mark.parametrize(("name", "size"), [("resnet18:cifar", 32), ("resnet18:cifar-pad2", 34)])
def test_a_cifar_stem_keeps_the_resolution_or_pads_by_two(name, size):
    backbone = encoders.build(name, 32, seed=0).backbone
    stem = backbone.maxpool(backbone.conv1(torch.zeros(1, 3, 32, 32)))
    assert stem.shape[2:] == (size, size)
    other = encoders.build(f"{name.partition(':')[0]}:cifar", 32, seed=0).backbone
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in backbone.state_dict().items())


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
        ("resnet18:cifar:cifar-pad2", UnknownName, "unknown encoder"),
        ("test_vit:cifar-pad2", InvalidValue, "expected a ResNet with a single-convolution stem"),
        ("test_efficientnet:cifar", InvalidValue, "expected a ResNet with a single-convolution stem"),
        ("test_resnet:cifar", InvalidValue, "expected a ResNet with a single-convolution stem"),
    ],
)
def test_what_is_no_encoder_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        encoders.build(name, 32, seed=0)


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_frozen_batch_norm_gives_torchs_numbers_and_input_gradients(generator, size):
    theirs = nn.BatchNorm2d(5)
    theirs(torch.rand(20, 5, 4, 4, generator=generator) * 3 - 1)  # statistics that are not 0 and 1
    with torch.no_grad():
        theirs.weight.uniform_(-1, 1, generator=generator)
        theirs.bias.uniform_(-1, 1, generator=generator)
    ours = encoders.BatchNorm2d(5)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(6, 5, size, size, generator=generator)
    weights = torch.rand(6, 5, size, size, generator=generator)
    found = []
    for norm in (ours.eval(), theirs.eval()):
        leaf = images.clone().requires_grad_()
        made = norm(leaf)
        found.append((made, *torch.autograd.grad((made * weights).sum(), leaf)))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


def test_batch_norm_in_training_is_torchs_own(generator):
    ours, theirs = encoders.BatchNorm2d(5), nn.BatchNorm2d(5)
    images = torch.rand(6, 5, 4, 4, generator=generator)
    assert torch.equal(ours(images), theirs(images))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)


@pytest.mark.parametrize("name", ["conv3", "resnet18:cifar"])
def test_every_batch_norm_is_one_that_freezes_quickly_and_has_torchs_names(name):
    model = encoders.build(name, 32, seed=0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {type(module) for module in norms} == {encoders.BatchNorm2d}
    assert set(norms[0].state_dict()) == set(nn.BatchNorm2d(3).state_dict())
