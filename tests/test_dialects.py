"""Checkpoints in the layouts of the field: each a small file of a reference network, written from its own module."""

import copy
import re
from argparse import Namespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from rossbench.config.specs import PretrainSpec
from rossbench.models import checkpoints, encoders, simclr
from rossbench.models.pretrained import PretrainedEncoder
from rossbench.store import artifacts, results
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
NAME = "dialects_resnet:cifar"


@timm.models.register_model
def dialects_resnet(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **arguments):
    """A ResNet of 34 thousand weights, so that its files are small."""
    return ResNet(BasicBlock, (1, 1, 1, 1), channels=(8, 8, 16, 16), **arguments)


class Branches(nn.Module):
    """Several BatchNorms, one of which is used."""

    def __init__(self, channels, count, names):
        super().__init__()
        norms = [nn.BatchNorm2d(channels) for _ in range(count)]
        self.bn_list = nn.ModuleDict(dict(zip(names, norms, strict=True))) if names else nn.ModuleList(norms)
        self.used = 0

    def forward(self, x):
        return list(self.bn_list.children())[self.used](x)


class Shortcut(nn.Module):
    def __init__(self, before, after, stride, norm):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(before, after, 1, stride, bias=False), norm(after)

    def forward(self, x):
        return self.bn(self.conv(x))


class Block(nn.Module):
    def __init__(self, before, after, stride, norm, shortcut):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), norm(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), norm(after)
        self.name, around = shortcut, Shortcut(before, after, stride, norm)
        if stride > 1 or before != after:
            self.add_module(
                shortcut.split(".")[0], around if "." in shortcut else nn.Sequential(around.conv, around.bn)
            )

    def forward(self, x):
        around = getattr(self, self.name.split(".")[0], nn.Identity())
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + around(x))


class Normalize(nn.Module):
    def __init__(self, mean, std, shape=(3,)):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(shape))
        self.register_buffer("std", torch.tensor(std).reshape(shape))

    def forward(self, x):
        return (x - self.mean.reshape(3, 1, 1)) / self.std.reshape(3, 1, 1)


class Net(nn.Module):
    """ResNet with a CIFAR stem, as ACL's and solo-learn's code writes it."""

    def __init__(self, branches=0, padding=1, shortcut="downsample", normalize=None, names=()):
        super().__init__()
        norm = (lambda channels: Branches(channels, branches, names)) if branches else nn.BatchNorm2d
        if normalize:
            self.normalize = Normalize(*normalize)
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, padding, bias=False), norm(64)
        for k, (before, after) in enumerate(((64, 8), (8, 8), (8, 16), (16, 16))):
            self.add_module(f"layer{k + 1}", nn.Sequential(Block(before, after, 1 + (k > 0), norm, shortcut)))
        self.fc = nn.Linear(16, 10)
        lived(self)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(getattr(self, "normalize", nn.Identity())(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))

    def using(self, branch):
        for module in self.modules():
            if isinstance(module, Branches):
                module.used = branch
        return self


def lived(net):
    """Statistics and scales that are not as new, different in every BatchNorm."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1)
                module.num_batches_tracked.fill_(70)
    return net.eval()


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def under(prefix, net):
    return {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}


def given(tmp_path, content, name=NAME, normalization=None, **choices):
    torch.save(content, tmp_path / "given.pt")
    return checkpoints.read(str(tmp_path / "given.pt"), name, 16, normalization, **choices)


def same(encoder, net):
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        return torch.allclose(encoder.encoder(images), net(images), atol=1e-5, rtol=1e-4)


def _acl(**options):
    return Net(2, shortcut="downsample.conv", normalize=IMAGENET, **options).using(1)


class Lightly(nn.Module):
    """A Sequential of children, ReLU among them or not."""

    def __init__(self, net, relu):
        super().__init__()
        layers = list(net.children())[:-1]
        self.backbone = nn.Sequential(*layers[:2], *[nn.ReLU(), nn.Identity()] * relu, *layers[2:])
        self.projection_head = nn.Linear(2, 2)


def _wrapped(net, mean="normalizer.mean", std="normalizer.std", shape=(1, 3, 1, 1)):
    values = {mean: torch.tensor(CIFAR10[0]).reshape(shape), std: torch.tensor(CIFAR10[1]).reshape(shape)}
    return {**values, **under("model.", net)}


SOLO = {"method": "simclr", "backbone": {"name": "resnet18"}, "data": {"dataset": "cifar10"}, "method_kwargs": {}}


def _lightning(state, **more):
    return {"epoch": 9, "pytorch-lightning_version": "1.9.5", "state_dict": state, **more}


ADVCL_HEADS = ("module.fc_010.weight", "module.head_proj.0.bias")
DIALECTS = {
    "ACL": (_acl, lambda net: {"state_dict": net.state_dict(), "optim": {"state": {0: torch.ones(3)}}}),
    "ACL with one BatchNorm": (
        lambda: Net(1, shortcut="downsample.conv", names=["x"]),
        lambda net: {"state_dict": {name.replace(".x.", "."): tensor for name, tensor in net.state_dict().items()}},
    ),
    "AdvCL": (
        lambda: Net(3, shortcut="downsample.conv").using(1),
        lambda net: {"model": under("module.", net) | dict.fromkeys(ADVCL_HEADS, torch.ones(2))},
    ),
    "BatchNorms by name": (lambda: Net(2, names=["normal", "pgd"]).using(1), lambda net: net.state_dict()),
    "BatchNorms by name, the other way round": (lambda: Net(2, names=["adv", "clean"]), lambda net: net.state_dict()),
    "DynACL++": (lambda: Net(normalize=IMAGENET), lambda net: {"state_dict": net.state_dict()}),
    "RoCL": (lambda: Net(shortcut="shortcut"), lambda net: {"model": under("module.", net)}),
    "lightly": (Net, lambda net: Lightly(net, True).state_dict()),
    "lightly without ReLU": (
        lambda: Net(shortcut="shortcut"),
        lambda net: _lightning(Lightly(net, False).state_dict()),
    ),
    "compiled": (Net, lambda net: {"weights": under("_orig_mod.module.", net)}),
    "in a list": (Net, lambda net: {"nets": [net.state_dict()], "losses": [1.0]}),
    "arrays of NumPy": (Net, lambda net: {name: t.numpy() for name, t in net.state_dict().items()}),
    **{
        f"mean and std in the file, {case}": (Net, lambda net, around=around: around(net.state_dict()))
        for case, around in {
            "lists": lambda state: {"model": state, "mean": list(CIFAR10[0]), "std": list(CIFAR10[1])},
            "a configuration": lambda state: {"model": state, "data": dict(zip(("mean", "std"), CIFAR10, strict=True))},
            "options": lambda state: {"model": state, "args": Namespace(mean=CIFAR10[0], std=CIFAR10[1], lr=0.1)},
        }.items()
    },
    "masked model": (
        lambda: Net(),
        lambda net: {**net.state_dict(), "mask_token": torch.ones(1, 1, 4), "decoder_embed.weight": torch.ones(3, 3)},
    ),
    **{
        f"{mean} in the file": (Net, lambda net, mean=mean, std=std: _wrapped(net, mean, std))
        for mean, std in (
            ("normalize.mean", "normalize.std"),
            ("normalizer.new_mean", "normalizer.new_std"),
            ("norm.mean", "norm.std"),
            ("preprocess.mean", "preprocess.std"),
            ("mu", "sigma"),
            ("0.mean", "0.std"),
            ("pixel_mean", "pixel_std"),
            ("_mean", "_std"),
        )
    },
}
"""Reference network, and its file."""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_gives_the_networks_own_features(dialect, tmp_path):
    make, write = DIALECTS[dialect]
    net = make()
    content = write(net)
    found = given(tmp_path, content)
    if "in the file" in dialect:
        net = nn.Sequential(Normalize(*CIFAR10), net)
    assert same(found, net)
    is_dual = "the clean one is kept for finetuning.trades_batch_norm=dual" in str(found)
    assert is_dual == (sum(isinstance(module, Branches) for module in net.modules()) > 0 and "one Batch" not in dialect)
    assert found.account["matched"] == 65 + 13 * 4 * is_dual
    counters = [tensor for name, tensor in found.encoder.state_dict().items() if name.endswith("num_batches_tracked")]
    assert {int(counter) for counter in counters} == {70}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_other_precisions_become_float32_and_what_the_file_is_its_content_says(dtype, suffix, tmp_path):
    net = Net().to(dtype)
    path = tmp_path / f"given.{suffix}"
    (torch.save if suffix == "safetensors" else save_file)(net.state_dict(), path)  # the suffix is the other's
    found = checkpoints.read(str(path), NAME, 16)
    assert same(found, net.float())
    assert f"{str(dtype).removeprefix('torch.')} as float32" in str(found)


def test_a_float64_that_float32_does_not_hold_is_said(tmp_path):
    content = {**Net().state_dict(), "bn1.weight": torch.full((64,), 1 + 1e-12, dtype=torch.float64)}
    assert "float64 as float32, rounded" in str(given(tmp_path, content))


PAIRS = {
    "MoCo": ("encoder_q", "encoder_k", lambda pair: {"state_dict": {f"module.{name}": t for name, t in pair.items()}}),
    "MoCo v3": ("base_encoder", "momentum_encoder", lambda pair: {"state_dict": pair}),
    "BYOL": ("online_encoder", "target_encoder", lambda pair: pair),
    "BYOL with projectors": ("online_network.encoder", "target_network.encoder", lambda pair: pair),
    "solo-learn": ("backbone", "momentum_backbone", lambda pair: _lightning(pair)),
    "lightly": ("backbone", "backbone_momentum", lambda pair: pair),
    "DINO": ("teacher.backbone", "student.module.backbone", lambda pair: pair),
    "lightly's DINO": ("teacher_backbone", "student_backbone", lambda pair: pair),
    "timm": ("state_dict_ema", "state_dict", lambda pair: pair),
    "torchvision": ("model_ema.module", "model", lambda pair: pair),
    "EMA": ("ema", "model", lambda pair: pair),
}
"""The encoder that is taken, the other, and what is around both."""


@pytest.mark.parametrize("dialect", PAIRS)
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_encoders_the_dialects_own_is_taken_whatever_the_order_and_both_are_named(dialect, turned, tmp_path):
    taken, other, around = PAIRS[dialect]
    ours, theirs = Net(), Net()
    parts = [under(f"{taken}.", ours), under(f"{other}.", theirs)]
    content = around({name: tensor for part in (parts[::-1] if turned else parts) for name, tensor in part.items()})
    found = given(tmp_path, content)
    assert same(found, ours)
    assert not same(found, theirs)
    assert f"{taken}, not " in str(found)
    assert f"{other} (" in str(found)
    assert same(given(tmp_path, content, prefix=other), theirs)
    assert same(given(tmp_path, content, prefix=taken), ours)


def test_a_container_that_holds_itself_is_read_once(tmp_path):
    net, content = Net(), {}
    content |= {"state_dict": net.state_dict(), "self": content}
    found = given(tmp_path, content)
    assert same(found, net)
    assert found.account["prefix"] == "state_dict."


def test_containers_are_encoders_as_prefixes_are(tmp_path):
    student, teacher = Net(), Net()
    content = {"student": under("module.backbone.", student), "teacher": under("backbone.", teacher), "epoch": 3}
    assert same(given(tmp_path, content), teacher)
    assert same(given(tmp_path, content, prefix="student"), student)
    assert same(given(tmp_path, content, prefix="teacher.backbone."), teacher)


def test_dynacl_is_evaluated_by_encoder_k_and_its_adversarial_batch_norm(tmp_path):
    query, key = _acl(), _acl()
    content = {"state_dict": under("encoder_q.", query) | under("encoder_k.", key), "optim": {}}
    found = given(tmp_path, content)
    assert same(found, key)
    assert "DynACL" in str(found)
    assert not same(found, copy.deepcopy(key).using(0))
    assert same(given(tmp_path, content, prefix="encoder_q", bn="clean"), query.using(0))


def test_of_a_state_dict_and_its_dual_the_dual_is_taken(tmp_path):
    single, both = Net(normalize=IMAGENET), _acl()
    content = {"state_dict": single.state_dict(), "state_dict_dual": both.state_dict()}
    found = given(tmp_path, content)
    assert same(found, both)
    assert encoders.is_dual(found.encoder)
    assert same(given(tmp_path, content, prefix="state_dict"), single)


@pytest.mark.parametrize("branches", [2, 3])
def test_the_batch_norm_is_chosen_and_said(branches, tmp_path):
    net = Net(branches, shortcut="downsample.conv")
    found = {bn: given(tmp_path, net.state_dict(), bn=bn) for bn in (None, "clean", "adversarial")}
    assert same(found[None], net.using(1))
    assert same(found["adversarial"], net.using(1))
    assert same(found["clean"], net.using(0))
    assert not same(found["clean"], net.using(1))
    assert "BatchNorm: adversarial, bn_list.1 of bn_list.0" in str(found[None])
    assert ("other BatchNorms (" in str(found[None])) == (branches > 2)
    with encoders.natural_branch(found[None].encoder):
        assert same(found[None], net.using(0))
    assert same(found[None], net.using(1))
    assert not encoders.is_dual(found["clean"].encoder)
    assert found[None].weights == found["adversarial"].weights != found["clean"].weights


def test_a_clean_batch_norm_that_is_not_whole_is_not_kept(tmp_path):
    net = Net(2)
    content = {
        name: tensor for name, tensor in net.state_dict().items() if name != "layer2.0.bn2.bn_list.0.running_var"
    }
    with pytest.raises(InvalidValue, match=r"1 missing \(layer2.0.bn2.running_var"):
        given(tmp_path, content, bn="clean")
    found = given(tmp_path, content)
    assert same(found, net.using(1))
    assert not encoders.is_dual(found.encoder)


def test_equal_encoders_are_one(tmp_path):
    net = Net()
    content = under("module.model.", net) | under("module.attacker.model.", net)
    for one in ("module.normalizer", "module.attacker.normalize"):
        content |= {f"{one}.new_mean": torch.full((3, 1, 1), 0.5), f"{one}.new_std": torch.full((3, 1, 1), 0.25)}
    found = given(tmp_path, {"model": content, "epoch": 1})
    assert same(found, nn.Sequential(Normalize((0.5,) * 3, (0.25,) * 3), net))
    assert "are equal" in str(found)


TIES = {
    "model and teacher": ("model.", "teacher."),
    "two names": ("one.", "two."),
    "a list": ("0.", "1."),
    "student and model": ("model.", "student."),
}


@pytest.mark.parametrize("case", TIES)
def test_a_tie_is_refused_with_the_choices(case, tmp_path):
    one, other = TIES[case]
    nets = Net(), Net()
    content = under(one, nets[0]) | under(other, nets[1])
    with pytest.raises(InvalidValue, match=f"got 2 that differ: {one[:-1]} or {other[:-1]}; name --encoder-prefix"):
        given(tmp_path, content)
    assert same(given(tmp_path, content, prefix=other), nets[1])


@pytest.mark.parametrize(
    ("content", "choices", "message"),
    [
        (lambda: under("one.", Net()), {"prefix": "two"}, "expected --encoder-prefix of one, got 'two'"),
        (lambda: {**under("a.", Net()), "b.conv1.weight": torch.ones(2)}, {"prefix": "b"}, "65 tensors .*64 missing"),
        (lambda: Net().state_dict(), {"bn": "clean"}, "expected several BatchNorms in a layer for --encoder-bn clean"),
        (lambda: Net(2, names=["one", "two"]).state_dict(), {}, "missing .bn1.weight"),
        (lambda: {**Net().state_dict(), "bn1.scale": torch.ones(2)}, {}, "got 1 unknown .bn1.scale"),
        (lambda: {"weights": torch.ones(2), "epoch": 3}, {}, "the file holds weights"),
        (lambda: {"cfg": {"lr": 1}, "epoch": 3}, {}, "expected a state dict, .*, got dict of cfg, epoch"),
        (list, {}, "expected a state dict, names with tensors, got list"),
    ],
)
def test_what_is_not_there_is_said(content, choices, message, tmp_path):
    with pytest.raises(InvalidValue, match=message):
        given(tmp_path, content(), **choices)


BEFORE = {
    "a mean alone": {"normalize.mean": torch.ones(3)},
    "a mean alone at the top": {"mean": torch.ones(3)},
    "statistics": {"input_norm.running_mean": torch.ones(3), "input_norm.running_var": torch.ones(3)},
    "a layer": {"preprocess.weight": torch.ones(4, 4)},
    "colours mixed": {"mixer.weight": torch.ones(3, 3, 1, 1)},
    "a layer of single channels": {"0.weight": torch.ones(3, 1, 1, 1), "0.bias": torch.ones(3)},
    "inverted": {"normalize.mean": torch.ones(3), "normalize.inv_std": torch.ones(3)},
    "a scale": {"front.scale": torch.ones(3)},
    "a prompt": {"prompt.delta": torch.ones(3, 16, 16)},
    "a border": {"border.up": torch.ones(1, 3, 2, 16)},
    "two that differ": {f"norm{k}.{part}": torch.full((3,), 0.2 + k / 9) for k in range(2) for part in ("mean", "std")},
    "of [0, 255]": {"normalize.mean": torch.full((3,), 127.5), "normalize.std": torch.full((3,), 51.0)},
}


@pytest.mark.parametrize("case", BEFORE)
@pytest.mark.parametrize("prefix", ["model.", ""])
def test_what_changes_the_input_is_used_or_the_option_is_named(case, prefix, tmp_path):
    content = {**under(prefix, Net()), **BEFORE[case]}
    with pytest.raises(InvalidValue, match=r"--encoder-normalization|unknown"):
        given(tmp_path, content)
    if case in ("of [0, 255]", "two that differ"):
        assert given(tmp_path, content, normalization=((0.5,) * 3, (0.2,) * 3))


BESIDE = {
    "a scalar": {"alpha": torch.tensor(0.3)},
    "a scalar of the wrapper": {"model.gain": torch.tensor(0.3)},
    "an order of channels": {"model.order": torch.tensor([2, 1, 0])},
    "a layer": {"adapter.weight": torch.ones(16, 16)},
    "whitening of features": {"model.bn.running_mean": torch.ones(16), "model.bn.running_var": torch.ones(16)},
    "a code": {"codebook": torch.ones(4, 16), "level": torch.ones(2)},
}


@pytest.mark.parametrize("case", BESIDE)
def test_what_nothing_explains_is_refused_until_the_encoder_is_named(case, tmp_path):
    net = Net()
    content = {**under("model.backbone.", net), **BESIDE[case]}
    named = "beside the encoder, model.backbone, got .*--encoder-prefix model.backbone drops it.*evaluate_encoder"
    with pytest.raises(InvalidValue, match=named):
        given(tmp_path, content)
    found = given(tmp_path, content, prefix="backbone")
    assert same(found, net)
    assert found.account["dropped"]


def test_the_state_of_a_training_is_dropped_aloud(tmp_path):
    net = Net()
    adam = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    scalars = {"best_acc1": torch.tensor(7.0), "epoch": torch.tensor(3), "lr": torch.tensor(0.1)}
    more = {"dino_loss": {"center": torch.ones(1, 9)}, "rng_state": torch.get_rng_state(), "memory_bank": torch.ones(9)}
    found = given(tmp_path, {"nets": [net.state_dict(), adam], "scheduler": {"x": torch.ones(2)}, **scalars, **more})
    assert same(found, net)
    dropped = str(found.account["dropped"])
    assert all(name in dropped for name in ("nets.1", "best_acc1", "dino_loss.center", "memory_bank", "rng_state"))


def test_a_contradicting_normalization_is_an_error_that_says_both(tmp_path):
    content = _wrapped(Net())
    told = "0.4914,0.4822,0.4465/0.247,0.2435,0.2616 (normalizer.mean and normalizer.std), got 0,0,0/1,1,1"
    with pytest.raises(InvalidValue, match=re.escape(told)):
        given(tmp_path, content, normalization=((0, 0, 0), (1, 1, 1)))
    agreed = given(tmp_path, content, normalization=CIFAR10)
    assert agreed.weights == given(tmp_path, content).weights
    assert "normalization 0.4914" in str(agreed)


def test_the_normalization_of_the_other_encoder_is_not_taken(tmp_path):
    first, second = Net(normalize=IMAGENET), Net(normalize=CIFAR10)
    content = under("encoder_q.", first) | under("encoder_k.", second)
    assert same(given(tmp_path, content), first)
    assert same(given(tmp_path, content, prefix="encoder_k"), second)


def test_the_stem_is_part_of_the_encoder(tmp_path):
    net = Net(padding=2)
    content = _lightning(under("backbone.", net) | {"classifier.weight": torch.ones(2)}, hyper_parameters=SOLO)
    assert same(given(tmp_path, content, f"{NAME}-pad2"), net)
    with pytest.raises(
        InvalidValue, match=f"expected --encoder {NAME}-pad2, solo-learn's stem of padding 2, got {NAME};"
    ):
        given(tmp_path, content)
    with pytest.raises(InvalidValue, match=f"that is the CIFAR stem, --encoder {NAME}-pad2$"):
        given(tmp_path, content, NAME.removesuffix(":cifar"))
    with pytest.raises(InvalidValue, match=f"that is the CIFAR stem, --encoder {NAME} or {NAME}-pad2$"):
        given(tmp_path, net.state_dict(), NAME.removesuffix(":cifar"))
    found = given(tmp_path, _lightning(under("backbone.", net)))
    assert not same(found, net)
    assert f"the stem of {NAME}-pad2" in str(found)


def test_an_encoder_that_was_pretrained_here_comes_back_with_its_counters(tmp_path):
    model = simclr.build(PretrainSpec("digits", 60, "conv3", 0.0, seed=3))
    lived(model)
    torch.save(model.state_dict(), tmp_path / "given.pt")
    found = checkpoints.read(str(tmp_path / "given.pt"), "conv3", 16)
    state = model.encoder.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.encoder.state_dict().items())
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
    torch.save(model.state_dict(), tmp_path / "given.pt")
    assert checkpoints.read(str(tmp_path / "given.pt"), "conv3", 16).weights == found.weights


def test_one_command_takes_it(rossbench, tmp_path):
    query, key = _acl(), _acl()
    torch.save({"state_dict": under("encoder_q.", query) | under("encoder_k.", key)}, tmp_path / "acl.pt")
    options = ["--encoder", NAME, "--encoder-bn", "clean", "--encoder-prefix", "encoder_q", "--eval-eps", "0"]
    small = ["--finetune-epochs", 1, "--train-limit", 60, "--test-limit", 40, "--device", "cpu"]
    code, out, err = rossbench("run", "digits", "--encoder-weights", "acl.pt", *options, *small)
    assert (code, err) == (0, "")
    assert "under 'state_dict.encoder_q.'" in out
    assert "normalization 0.485,0.456,0.406/0.229,0.224,0.225 from" in out
    store = Store(tmp_path / "rossbench-store")
    (spec,) = {record.spec.finetune.pretrain for matrix in results.load(store) for record in matrix.records}
    assert same(PretrainedEncoder("", artifacts.load_encoder(store, spec), {}, ""), query.using(0))
