"""A module of a user's own as an encoder: judged before any work, and known in the store by its function."""

import collections
import copy
import logging
import signal
import sys
import types
import warnings

import pytest
import torch
from conftest import tiny
from torch import nn
from torch.utils.checkpoint import checkpoint

import rossbench as package
from rossbench.models import fingerprint, pretrained
from rossbench.util.errors import InvalidValue

SIZE = 16


def net():
    """A small encoder of 12 features, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 12))


class Wrapped(nn.Module):
    """An encoder whose forward is a function of it and the images."""

    def __init__(self, function):
        super().__init__()
        self.net, self.function = net(), function

    def forward(self, images):
        return self.function(self, images)


class Buffered(Wrapped):
    """Gives the same memory in every call."""

    def __init__(self):
        super().__init__(None)
        self.kept = {}

    def forward(self, images):
        return self.kept.setdefault(len(images), torch.zeros(len(images), 12)).copy_(self.net(images))


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("no way back")


def of(function):
    return lambda: Wrapped(function)


def gradients_off(module, images):
    torch.set_grad_enabled(False)
    return module.net(images)


def doubles(module, images):
    torch.set_default_dtype(torch.float64)
    return module.net(images)


def energy(module, images):
    """Features that need a gradient."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        return torch.autograd.grad(module.net(images).square().sum(), images)[0].flatten(1)


def unbound():
    """With a name in its closure that nothing is bound to."""
    if not SIZE:
        factor = 1
    return Wrapped(lambda module, images: module.net(images) * (factor if not SIZE else 1))


GOOD = {
    "half": lambda: net().half(),
    "bfloat16": lambda: net().bfloat16(),
    "double": lambda: net().double(),
    "half output": of(lambda m, x: m.net(x).half()),
    "double output": of(lambda m, x: m.net(x).double()),
    "bfloat16 inside": of(lambda m, x: torch.autocast("cpu", torch.bfloat16)(m.net)(x)),
    "complex inside": of(lambda m, x: torch.fft.fft2(x).abs().flatten(1)),
    "TorchScript": lambda: torch.jit.script(net()),
    "a trace": lambda: torch.jit.trace(net(), torch.zeros(2, 3, SIZE, SIZE)),
    "compiled": lambda: torch.compile(net()),
    "a checkpoint that is not reentrant": of(lambda m, x: checkpoint(m.net, x, use_reentrant=False)),
    "channels last": lambda: net().to(memory_format=torch.channels_last),
    "changes its input": of(lambda m, x: m.net(x.mul_(2))),
    "a gradient inside": of(energy),
    "inference mode": of(lambda m, x: torch.inference_mode()(m.net)(x)),
    "keeps what it gave": of(lambda m, x: setattr(m, "last", m.net(x)) or m.last),
    "noise": of(lambda m, x: m.net(x + torch.randn_like(x))),
    "a view of its input": nn.Flatten,
    "parallel": lambda: nn.DataParallel(net()),
    "a name without a value": unbound,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", GOOD)
def test_it_works_in_float32_is_copied_and_made_twice_is_the_same(case):
    given, again = (pretrained.of_module(GOOD[case](), SIZE) for _ in range(2))
    assert given.weights == again.weights
    encoder = copy.deepcopy(given.encoder)  # as every stage does
    with torch.no_grad():
        features = encoder(torch.rand(5, 3, SIZE, SIZE))
    assert features.dtype == torch.float32
    assert features.shape == (5, encoder.features)


def nan():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 2))
    nn.init.constant_(module[1].weight, torch.nan)
    return module


ONE_LINE = {
    "no module": (lambda: len, "expected a torch.nn.Module"),
    "another size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), "expected a module that maps float"),
    "NaN weights": (nan, r"got NaN or infinity in backbone\.1\.weight"),
    "complex output": (of(lambda m, x: torch.fft.fft(m.net(x))), "of a float type, got complex64; return their real"),
    "integers": (of(lambda m, x: m.net(x).long()), r"float type, got int64; return features\.float\(\)"),
    "truth": (of(lambda m, x: m.net(x) > 0), "float type, got bool"),
    "complex weights": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 2).to(torch.complex64)), "got RuntimeError"),
    "meta": (lambda: net().to("meta"), "that copy.deepcopy and .cpu.. can copy, got NotImplementedError"),
    "another device": (of(lambda m, x: m.net(x).to("meta")), "on the device of the images, cpu, got meta"),
    "sparse": (of(lambda m, x: m.net(x).to_sparse()), "got torch.sparse_coo; return features.to_dense"),
    "reentrant": (of(lambda m, x: checkpoint(m.net, x, use_reentrant=True)), "use_reentrant=False"),
    "squeezed": (of(lambda m, x: m.net(x).squeeze()), r"one vector of features an image, got shape \(12,\)"),
    "maps": (of(lambda m, x: x.permute(0, 2, 3, 1)), r"got shape \(1, 16, 16, 3\); flatten or pool it"),
    "no features": (of(lambda m, x: m.net(x)[:, :0]), r"got shape \(1, 0\)"),
    "another width for 1": (of(lambda m, x: m.net(x)[:, : 4 + 8 * (len(x) > 1)]), "d was 4 for another number"),
    "another width for 7": (of(lambda m, x: m.net(x)[:, : 12 - 8 * (len(x) == 7)]), "d was 12 for another number"),
    "one for all": (of(lambda m, x: m.net(x).mean(0, keepdim=True)), r"\[7, d\], got shape \(1, 12\)"),
    "batch statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()),
        "that hang on it alone",
    ),
    "less the batch's mean": (of(lambda m, x: m.net(x) - m.net(x).mean(0)), "that hang on it alone"),
    "alone it is another": (of(lambda m, x: m.net(x) * (1 + (len(x) == 1))), "that hang on it alone"),
    "NaN of black": (of(lambda m, x: m.net(x) / x.flatten(1).norm(dim=1)[:, None]), "NaN or infinity of a black image"),
    "NaN of white": (of(lambda m, x: m.net(x) / (1 - x).flatten(1).norm(dim=1)[:, None]), "of a white image"),
    "lazy": (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
        "got a lazy module without; call it on an image first",
    ),
    "a dictionary": (of(lambda m, x: {"maps": x, "pooled": m.net(x)}), r"such as output\['pooled'\]"),
    "a tuple": (of(lambda m, x: (x, m.net(x))), r"got tuple of \[0\] \[1, 3, 16, 16\], \[1\] .* output\[1\]"),
    "an object": (of(lambda m, x: types.SimpleNamespace(pooled=m.net(x))), r"such as output\.pooled"),
    "nested": (of(lambda m, x: torch.nested.nested_tensor(list(m.net(x)))), "got a nested tensor; return one of rows"),
    "its state dict": (lambda: net().state_dict(), r"expected a torch.nn.Module, got OrderedDict.*by load_state_dict"),
    "its file": (lambda: "net.pt", "got 'net.pt'; a file .* --encoder-weights"),
    "another class": (lambda: torch.optim.SGD(net().parameters()), r"nn.Module, got SGD \("),
    "numpy": (of(lambda m, x: m.net(x).numpy()), r"got ndarray; return torch\.from_numpy"),
    "nothing": (of(lambda m, x: None), "got NoneType"),
    "its own memory": (Buffered, "got memory that the next call overwrites; return features.clone"),
    "needs a gradient": (of(lambda m, x: torch.autograd.grad(m.net(x).sum(), x)[0]), r"use torch\.enable_grad\(\)"),
    "gradients off": (of(gradients_off), "torch's settings as they were, got other grad mode"),
    "another default": (of(doubles), "got other default dtype"),
    "exits": (of(lambda m, x: sys.exit(3)), r"got SystemExit\(3\)"),
    "raises two lines": (of(lambda m, x: {}["a\nb"]), "got KeyError"),
    "quantised": (
        lambda: torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}),
        "expected a state dict of tensors, got others",
    ),
    "not to be copied": (
        lambda: nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(768, 4))),
        "can copy, got RuntimeError",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ONE_LINE)
def test_what_is_no_encoder_is_one_line_before_any_work(case, tmp_path):
    make, message = ONE_LINE[case]
    with pytest.raises(InvalidValue, match=message) as error:
        package.evaluate_encoder(make(), scenario="digits", store=tmp_path, device="cpu")
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_an_interrupt_in_a_module_is_one():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of pytest-xdist pass over it
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrained.of_module(Wrapped(lambda module, images: signal.raise_signal(signal.SIGINT)), SIZE)
    finally:
        signal.signal(signal.SIGINT, before)


NO_GRADIENT = {
    "detached": (lambda m, x: m.net(x).detach(), "no gradient reaches"),
    "inference mode": (lambda m, x: torch.inference_mode()(m.net)(x), "no gradient reaches"),
    "rounded before": (lambda m, x: m.net((x > 0.5).float()), "no gradient reaches"),
    "without gradients before": (lambda m, x: m.net(torch.no_grad()(torch.square)(x)), "no gradient reaches"),
    "one-hot thermometer": (
        lambda m, x: m.net(nn.functional.one_hot((x * 7).long(), 8).float().matmul(torch.arange(8.0))),
        "no gradient reaches",
    ),
    "no way back": (lambda m, x: Raises.apply(m.net(x)), "raises ValueError('no way back')"),
    "signs": (lambda m, x: m.net(x.sign()), "no gradient reaches"),
    "NaN": (lambda m, x: m.net(x.sqrt().square()), "gradients are NaN or infinite"),
}


@pytest.mark.parametrize("case", NO_GRADIENT)
def test_a_module_without_a_gradient_is_evaluated_and_audited(case, tmp_path, caplog):
    """At epsilon 0.5 an attack by gradient leaves all as they are."""
    function, said = NO_GRADIENT[case]
    found = package.evaluate_encoder(Wrapped(function), scenario=tiny(), store=tmp_path, device="cpu")
    assert said in caplog.text
    assert "attack='square'" in caplog.text
    assert found[0, 0, 0.5].top1_right == found[0, 0, 0].top1_right or case == "NaN"
    assert package.results(tmp_path).audit.notna().all()


@pytest.mark.parametrize("case", ["detached", "rounded before"])
def test_an_adversarial_finetuning_says_that_it_has_no_gradient(case, tmp_path):
    options = {"scenario": tiny(), "store": tmp_path, "device": "cpu", "finetune_eps": (0, 0.5)}
    with pytest.raises(InvalidValue, match=r"which an adversarial finetuning follows, got none; finetune at epsilon 0"):
        package.evaluate_encoder(Wrapped(NO_GRADIENT[case][0]), **options)
    assert not (tmp_path / "finetune").exists()


# --- the key -------------------------------------------------------------------------------------------------

LIMIT = 3.0


class Base(nn.Module):
    """As many ways to differ as there are arguments."""

    def __init__(self, temperature=1.0, depth=1, name="a", means=(0.1, 0.2), buffer=0.0, saved=False, config=None):
        super().__init__()
        self.net, self.temperature, self.depth, self.name, self.means = net(), temperature, depth, name, means
        self.register_buffer("shift", torch.full((12,), buffer), persistent=saved)
        self.config = config

    def forward(self, images):
        return self.net(images)


class Other(Base):
    def forward(self, images):
        return self.net(images.flip(3))


class Constant(Base):
    limit = 2


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def get(self):
        return self.value


def circular():
    module = Base()
    module.name = [module.name, module.forward]
    return module


def renamed(cls):
    """With the name that Base has, so that repr tells nothing."""
    cls.__name__ = cls.__qualname__ = "Base"
    return cls


def closure(factor):
    return Wrapped(lambda module, images: module.net(images) * factor)


def of_global(value):
    """A forward that reads a global."""
    module = Wrapped(lambda module, images: module.net(images).clamp(max=LIMIT))
    globals()["LIMIT"] = value
    return module


def hooked():
    module = Base()
    module.register_forward_hook(lambda module, inputs, output: output + 1e-9)
    return module


APART = {
    "plain": Base,
    "forward": renamed(Other),
    "class attribute": renamed(Constant),
    "number": lambda: Base(temperature=2.0),
    "depth": lambda: Base(depth=2),
    "text": lambda: Base(name="b"),
    "tuple": lambda: Base(means=(0.1, 0.3)),
    "list": lambda: Base(means=[0.1, 0.2]),
    "list of tensors": lambda: Base(means=[torch.tensor(0.1), torch.tensor(0.2)]),
    "another list of tensors": lambda: Base(means=[torch.tensor(0.1), torch.tensor(0.3)]),
    "dictionary": lambda: Base(means={"a": 1}),
    "nested dictionary": lambda: Base(means={"a": {"b": [torch.ones(2)]}}),
    "tensor": lambda: Base(means=torch.ones(3)),
    "array": lambda: Base(means=torch.ones(3).numpy()),
    "buffer": lambda: Base(buffer=1.0),
    "saved buffer": lambda: Base(buffer=1.0, saved=True),
    "object": lambda: Base(config=types.SimpleNamespace(depth=1)),
    "another object": lambda: Base(config=types.SimpleNamespace(depth=2)),
    "module in a list": lambda: Base(config=[nn.Threshold(1, 1)]),
    "function": lambda: Base(config=lambda x: x + 1),
    "another function": lambda: Base(config=lambda x: x + 2),
    "hook": hooked,
    "slots": lambda: Base(config=Slots(1)),
    "other slots": lambda: Base(config=Slots(2)),
    "bound method": lambda: Base(config=types.SimpleNamespace(a=1).__repr__),
    "of another": lambda: Base(config=Slots(1).get),
    "of yet another": lambda: Base(config=Slots(2).get),
    "deque": lambda: Base(config=collections.deque([1])),
    "another deque": lambda: Base(config=collections.deque([2])),
    "deep": lambda: Base(config=[[[[[[[[1]]]]]]]]),
    "deep, another": lambda: Base(config=[[[[[[[[2]]]]]]]]),
    "property": lambda: renamed(type("A", (Base,), {"shown": property(lambda self: 1)}))(),
    "another property": lambda: renamed(type("A", (Base,), {"shown": property(lambda self: 2)}))(),
    "static": lambda: renamed(type("A", (Base,), {"shown": staticmethod(lambda: 1)}))(),
    "an object of the class": lambda: renamed(type("A", (Base,), {"shown": Slots(1)}))(),
    "its own method": circular,
    "closure": lambda: closure(1.0),
    "another closure": lambda: closure(1.5),
}


def test_what_differs_in_anything_that_decides_has_another_key_and_made_twice_it_has_the_same():
    keys = {case: pretrained.of_module(make(), SIZE).weights for case, make in APART.items()}
    assert {case: pretrained.of_module(make(), SIZE).weights for case, make in APART.items()} == keys
    assert len(set(keys.values())) == len(keys)


def test_features_tell_what_no_attribute_and_no_code_does():
    found = [pretrained.of_module(of_global(value), SIZE).weights for value in (0.1, 0.3, 0.1)]
    assert found[0] == found[2] != found[1]


def test_what_refers_back_to_the_module_is_read_once(monkeypatch):
    """Of every layer, as Lightning's modules do to their trainer, and so to themselves."""
    module, seen = nn.Sequential(*(nn.Identity() for _ in range(100)), nn.Flatten()), []
    for layer in module:
        layer.parent = [module]
    parts = fingerprint._parts
    monkeypatch.setattr(fingerprint, "_parts", lambda item: seen.append(item is module) or parts(item))
    fingerprint.describe(module)
    assert sum(seen) == 1


def test_a_key_does_not_hang_on_threads_or_what_was_drawn_before():
    threads, keys = torch.get_num_threads(), set()
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            torch.rand(count)
            keys.add(pretrained.of_module(GOOD["bfloat16 inside"](), SIZE).weights)
    finally:
        torch.set_num_threads(threads)
    assert len(keys) == 1


def test_another_forward_gets_its_own_numbers(tmp_path):
    """Issue 16.1: the second of two modules that differ in a plain attribute had the numbers of the first."""
    where = {"store": tmp_path, "device": "cpu", "scenario": tiny(eval_epsilons=(0,)), "finetune_epochs": 30}
    where["settings"] = {"finetuning.learning_rate": 0.01, "finetuning.batch_size": 20}
    blind = Wrapped(lambda m, x: m.net(x) * m.sees)
    blind.sees = 1
    seen = package.evaluate_encoder(blind, **where)[0, 0, 0].metric("top1")
    blind.sees = 0
    unseen = package.evaluate_encoder(blind, **where)[0, 0, 0].metric("top1")
    assert unseen == pytest.approx(0.1, abs=0.03)  # of ten classes, all the same guess
    assert seen > 0.4


MEANS = (0.5, torch.tensor(0.5), [0.5, 0.5, 0.5], torch.full((3,), 0.5).numpy(), torch.full((3, 1, 1), 0.5))


def test_one_number_is_the_mean_of_all_channels():
    assert len({pretrained.of_module(net(), SIZE, (mean, 0.25)).weights for mean in MEANS}) == 1


@pytest.mark.parametrize("mean", ["0.5", None, (0.1, 0.2), {}, [[1], [2, 3]], object(), len])
def test_a_mean_that_is_none_is_one_line(mean):
    with pytest.raises(InvalidValue, match="as mean a number or those of three channels, got"):
        pretrained.of_module(net(), SIZE, (mean, 1.0))


@pytest.mark.parametrize("last", [nn.Identity(), nn.Softmax(1), nn.LayerNorm(12, elementwise_affine=False)])
def test_warnings_of_a_good_module_are_none(last, caplog):
    with warnings.catch_warnings(action="error"), caplog.at_level(logging.WARNING):
        pretrained.of_module(net().append(last), SIZE)
    assert caplog.text == ""
