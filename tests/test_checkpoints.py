"""Encoders that were trained elsewhere: every usual file gives the module's own features, every wrong one a line."""

import argparse
import collections
import copy
import dataclasses
import datetime
import decimal
import gzip
import json
import pathlib
import pickle
import shutil
import types
import uuid
import zipfile

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from conftest import refusal, tiny
from lightly.models.modules import SimCLRProjectionHead
from safetensors.torch import save_file
from torch import nn

import rossbench as package
from rossbench import registry
from rossbench.config.specs import PretrainSpec
from rossbench.models import checkpoints, encoders, pretrained
from rossbench.report import figures, page
from rossbench.report.figure_data import FigureData, choose
from rossbench.report.page_figures import page_figures
from rossbench.runner import run as runner
from rossbench.store import artifacts, results
from rossbench.store.store import Store, read_json
from rossbench.util.errors import InvalidValue, StoreError

SMALL = ["--eval-eps", "0,0.5", "--finetune-epochs", 2, "--train-limit", 60, "--test-limit", 40, "--device", "cpu"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def lived(model):
    """BatchNorms that are not as new, so that statistics which were left behind would show."""
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.rand(4, 3, 32, 32))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1)
    return model.eval()


def small():
    """The layers of conv3, with torch's BatchNorm."""
    layers = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return lived(nn.Sequential(*layers, nn.Flatten()))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def features(net, images, mean, std):
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    with torch.no_grad():
        return net.eval()((images - mean) / std)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_usual_files_of_a_resnet18_give_its_own_features_and_one_name(tmp_path):
    net = lived(torchvision.models.resnet18(weights=None))
    torch.save(net.state_dict(), tmp_path / "torchvision.pt")
    children = nn.Sequential(*list(net.children())[:-1])  # as lightly's examples write it
    example = nn.ModuleDict({"backbone": children, "projection_head": SimCLRProjectionHead(512, 512, 128)})
    save_file(example.state_dict(), tmp_path / "lightly.safetensors")
    net.fc, images, names = nn.Identity(), torch.rand(3, 3, 16, 16), set()
    dropped = {"torchvision.pt": ["fc (2 tensors)"], "lightly.safetensors": ["projection_head (10 tensors)"]}
    for name, parts in dropped.items():
        given = checkpoints.read(str(tmp_path / name), "resnet18", 16, IMAGENET)
        close(given.encoder(images), features(net, images, *IMAGENET))
        account = given.account
        assert (account["from"], account["matched"], account["dropped"]) == (name, 100, parts)
        assert not given.encoder.training
        assert not any(parameter.requires_grad for parameter in given.encoder.parameters())
        names.add(given.weights)
    assert len(names) == 1


def test_the_name_is_that_of_weights_and_normalization(tmp_path):
    def name(state, normalization=None):
        torch.save(state, tmp_path / "given.pt")
        return checkpoints.read(str(tmp_path / "given.pt"), "conv3", 16, normalization).weights

    net = small()
    one = name(net.state_dict())
    uncounted = {name: tensor for name, tensor in net.state_dict().items() if "num_batches" not in name}
    assert one == name(prefixed(net.state_dict(), "module.")) == name(uncounted) != name(net.state_dict(), IMAGENET)
    net[7].running_var += 1
    assert name(net.state_dict()) != one


@pytest.mark.parametrize("name", ["resnet18:cifar", "test_efficientnet", "test_vit", "conv3"])
def test_what_timm_saved_comes_back(name, tmp_path):
    theirs = encoders.build(name, 32, seed=5)
    torch.save(theirs.backbone.state_dict(), tmp_path / "timm.pt")
    given = checkpoints.read(str(tmp_path / "timm.pt"), name, 32)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(given.encoder(images), theirs.eval()(images))
    assert given.account["dropped"] == []


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("classes", [7, 0])
def test_timms_folders_bring_architecture_and_normalisation(name, classes, tmp_path):
    net = timm.create_model(name, num_classes=classes, **{"img_size": 32} if name == "test_vit" else {}).eval()
    timm.models.save_for_hf(net, tmp_path / "folder", safe_serialization=True)
    given = checkpoints.read(f"local-dir:{tmp_path / 'folder'}", "conv3", 32)
    images = torch.rand(2, 3, 32, 32)
    net.reset_classifier(0)
    close(given.encoder(images), features(net, images, net.pretrained_cfg["mean"], net.pretrained_cfg["std"]))
    assert (given.name, given.account["from"]) == (name, "folder")


def test_a_folder_whose_weights_are_not_whole_or_whose_model_is_another_is_refused(tmp_path):
    net = timm.create_model("test_resnet", num_classes=7)
    timm.models.save_for_hf(net, tmp_path / "part", safe_serialization=True)
    state = {name: tensor for name, tensor in net.state_dict().items() if name != "layer2.0.conv1.weight"}
    save_file(state, tmp_path / "part" / "model.safetensors")
    with pytest.raises(InvalidValue, match=r"part: expected a model that timm can load, got .*layer2\.0\.conv1"):
        checkpoints.read(f"local-dir:{tmp_path / 'part'}", "", 32)
    net = lived(timm.create_model("test_resnet", num_classes=7, output_stride=8))
    timm.models.save_for_hf(net, tmp_path / "other", safe_serialization=True)
    with pytest.raises(InvalidValue, match="other: expected timm's test_resnet as it is"):
        checkpoints.read(f"local-dir:{tmp_path / 'other'}", "", 32)


class Code:
    def __reduce__(self):
        return divmod, (1, 1)


KINDS = {
    "weights": "a text file, 'weights'",
    "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n": "a Git LFS pointer",
    "<!DOCTYPE html>\n<html><head><title>Sign in</title>": "an HTML page",
    "\n  <html lang='en'>": "an HTML page",
    "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": "an XML document",
    '{"error": "not found"}': "JSON",
    '{"metadata": {}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}': "a checkpoint in 2 files",
    b"": "an empty file",
    b"\x89HDF\r\n\x1a\n" + bytes(80): "HDF5, as Keras",
    b"\x93NUMPY\x01\x00v\x00{'descr'": "an array of NumPy",
    b"\x08\x07\x12\x07pytorch\x1a\x052.1.0": "an ONNX model",
    b"\x08\x01\x12\xf0\x12\x01": "a SavedModel of TensorFlow",
    b"\x81\xa6params\x81\xa6kernel\xc7\x10": "msgpack, as Flax",
    b"\xde\x00\x20\xa4conv": "msgpack, as Flax",
    b"GGUF\x03\x00\x00\x00": "GGUF",
    b"\x28\xb5\x2f\xfd" + bytes(9): "a Zstandard archive",
    b"\xff\xd8\xff\xe0" + bytes(9): "an image",
    bytes(range(200, 256)) * 3: "another file",
    gzip.compress(b"weights"): "a gzip archive",
    bytes(257) + b"ustar\x00" + bytes(300): "a tar archive",
    (9000).to_bytes(8, "little") + b'{"conv1.weight": {"dtype": "F32"': "expected safetensors, got a damaged file",
    pickle.dumps({"a": Code()}): "a pickle of other things, which is not run",
}
"""What is no checkpoint, and what it is called."""


@pytest.mark.parametrize("content", KINDS, ids=lambda content: repr(KINDS[content])[:30])
def test_what_a_file_is_its_content_says(content, tmp_path):
    path = tmp_path / "given.safetensors"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = str(refusal(checkpoints.read, str(path), "conv3", 16))
    assert KINDS[content] in said
    assert len(said) < 300


def _archive(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "content")


def _folder(path, *names):
    path.mkdir()
    for name in names:
        (path / name).touch()


def _torch(content, legacy=False, size=None):
    """Writes what torch.save makes of it, or so many bytes of that."""

    def write(path):
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[:size])

    return write


MADE = {
    "TorchScript": (lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path), "TorchScript, which holds"),
    "npz": (lambda path: _archive(path, "a.npy", "b.npy"), "arrays of NumPy (.npz)"),
    "zip": (lambda path: _archive(path, "a.txt", "b.npy"), "a zip archive of a.txt, b.npy; unpack it"),
    "Keras": (lambda path: _archive(path, "config.json", "model.weights.h5"), "a model of Keras"),
    "torch.export": (lambda path: _archive(path, "a/archive_format"), "a program of torch.export"),
    "a cut archive": (_torch(torch.ones(9999), size=9000), "cut or damaged"),
    "a cut old file": (_torch(torch.ones(9999), True, 9000), "a damaged file, or one that was cut"),
    "a module": (_torch(nn.Linear(2, 2)), "a pickle of code, torch.nn.modules.linear.Linear"),
    "code": (_torch({"a": Code()}), "a pickle of code, divmod, which is not run"),
    "code in an old file": (_torch({"a": Code()}, True), "a pickle of code, divmod"),
    "a folder": (lambda path: _folder(path, "last.ckpt"), "a folder of last.ckpt; give the file"),
    "a folder of a model": (lambda path: _folder(path, "config.json"), "give local-dir:given"),
    "Orbax": (lambda path: _folder(path, "_METADATA", "manifest.ocdbt"), "a checkpoint of Orbax"),
    "SavedModel": (lambda path: _folder(path, "saved_model.pb"), "a SavedModel of TensorFlow"),
    "several ranks'": (lambda path: _folder(path, ".metadata", "__0_0.distcp"), "a distributed checkpoint"),
    "a number": (_torch(3), "expected a state dict, names with tensors, got int"),
    "no tensors": (_torch({"lr": 3.0, "epoch": 1}), "got dict of lr, epoch"),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of TorchScript
@pytest.mark.parametrize("case", MADE)
def test_what_other_programs_save_is_called_by_its_name(case, tmp_path):
    make, message = MADE[case]
    make(tmp_path / "given")
    assert message in str(refusal(checkpoints.read, str(tmp_path / "given"), "conv3", 16))


def _quantised(weight):
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


NO_WEIGHTS = {
    "sparse": ("0.weight", torch.Tensor.to_sparse, "got sparse_coo in 0.weight"),
    "compressed": ("0.weight", lambda weight: weight.flatten(1).to_sparse_csr(), "of another shape"),
    "meta": ("0.weight", lambda weight: weight.to("meta"), "got no values (meta) in 0.weight"),
    "int8": ("0.weight", lambda weight: weight.to(torch.int8), "got int8 in 0.weight"),
    "bool": ("1.bias", lambda bias: bias > 0, "got bool in 1.bias"),
    "complex": ("0.weight", lambda weight: weight.to(torch.complex64), "got complex64 in 0.weight"),
    "quantised": ("0.weight", _quantised, "got qint8 in 0.weight"),
    "a variance below 0": ("1.running_var", lambda value: value - 2, "expected variances of 0 or more, got -1 in 1.r"),
    "NaN": ("4.weight", lambda weight: weight * torch.nan, "NaN or infinity in backbone.4.weight (1 in all)"),
    "too large": ("4.weight", lambda weight: weight.double() + 1e300, "NaN or infinity in backbone.4"),
    "names": ("4.weight", lambda weight: "ones", "1 missing (4.weight)"),
    "nested": ("4.weight", lambda weight: torch.nested.nested_tensor([weight[0], weight[1]]), "1 missing (4.weight)"),
    "two lines": ("1.bias", lambda bias: {"a\nb": bias}, "1 missing (1.bias); 1 unknown (1.bias.a b)"),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of sparse and quantised tensors
@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_what_are_no_weights_is_said_in_one_line(case, tmp_path):
    name, change, message = NO_WEIGHTS[case]
    state = encoders.build("conv3", 16, seed=5).backbone.state_dict()
    torch.save({"state_dict": {**state, name: change(state[name])}}, tmp_path / "given.pt")
    assert message in str(refusal(checkpoints.read, str(tmp_path / "given.pt"), "conv3", 16))


BESIDE = [
    argparse.Namespace(lr=0.1, out=pathlib.Path("runs") / "1", nested=argparse.Namespace(a=1)),
    {"best": np.float64(0.5), "epoch": np.int32(3), "done": np.bool_(True), "name": np.str_("a")},
    {"history": np.zeros((2, 3)), "classes": np.array(["a", "b"]), "mean": np.longdouble([1, 2])},
    np.random.get_state(),
    [pathlib.Path("a"), pathlib.PurePosixPath("b"), pathlib.PureWindowsPath("c")],
    [collections.defaultdict(list, b=[1]), collections.deque([1], 3), collections.Counter("e")],
    [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1), datetime.date(2026, 1, 1)],
    [types.SimpleNamespace(a=1), frozenset({1}), range(3), slice(1)],
    [decimal.Decimal(1), 1j, b"b", {1}, uuid.UUID(int=1)],
]


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("legacy", [False, True])
def test_harmless_values_beside_the_weights_are_read(beside, legacy, tmp_path):
    state = encoders.build("conv3", 16, seed=5).backbone.state_dict()
    _torch({"state_dict": state, "random_state": beside}, legacy)(tmp_path / "given.pt")
    found = checkpoints.read(str(tmp_path / "given.pt"), "conv3", 16)
    assert torch.equal(found.encoder.state_dict()["backbone.0.weight"], state["0.weight"])


def test_counters_and_means_of_a_strange_kind_are_none(tmp_path):
    def read(name, value):
        state = encoders.build("conv3", 16, seed=5).backbone.state_dict()
        torch.save(prefixed(state, "model.") | {"normalize.std": torch.ones(3), name: value}, tmp_path / "given.pt")
        return str(refusal(checkpoints.read, str(tmp_path / "given.pt"), "conv3", 16))

    for strange in (torch.ones(3).to_sparse(), _quantised(torch.ones(3)), torch.ones(3, dtype=torch.complex64)):
        assert "expected a mean and a std of three channels" in read("normalize.mean", strange)
        counter = strange[:1] if strange.layout is torch.strided else torch.ones(1).to_sparse()
        assert "got normalize.std [3]" in read("model.1.num_batches_tracked", counter)  # and nothing of the counter


def test_a_path_of_another_system_and_arrays_of_an_old_numpy_are_read(tmp_path):
    content = {"a": torch.ones(1), "path": pathlib.PureWindowsPath("c"), "best": np.float64(0.5)}
    torch.save(content, tmp_path / "given.pt", _use_new_zipfile_serialization=False)
    old = (tmp_path / "given.pt").read_bytes()
    old = old.replace(b"cpathlib\nPureWindowsPath\n", b"cpathlib\nWindowsPath\n")
    (tmp_path / "given.pt").write_bytes(old.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert "got 15 missing" in str(refusal(checkpoints.read, str(tmp_path / "given.pt"), "conv3", 16))


WRONG = {
    "code": (_torch({"a": Code()}), "a pickle of code, divmod, which"),
    "another architecture": (lambda path: _torch(small().state_dict())(path), "expected the 75 tensors of test_resnet"),
    "nothing": (lambda path: None, "no such file"),
    "a folder": (pathlib.Path.mkdir, "got a folder; give the file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_gives_one_line(rossbench, tmp_path, case):
    write, message = WRONG[case]
    write(tmp_path / "given.pt")
    code, out, err = rossbench("run", "digits", "--encoder-weights", "given.pt", "--encoder", "test_resnet", *SMALL)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("rossbench: ")
    assert message in err
    assert "run" not in out.split()
    assert len(err) < 400
    assert not (tmp_path / "rossbench-store").exists()


FILE, HUB = ["--encoder-weights", "given.pt"], ["--encoder-weights", "hf-hub:a/b"]
USAGE = [
    ([*FILE, "--epochs", "3"], "pretraining.epochs cannot be set with --encoder-weights"),
    ([*FILE, "--precision", "bfloat16"], "pretraining.precision cannot be set with --encoder-weights"),
    ([*FILE, "--train-eps", "0,1"], "train_epsilons cannot be set with --encoder-weights"),
    (["--encoder-normalization", "imagenet"], "--encoder-normalization needs --encoder-weights"),
    (["--encoder-bn", "clean"], "--encoder-bn needs --encoder-weights"),
    (["--encoder-prefix", "teacher"], "--encoder-prefix needs --encoder-weights"),
    ([*HUB, "--encoder-prefix", "x"], "--encoder-prefix cannot be set with hf-hub:a/b"),
    ([*HUB, "--encoder", "conv3"], "--encoder cannot be set with hf-hub:a/b"),
    ([*FILE, "--encoder-normalization", "cifar"], "expected none, imagenet, cifar10 or mean/std"),
    ([*FILE, "--encoder-normalization", "1,2,3/1,0,1"], "with std above 0"),
    (["--encoder-weights", "local-dir:x"], "expected a model that timm can load, got 'local-dir:x'"),
    (["--encoder-weights", "hf-hub:"], "expected a model that timm can load"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=[" ".join(arguments) for arguments, _ in USAGE])
def test_options_that_do_not_go_together_give_one_line(rossbench, tmp_path, arguments, message):
    (tmp_path / "given.pt").touch()
    code, _, err = rossbench("run", "digits", *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err


def test_one_command_evaluates_it(rossbench, tmp_path):
    torch.save({"state_dict": prefixed(small().state_dict(), "module.")}, tmp_path / "given.pt")
    command = ["run", "digits", *FILE, "--encoder-normalization", "0.5,0.5,0.5/1,1,1", *SMALL]
    code, out, err = rossbench(*command)
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    assert "encoder conv3 from given.pt: all 15 tensors of the encoder matched" in said
    assert "conv3 of given weights" in said
    assert "pretrain " not in said
    (made,) = (tmp_path / "rossbench-store" / "pretrain").iterdir()
    assert read_json(made / "spec.json")["weights"]
    account = read_json(made / "stage.json")["provenance"]["weights"]
    assert (account["from"], account["matched"], account["mean"]) == ("given.pt", 15, [0.5] * 3)
    code, again, _ = rossbench(*command)
    assert code == 0
    assert "done in" not in again


def test_a_hub_that_cannot_be_reached_is_one_line_with_a_way_out(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = str(refusal(checkpoints.read, "hf-hub:timm/no_such_model", "", 16))
    assert "expected to reach the Hugging Face hub, got no connection" in said
    assert "local-dir:FOLDER" in said


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A store with one run of a module and one of its file; (store, module, records of each)."""
    root = tmp_path_factory.mktemp("own")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = small()
    torch.save(net.state_dict(), root / "net.pt")
    given = checkpoints.read(str(root / "net.pt"), "conv3", 16, IMAGENET)
    scenario = dataclasses.replace(tiny(train_epsilons=(0,)), encoder=given.name, weights=given.weights)
    by_file = runner.run_suite([scenario], store=root / "store", device="cpu", encoders=[given])["digits"]
    by_module = _evaluate(net, root / "store")
    return root / "store", net, by_file, by_module, scenario


def _evaluate(net, store, **options):
    mean, std = IMAGENET
    options = {"scenario": tiny(), "device": "cpu", **options}
    return package.evaluate_encoder(net, mean=mean, std=std, store=store, **options)


def test_a_module_gives_what_its_file_gives(evaluated):
    root, _, by_file, by_module, _ = evaluated
    assert by_module.keys() == by_file.keys() == {(0, 0, 0), (0, 0, 0.5)}
    for place, record in by_module.items():
        other = by_file[place]
        assert record.key != other.key
        arrays = [(root / "evaluate" / key / "predictions.safetensors").read_bytes() for key in (record.key, other.key)]
        assert arrays[0] == arrays[1]
        assert record.spec.finetune.pretrain.encoder == "module:Sequential"


def test_the_second_call_computes_nothing_and_leaves_the_module_as_it_was(evaluated):
    root, net, _, by_module, _ = evaluated
    net = copy.deepcopy(net).train()
    before, seen = {name: tensor.clone() for name, tensor in net.state_dict().items()}, []
    assert _evaluate(net, root, observe=seen.append) == by_module
    assert seen == []
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert {type(module) for module in net.modules()} >= {nn.BatchNorm2d}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_one_more_epsilon_of_a_module_costs_one_more_cell(evaluated, tmp_path):
    root, net, *_ = evaluated
    shutil.copytree(root, tmp_path / "store")
    seen = []
    _evaluate(net, tmp_path / "store", scenario=tiny(eval_epsilons=(0, 0.5, 1)), observe=seen.append)
    assert [progress.spec.stage for progress in seen if progress.tick is None] == ["evaluate", "audit"]


def test_the_store_alone_gives_back_what_has_a_name(evaluated):
    root, net, by_file, _, scenario = evaluated
    cell = scenario.cells[0, 0, 0]
    classifier = artifacts.load_classifier(Store(root), cell.finetune)
    images = torch.rand(2, 3, 16, 16)
    close(classifier.encoder(images), features(net, images, *IMAGENET))
    assert runner.run(scenario, store=root, device="cpu") == by_file


def test_a_module_is_not_in_the_store(evaluated):
    root, _, _, by_module, _ = evaluated
    data = FigureData(root, device="cpu")
    (matrix,) = [one for one in results.load(Store(root)) if by_module[0, 0, 0] in one.records]
    with pytest.raises(StoreError, match=r"call rossbench\.evaluate_encoder with it again"):
        data.layers(choose([matrix])[0])


def test_a_report_draws_no_history_of_what_was_not_trained(evaluated, monkeypatch):
    root = evaluated[0]
    data, matrices = FigureData(root, device="cpu"), results.load(Store(root))
    assert len(matrices) == 2
    with pytest.raises(InvalidValue, match="training: expected models that were pretrained here"):
        figures.training(data, choose(matrices))
    for name in ("tsne", "examples"):  # which take long
        monkeypatch.setattr(figures, name, lambda *arguments, **options: figures.robustness(data, choose(matrices)))
    drawn = page_figures(data, matrices)
    assert not any(one.caption.startswith("Pretraining") for one in drawn)
    assert all(one.svg for one in drawn)
    text = page.render((), matrices, drawn, "now")
    assert "pretraining.epochs" not in text
    assert matrices[0].weights in text


def test_a_run_without_the_encoder_says_what_to_give(tmp_path):
    scenario = tiny(train_epsilons=(0,), weights="0123456789abcdef")
    with pytest.raises(InvalidValue, match=r"encoder conv3, weights 01234567: .* got none; give it to run"):
        runner.run(scenario, store=tmp_path, device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("std", [(1, 0, 1), (1, 1)])
def test_a_std_that_divides_by_nothing_is_refused(std):
    with pytest.raises(InvalidValue, match=r"std"):
        pretrained.of_module(nn.Flatten(), 16, ((0, 0, 0), std))


def test_pretraining_settings_change_nothing_of_a_given_encoder():
    scenario = tiny(train_epsilons=(0,), weights="0123456789abcdef")
    other = dataclasses.replace(scenario, recipe=registry.get("cifar10-to-cifar10").recipe, train_limit=None)
    (ours,), (theirs,) = ({cell.finetune.pretrain for cell in one.cells.values()} for one in (scenario, other))
    assert ours == theirs == PretrainSpec("digits", None, "conv3", seed=0, weights="0123456789abcdef")
    assert ours.passes == 0
    assert str(ours) == "encoder conv3, weights 01234567"
    assert json.loads(json.dumps(dataclasses.asdict(ours)))["weights"] == ours.weights


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "0123"}, "expected 16 hex digits, got '0123'"),
        ({"weights": "0123456789abcdef", "train_epsilons": (0, 1)}, "expected 0 alone beside given weights"),
    ],
)
def test_a_scenario_checks_its_weights(changes, message):
    with pytest.raises(InvalidValue, match=message):
        tiny(**changes)


def test_scenarios_without_weights_keep_their_names():
    one = registry.get("cifar10-to-cifar10")
    assert one.protocol == dataclasses.replace(one, weights="").protocol


def test_show_tells_the_cost_without_pretraining(rossbench, tmp_path):
    torch.save(small().state_dict(), tmp_path / "given.pt")
    code, out, err = rossbench("show", "digits", *FILE)
    assert (code, err) == (0, "")
    assert "pretraining.epochs" not in out
    assert "weights " in out
    assert max(map(len, out.splitlines())) <= 80
