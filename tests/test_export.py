"""Encoders leave the store for timm, and come back as they were."""

import dataclasses
import json
import re
import shutil

import pytest
import timm
import torch
from conftest import tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rossbench.models import checkpoints, encoders
from rossbench.runner import run as runner
from rossbench.store import artifacts, lookup
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue

NORMALIZATION = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
GIVEN = {
    "plain": "resnet18",
    "small": "resnet18:cifar",
    "padded": "resnet18:cifar-pad2",
    "token": "vit_tiny_patch16_224",
}


@pytest.fixture(scope="module")
def store(finished, tmp_path_factory):
    """Encoders that were given, each under two seeds, beside those pretrained here."""
    root = tmp_path_factory.mktemp("export")
    shutil.copytree(finished, root / "store")
    small = {"train_limit": 20, "test_limit": 20, "train_epsilons": (0,), "eval_epsilons": (0,)}
    for seed, (name, encoder) in enumerate(GIVEN.items()):
        torch.save(encoders.build(encoder, 16, seed).backbone.state_dict(), root / "given.pt")
        one = checkpoints.read(str(root / "given.pt"), encoder, 16, NORMALIZATION)
        scenario = tiny(encoder=encoder, weights=one.weights, encoder_name=name, **small)
        seeds = [scenario, dataclasses.replace(scenario, seed=1)] if name == "plain" else [scenario]
        runner.run_suite(seeds, encoders=[one], store=root / "store", device="cpu")
    return root / "store"


def facts_of(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata.pop("format") == "pt"
    return {name: json.loads(text) for name, text in metadata.items()}


@pytest.fixture
def exported(rossbench, store, tmp_path):
    def export(model):
        code, out, _ = rossbench("export", model, "out.safetensors", "--store", store)
        assert (code, out) == (0, "saved out.safetensors\n")
        return tmp_path / "out.safetensors"

    return export


@pytest.mark.parametrize("name", GIVEN)
def test_timm_loads_it_strictly_and_it_comes_back_as_it_was(exported, store, name):
    path = exported(name)
    facts, images = facts_of(path), torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = timm.create_model(**facts["timm"])
    if facts["stem"]:
        padding = 2 if name == "padded" else 1
        assert facts["stem"] == f"first convolution 3x3, stride 1, padding {padding}; no pooling after it"
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=padding, bias=False)
        model.maxpool = nn.Identity()
    model.load_state_dict(load_file(path), strict=True)
    mean, std = (torch.tensor(facts["normalization"][part])[:, None, None] for part in ("mean", "std"))
    (matrix, row), *_ = lookup.find_encoder(Store(store), name)
    encoder = artifacts.load_encoder(Store(store), matrix.audit_specs()[row].finetune.pretrain)
    with torch.no_grad():
        features = encoder(images)
        torch.testing.assert_close(model.eval()((images - mean) / std), features, rtol=1e-5, atol=1e-6)
        back = checkpoints.read(str(path), GIVEN[name], 16)
        assert back.weights == matrix.weights
        assert torch.equal(back.encoder(images), features)
    assert facts["features"] == features.shape[1]


@pytest.mark.parametrize("model", ["digits@1", "plain", "padded", "token"])
def test_the_code_of_its_card_loads_it(rossbench, store, tmp_path, model):
    assert rossbench("export", model, "model.safetensors", "--store", store)[0] == 0
    code, out, _ = rossbench("card", model, "--store", store, "--out", "README.md")
    assert (code, out) == (0, "saved README.md\n")
    (block,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    places = {}
    exec(block, places)
    assert places["features"].shape == (1, facts_of(tmp_path / "model.safetensors")["features"])


def test_it_tells_where_it_is_from_and_its_numbers(exported, store):
    given, made = facts_of(exported("plain")), facts_of(exported("digits@1"))
    assert (given["name"], given["encoder"], given["recipe"], given["epsilon"]) == ("plain", "resnet18", None, None)
    assert sorted(one["seed"] for one in given["results"]) == [0, 1]
    assert (made["name"], made["timm"], made["epsilon"], made["source"], made["size"]) == (
        *("conv3 ε=1", None, 1.0, "digits", 16),
    )
    assert made["recipe"]["epochs"] == tiny().recipe.pretraining.epochs
    cells = {cell.key: cell for place, cell in tiny().cells.items() if place[0] == 1}
    assert {one["key"] for one in made["results"]} == set(cells)
    for one in made["results"]:
        assert one["epsilon"] == cells[one["key"]].epsilon
        assert one["wilson95"]["robust"][0] <= one["robust_right"] / one["n"] <= one["wilson95"]["robust"][1]


def test_another_architecture_of_equal_tensors_is_refused(exported):
    """Else the other stem would cost points in silence."""
    path = exported("small")
    with pytest.raises(InvalidValue, match=r"expected --encoder resnet18:cifar, as which it was exported, got .*-pad2"):
        checkpoints.read(str(path), "resnet18:cifar-pad2", 16)
    with pytest.raises(InvalidValue, match=r"expected --encoder-normalization as in the file, 0.4,0.5,0.6"):
        checkpoints.read(str(path), "resnet18:cifar", 16, ((0.0,) * 3, (1.0,) * 3))


@pytest.mark.parametrize(
    "said", ["", "{}", '{"mean": [1, 2], "std": [1, 1, 1]}', '{"mean": "a", "std": [1, 1, 1]}', "9" * 99]
)
def test_metadata_that_are_none_are_refused_in_one_line(tmp_path, said):
    path = tmp_path / "odd.safetensors"
    weights = encoders.build("conv3", 16, seed=0).backbone.state_dict()
    save_file(weights, path, {"rossbench": '"1"', "encoder": '"conv3"', "normalization": said})
    with pytest.raises(InvalidValue, match=r"^odd\.safetensors: .*expected") as caught:
        checkpoints.read(str(path), "conv3", 16)
    assert "\n" not in str(caught.value)
    save_file(weights, path, {"normalization": said})  # of another origin: nobody knows what it means
    assert checkpoints.read(str(path), "conv3", 16).account["mean"] == [0, 0, 0]


def test_one_encoder_is_asked_for(rossbench, store):
    for model, said in (("conv3", "expected one model, got several"), ("nothing", "unknown model of")):
        code, _, err = rossbench("export", model, "out.safetensors", "--store", store)
        assert (code, said in err, err.count("\n")) == (2, True, 1)


def test_of_two_batch_norms_the_adversarial_one_leaves(rossbench, store, tmp_path):
    model = encoders.build("resnet18:cifar", 16, 9)
    norms = {name for name, module in model.backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}
    state = {}
    for name, tensor in model.backbone.state_dict().items():
        norm, _, part = name.rpartition(".")
        dual = {f"{norm}.bn_list.0.{part}": tensor + 1, f"{norm}.bn_list.1.{part}": tensor}
        state |= dual if norm in norms else {name: tensor}
    torch.save({"state_dict": state}, tmp_path / "dual.pt")
    one = checkpoints.read(str(tmp_path / "dual.pt"), "resnet18:cifar", 16, NORMALIZATION)
    assert encoders.is_dual(one.encoder)
    own = tmp_path / "own"
    shutil.copytree(store, own)
    small = {"train_limit": 20, "test_limit": 20, "train_epsilons": (0,), "eval_epsilons": (0,)}
    scenario = tiny(encoder="resnet18:cifar", weights=one.weights, encoder_name="dual", **small)
    runner.run_suite([scenario], encoders=[one], store=own, device="cpu")
    code, _, err = rossbench("export", "dual", "dual.safetensors", "--store", own)
    assert (code, err) == (0, "")
    back = checkpoints.read("dual.safetensors", "resnet18:cifar", 16)
    images = torch.rand(4, 3, 16, 16)
    assert not encoders.is_dual(back.encoder)
    assert torch.equal(back.encoder(images), one.encoder(images))
