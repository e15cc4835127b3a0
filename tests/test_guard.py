"""A user's own attack leaves the model and torch as they were, or is an AttackError that names what it has moved."""

import copy
import os
import random

import numpy as np
import pytest
import torch
from conftest import refusal
from torch import nn
from torch.nn.modules import module as hooks

import rossbench as package
from rossbench import registry
from rossbench.attacks.table import Attack
from rossbench.attacks.task import Draws, run_attack
from rossbench.util.errors import AttackError, InvalidValue

COUNT = 6


def model():
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    made.register_buffer("scale", torch.ones(2), persistent=False)
    made.plain = torch.ones(2)
    made.eval().requires_grad_(False)
    return made


def state(module):
    """All that a model is, by value."""
    tensors = {name: tensor.clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    flags = [one.requires_grad for one in module.parameters()], [one.training for one in module.modules()]
    hooks = [len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules()]
    return tensors | {"plain": module.plain.clone()}, flags, hooks, [*vars(module)], [type(one) for one in module]


SETTINGS = (torch.is_grad_enabled, torch.get_default_dtype, torch.is_anomaly_enabled)
SETTINGS += (torch.is_inference_mode_enabled, torch.get_deterministic_debug_mode)


def leave(what):
    """An attack that changes something, and returns the images."""

    def attack(model, images, labels, epsilon, attack):
        what(model, images)
        return images

    return attack


def train_a_step(model, images):
    model.requires_grad_(True)
    model(images).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.requires_grad_(False)


class Zero(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 0


KEPT = []
"""Guards that nobody leaves."""
MOVED = {
    "statistics": (lambda m, x: (m.train()(x), m.eval()), "1.running_mean"),
    "weights": (train_a_step, "0.weight"),
    "weights by data": (lambda m, x: m[4].weight.data.mul_(2), r"4\.weight"),
    "NaN": (lambda m, x: m[0].weight[0].fill_(torch.nan), "0.weight"),
    "a buffer that is not saved": (lambda m, x: m.scale.add_(1), "scale"),
    "a plain tensor": (lambda m, x: m.plain.add_(1), "plain"),
    "a tensor of its own": (lambda m, x: setattr(m, "plain", torch.zeros(2)), "plain"),
    "another parameter": (lambda m, x: setattr(m[4], "bias", nn.Parameter(torch.ones(5))), r"4\.parameters"),
    "another module": (lambda m, x: m.__setitem__(2, nn.Identity()), "modules"),
    "another forward": (lambda m, x: setattr(m, "forward", lambda x: x), "forward"),
    "the mode": (lambda m, x: m.train(), "training"),
    "the mode of one": (lambda m, x: m[1].train(), r"1\.training"),
    "an attribute": (lambda m, x: setattr(m[1], "eps", 1.0), r"1\.eps"),
    "a flag": (lambda m, x: m[4].weight.requires_grad_(), r"requires_grad of 4\.weight"),
    "a hook": (lambda m, x: m[2].register_forward_hook(lambda *given: None), r"2\.forward_hooks"),
    "a hook before": (lambda m, x: m.register_forward_pre_hook(lambda *given: None), "forward_pre_hooks"),
    "the working folder": (lambda m, x: os.chdir("/"), "working folder"),
    "inference mode": (lambda m, x: KEPT.append(torch.inference_mode()) or KEPT[-1].__enter__(), "inference mode"),
    "deterministic": (lambda m, x: torch.use_deterministic_algorithms(True, warn_only=True), "deterministic algor"),
    "gradients off": (lambda m, x: torch.set_grad_enabled(False), "grad mode"),
    "another dtype": (lambda m, x: torch.set_default_dtype(torch.float64), "default dtype"),
    "cudnn": (lambda m, x: setattr(torch.backends.cudnn, "benchmark", True), r"cudnn\.benchmark"),
    "anomalies": (lambda m, x: torch.autograd.set_detect_anomaly(True), "anomaly detection"),
    "autocast": (lambda m, x: torch.set_autocast_enabled("cpu", True), "autocast on cpu"),
    "hooks of all": (
        lambda m, x: hooks.register_module_forward_hook(lambda *given: None),
        "hooks of all modules .forward",
    ),
    "another class": (lambda m, x: setattr(m[4], "__class__", Zero), "class of 4"),
    "threads": (lambda m, x: torch.set_num_threads(torch.get_num_threads() + 1), "number of threads"),
}


def attacked(module, function):
    registry.register_attack("own", function)
    images = torch.rand(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    draws = Draws(0, COUNT, torch.arange(COUNT))
    return run_attack(
        module, images, torch.zeros(COUNT, dtype=torch.long), Attack("own"), torch.full((COUNT,), 0.5), draws
    )


def as_before(module, before):
    (tensors, *rest), (others, *more) = state(module), before
    return rest == more and tensors.keys() == others.keys() and all(map(torch.equal, tensors.values(), others.values()))


@pytest.mark.parametrize("case", MOVED)
def test_what_an_attack_moved_is_put_back_and_named(case, own_registry):
    function, message = MOVED[case]
    module, settings = model(), [read() for read in SETTINGS]
    before = state(module)
    with pytest.raises(AttackError, match=rf"attack 'own': expected the model .* as they were, got other .*{message}"):
        attacked(module, leave(function))
    assert as_before(module, before)
    assert [read() for read in SETTINGS] == settings
    assert not torch.backends.cudnn.benchmark
    assert all(one.grad is None for one in module.parameters())


@pytest.mark.parametrize(
    ("place", "name", "other"),
    [
        (nn.Linear, "forward", lambda layer, x: x[:, :5]),
        (nn.functional, "relu", lambda x, inplace=False: x),
        (nn.Conv2d, "_conv_forward", lambda layer, x, weight, bias: torch.conv2d(x, -weight, bias)),
    ],
)
def test_what_an_attack_moved_outside_the_model_is_seen_by_what_the_model_gives(
    place, name, other, own_registry, monkeypatch
):
    def replace(model, images):
        monkeypatch.setattr(place, name, other)

    with pytest.raises(AttackError, match="got other outputs of the model"):
        attacked(model(), leave(replace))


RETURNED = {
    "complex": lambda x: x.to(torch.complex64),
    "whole": lambda x: x.round().long(),
    "of 8 bits": lambda x: x.to(torch.float8_e4m3fn),
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "a list": list,
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_are_no_images_is_an_attack_error(case, own_registry):
    with pytest.raises(AttackError, match=r"attack 'own': expected images \(6, 3, 8, 8\), got (list|some of|a tensor)"):
        attacked(model(), lambda m, x, *more: RETURNED[case](x))


FINE = {
    "nothing": lambda m, x: None,
    "a gradient": lambda m, x: m(x.clone().requires_grad_()).sum().backward(),
    "random numbers": lambda m, x: (torch.rand(3), random.random(), random.seed(3)),
    "without gradients": lambda m, x: torch.no_grad()(m)(x),
    "a mode that is put back": lambda m, x: m.train().eval(),
    "flags that are put back": lambda m, x: m.requires_grad_(True).requires_grad_(False),
    "a hook that is taken away": lambda m, x: m.register_forward_hook(lambda *given: None).remove(),
    "a copy": lambda m, x: train_a_step(copy.deepcopy(m), x),
    "the images it is given": lambda m, x: x.mul_(0.999),
}


@pytest.mark.parametrize("case", FINE)
def test_what_leaves_all_as_it_was_is_fine(case, own_registry):
    module = model()
    before, generators = state(module), (torch.get_rng_state().tolist(), random.getstate())
    attacked(module, leave(FINE[case]))
    assert as_before(module, before)
    assert (torch.get_rng_state().tolist(), random.getstate()) == generators


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: float(torch.rand(1))])
def test_what_an_attack_draws_hangs_on_nothing_that_was_drawn_before(draw, own_registry):
    drawn = []
    attack = leave(lambda m, x: drawn.append(draw()))
    attacked(model(), attack)
    draw()
    registry.ATTACKS.pop("own")
    attacked(model(), attack)
    assert drawn[0] == drawn[1]


def raising(error):
    def attack(model, images, labels, epsilon, attack):
        model.train()
        torch.set_grad_enabled(False)
        raise error

    return attack


RAISED = (ValueError("two\nlines"), SystemExit(0), SystemExit(3), AssertionError(), StopIteration(), GeneratorExit())


@pytest.mark.parametrize("error", RAISED, ids=repr)
def test_what_an_attack_raises_is_one_line_with_its_name(error, own_registry):
    module = model()
    before = state(module)
    said = str(refusal(attacked, module, raising(error)))
    assert said.startswith(f"attack 'own': expected adversarial images, got {type(error).__name__}")
    assert as_before(module, before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), torch.OutOfMemoryError()], ids=repr)
def test_an_interrupt_and_out_of_memory_stay_what_they_are_and_leave_nothing_moved(error, own_registry):
    module = model()
    before = state(module)
    with pytest.raises(type(error)):
        attacked(module, raising(error))
    assert as_before(module, before)
    assert torch.is_grad_enabled()


FILE = """
import sys, torch
from rossbench.registry import register_attack
def attack(model, images, labels, epsilon, attack):
    {}
    return images
register_attack("mine", attack)
"""
LINES = {
    "model.train(); model(images)": "got other",
    "sys.exit(0)": "got SystemExit(0)",
    "return 3": "got int",
}


@pytest.mark.parametrize("line", LINES)
def test_on_the_command_line_it_is_exit_code_2(rossbench, tmp_path, line):
    (tmp_path / "mine.py").write_text(FILE.format(line))
    small = ["--train-eps", "0", "--epochs", "1", "--finetune-epochs", "1", "--train-limit", "60", "--test-limit", "20"]
    small += ["--eval-eps", "0,0.5", "--quiet", "--device", "cpu"]
    code, _, err = rossbench("run", "digits", "--attack", "mine", "--scenario-file", "mine.py", *small)
    assert code == 2
    assert "attack 'mine': " in err
    assert LINES[line] in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        "torch.set_grad_enabled(False)",
        "torch.set_default_dtype(torch.float64); 1 / 0",
        "torch.set_default_device('meta')",
        "torch.set_autocast_enabled('cpu', True)",
    ],
)
def test_a_scenario_file_leaves_torch_as_it_was(rossbench, tmp_path, text):
    (tmp_path / "mine.py").write_text(f"import torch\n{text}\n")
    code, _, err = rossbench("list", "--scenario-file", "mine.py")
    assert code == 2
    assert "mine.py: expected" in err
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert torch.empty(0).device.type == "cpu"
    assert not torch.is_autocast_enabled("cpu")


def test_a_scenario_file_leaves_the_working_folder_as_it_was(tmp_path):
    (tmp_path / "mine.py").write_text("import os\nos.chdir('/')\n")
    before = os.getcwd()
    registry.load_file(tmp_path / "mine.py")
    assert os.getcwd() == before


def test_a_run_refuses_settings_of_torch_with_which_none_is_right(tmp_path):
    with (
        torch.no_grad(),
        pytest.raises(InvalidValue, match="expected torch's grad mode True, got False; use a context"),
    ):
        package.run("digits", store=tmp_path / "store", device="cpu")
    assert not (tmp_path / "store").exists()
