"""Bad input of every kind: one line on stderr, exit code 2, nothing left behind; said before torch is imported where
neither weights nor timm nor devices have to be asked."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision import datasets as tv

import rossbench as package
from rossbench.cli.figures import figure
from rossbench.config import recipes
from rossbench.config.scenarios import Scenario, Suite
from rossbench.data import datasets
from rossbench.store.store import SUMS
from rossbench.util.errors import DataError

LONG = "x" * 5000
ODD = ["", " ", "\x00", "a\x00b", "a\nb", "[red]", "[/]", "../../x", "é", "\udcff", LONG]
"""What no name or number is, and what might go wrong where it is shown."""
EPSILONS = [
    *("", " ", ",", "0,", ",1", "1,0", "0,0", "0,1,0.5", "nan", "0,nan", "inf", "-inf", "-1", "0,-0.1", "1001", "1e4"),
    *("1e400", "1e999999999", "1e-999999999", "9" * 5000, str(10**30), "10**30", "1/0", "/255", "8//255", "x", "0;1"),
    *("0:1", "0:1:0", "0:1:-1", "1:0:0.1", "0:1:1e-9", "0:1:nan", "0:1:0.5:2", ":::", *ODD[2:]),
]
MODELS = ["", ",", "x", "1:", ":1", "1:0:1", "nan", "-1", "inf", "1e999999999", "2", "0,2", "[red]", "\x00", LONG]
COUNTS = ["", "0", "-1", "1.5", "x", "nan", "inf", "1e3", str(10**30), "-" + str(10**30), "9" * 5000, "\x00", "[red]"]
NAMES = [*ODD, "digitz", "DIGITS", "digits ", "digits/", "/digits", "digits\n", "digits@1:", "-"]
CHOICES = [*ODD, "top-1", "TOP1", "None"]
OPTIONS = {
    "--train-eps": EPSILONS,
    "--finetune-eps": [*EPSILONS, "sane", "SAME", "same,1"],
    "--eval-eps": EPSILONS,
    "--epochs": COUNTS,
    "--finetune-epochs": COUNTS,
    "--train-limit": [*COUNTS, "9", "1202"],
    "--test-limit": [*COUNTS, "9", "597"],
    "--seed": [*COUNTS[2:], str(2**62 + 1), "0,1"],
    "--seeds": [
        "",
        ",",
        "0,0",
        "0,1,0",
        "0,",
        "-1",
        "1.5",
        "x",
        "nan",
        "0:3",
        "0 1",
        str(10**30),
        "9" * 5000,
        *ODD[2:],
    ],
    "--encoder": [
        *ODD,
        "/etc/passwd",
        "resnet18:",
        "resnet18:cifar:cifar",
        "hf-hub:a/b",
        "local-dir:w",
        "module:",
        "-",
    ],
    "--encoder-weights": [*ODD, "none.pt", "folder", ".", "/dev/zero", "hf-hub:", "local-dir:", "local-dir:none"],
    "--precision": [*CHOICES, "float16"],
    "--attacked": [*CHOICES, "wrong"],
    "--attack": [
        *(
            *ODD,
            "apgd",
            "pgd,",
            ",",
            "=",
            "steps",
            "steps=",
            "steps=0",
            "steps=-1",
            "steps=1.5",
            "steps=x",
            "steps=nan",
        ),
        *("steps=" + "9" * 5000, f"steps={10**30}", "step_size=0", "step_size=-1", "step_size=nan", "step_size=inf"),
        *("step_size=1e400", "step_size=1e999999999", "step_size=1/0", "norm=L3", "norm=l2", "norm=", "restarts=0"),
        *("step_unit=meter", "random_start=maybe", "name=pgd", "pgd,steps", "pgd,pgd", "pgd,speed=3", "square,steps=0"),
        *("autoattack-standard,steps=3", "norm=Linf", "eps=1", "steps=3,,restarts=2"),
    ],
    "--finetuning": [*CHOICES, "slf", "XLF"],
}
NORMALIZATIONS = [
    *("", "/", "0/1", "0,0,0", "0,0,0/1,1", "0,0,0/1,1,0", "0,0,0/1,1,-1", "nan,0,0/1,1,1", "0,0,0/1,1,inf", "cifar"),
    *("0,0,0/1,1,1/2", "1e400,0,0/1,1,1", "a,b,c/d,e,f", "\x00", "[red]", LONG),
]
STORE_PATHS = ["file.txt", "file.txt/store", "a\x00b", "\x00", LONG, ""]
DEVICES = [*ODD, "tpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "gpu", "cpu:0", "cuda:" + "9" * 5000]
READING = {"--metric": CHOICES, "--protocol": [*ODD, "abc", "0" * 8, "*"], "--device": DEVICES}


def over(command, options):
    """The command with each bad value of each option."""
    return [[*command, f"{name}={value}"] for name, values in options.items() for value in values]


def picked(*names):
    return {name: READING[name] for name in names}


GIVEN = ["--encoder", "resnet18", "--device", "cpu"]
NUMBERS = ["", "-1", "nan", "inf", "-inf", "x", "1e400", "\x00", "[red]"]
SAVES = ["folder", "none/f.png", "file.txt/f.png", "f.gif", "f", ".png", "\x00.png", LONG + ".png", "", "f.PNG.txt"]
INPUTS = {"--perplexity": [*NUMBERS, "0"], "--iterations": [*COUNTS, "249"], "--epsilon": [*NUMBERS, "1001", "0,1"]}
CASES = {
    "usage": [
        *(["rum"], ["--debg"], ["list", "x"], ["list", "--out", "x"], ["show"], ["run"], ["layers"], ["features"]),
        *(["show", "digits", "digits"], ["run", "digits", "digits"], ["run", "digits", "--epoch", "3"]),
        *(["run", "digits", "--seed"], ["run", "digits", "--seed", "1", "--seeds", "0,1"], ["figure", "pie", "digits"]),
        *(["figure", "tsne"], ["report", "--htm", "x"], ["\x00"], ["[red]"], [LONG], [""], ["a\nb"], ["\udcff"]),
        *(["run", "digits", "--encoder-normalization", "imagenet"], ["--scenario-file", "s/good.py", "list"]),
        *(
            ["run", "digits", "--train-eps", "0,1", "--train-eps", "x"],
            ["run", "digits", "--epochs", "1", "--epochs=0"],
        ),
    ],
    "names": [
        [*command, name]
        for command in (["show"], ["run"], ["report"], ["audit"], ["compare"], ["figure", "matrix"], ["layers"])
        for name in NAMES
        if name != "-" or command != ["figure", "matrix"]
    ],
    "options of show": over(["show", "digits"], {**OPTIONS, "--device": DEVICES}),
    "costs": [
        *over(["show", "digits", "--cost"], {"--rate": [*NUMBERS, "0", "-5e13", "1e-999"]}),
        *(["show", "digits", "--rate", "5e13"], ["show", "digits", "--calibrate"]),
        ["show", "digits", "--cost", "--rate", "5e13", "--calibrate"],
        ["run", "digits", "--cost"],
    ],
    "options of run": over(["run", "digits"], {**OPTIONS, "--device": DEVICES}),
    "shards and clusters": over(
        ["run", "digits"],
        {
            "--shard": [
                "",
                "0/2",
                "3/2",
                "x",
                "1",
                "1/",
                "/2",
                "-1/2",
                "1/0",
                " 1/2",
                "1/2/3",
                "1.5/2",
                "1/999999",
                "[red]",
            ],
            "--cpus-per-task": ["1", "0", "-1", "nan", "x"],
            "--gpus-per-task": ["0.25", "-1", "inf", "x"],
            "--ray": [
                "",
                "x",
                "host",
                "host:",
                ":1",
                "host:port",
                "ray://host:1",
                "host:1/x",
                "host:123456",
                "[red]:1",
            ],
        },
    ),
    "tasks": over(
        ["run", "digits", "--ray", "local"], {"--gpus-per-task": ["1.5", "-1", "nan"], "--cpus-per-task": ["-1"]}
    ),
    "upkeep": [
        *(["store", "lis"], ["store", "list", "x"], ["store", "gc", "--dry"], ["store", "verify", "--dry-run"]),
        *(
            ["store", command, "--out", path]
            for command in ("list", "verify", "gc")
            for path in ("file.txt", "", "a\x00b")
        ),
    ],
    "normalizations": over(
        ["run", "digits", "--encoder-weights", "w/good.pt", *GIVEN], {"--encoder-normalization": NORMALIZATIONS}
    ),
    "places of a run": over(
        ["run", "digits"], {"--out": STORE_PATHS, "--store": STORE_PATHS, "--tensorboard": STORE_PATHS}
    )
    + over(["run", "cifar10-to-cifar10"], {"--data-dir": STORE_PATHS}),
    "attacks and what they need": [
        ["run", "digits", "--attack", "negative", "--eval-eps", "0,2"],
        ["run", "digits", "--finetuning", "AFF", "--finetune-eps", "1,0"],
        ["run", "ross2022", "--train-limit", "50"],
        ["run", "cifar10-to-cifar100", "--test-limit", "99"],
    ],
    "beside given weights": [
        ["run", "digits", "--encoder-weights", "w/good.pt", *rest]
        for rest in (
            *(["--epochs", "3"], ["--precision", "bfloat16"], ["--train-eps", "0,1"], ["--encoder", "../x"]),
            *(["--seed", "-1"], ["--eval-eps", "nan"]),
        )
    ]
    + [["run", "digits", "--encoder-weights", "hf-hub:a/b", "--encoder", "conv3"]],
    "report": over(["report"], {**picked("--metric", "--protocol", "--device"), "--format": [*CHOICES, "html"]})
    + over(
        ["report"],
        {"--out": ["none", *STORE_PATHS[:-1]], "--html": ["folder", "none/x", "file.txt/x", "\x00", LONG, ""]},
    )
    + [["report", "--html", "x.html", *rest] for rest in (["--metric", "f1"], ["--format", "csv"], ["--intervals"])]
    + [["report", "--intervals", "--metric", "mcc"], ["report", "--intervals", "--format", "json"]]
    + [["report", "--html", "x.html", "--data-dir", "file.txt"], ["report", "digits", "ross2022"]],
    "audit": over(
        ["audit"], {**picked("--protocol", "--device"), "--out": ["none", *STORE_PATHS], "--data-dir": ["file.txt"]}
    ),
    "compare": over(
        ["compare"],
        {
            "--tolerance": NUMBERS,
            "--format": [*CHOICES, "csv"],
            "--protocol": READING["--protocol"],
            "--out": ["none", "file.txt"],
        },
    )
    + [["compare", "digits@0", f"digits@{model}"] for model in MODELS]
    + [["compare", *names] for names in (["digits@0"], ["digits@0"] * 3, ["@0", "@1"], ["@", "@"], ["x@0", "digits@0"])]
    + [["compare"], ["compare", "digits"]],
    "figures": over(["figure", "matrix", "digits"], {**picked("--metric", "--protocol", "--device"), "--save": SAVES})
    + over(["figure", "robustness", "digits"], {"--models": MODELS, "--save": SAVES})
    + over(["figure", "confusion", "digits"], {"--eval-eps": EPSILONS, "--out": STORE_PATHS})
    + over(["figure", "per-class", "digits"], {"--eval-eps": [*EPSILONS, "0.7", "0,0.7"]})
    + over(["figure", "tsne", "digits"], {**INPUTS, "--limit": [*COUNTS, "9", "41"]})
    + over(["figure", "tsne-together", "digits"], {**INPUTS, "--data-dir": ["file.txt"]})
    + over(["figure", "examples", "digits"], {"--epsilon": INPUTS["--epsilon"], "--count": [*COUNTS, "9"]})
    + over(["figure", "training", "digits"], {"--stage": [*CHOICES, "evaluate"], "--models": MODELS})
    + [["figure", "matrix", "digits", *["digits"] * 60, "x"]],
    "layers and features": over(["layers", "digits"], {"--model": [*MODELS, "0,1"], **picked("--protocol", "--device")})
    + over(
        ["features", "digits"],
        {"--model": [*MODELS, "0,1"], "--epsilon": INPUTS["--epsilon"], "--limit": [*COUNTS, "9", "41"]},
    )
    + over(["features", "digits"], {"--save": ["folder", "none/f.npz", "f.txt", "f", "\x00.npz", LONG + ".npz", ""]}),
}
"""Command lines by what is wrong. All work in the folder of ``world``, whose rossbench-store is a good one."""
NEEDS_TORCH = {
    "timm is asked": [
        ["run", "digits", "--device", "cpu", "--encoder", name]
        for name in ("resnet81", "qqqqqqqq", "conv3:cifar", "vit_tiny_patch16_224:cifar", "resnet18.nothing", "CONV3")
    ],
    "devices are counted": [[*command, "--device", "cuda:99"] for command in (["run", "digits"], ["layers", "digits"])],
    "weights are read": [
        ["run", "digits", "--encoder-weights", f"w/{name}", *GIVEN]
        for name in (
            *(
                "code.pt",
                "code-in-archive.pt",
                "truncated.pt",
                "empty.pt",
                "text.pt",
                "nan.pt",
                "number.pt",
                "other.pt",
            ),
            *("empty.safetensors", "text.safetensors", "pickle.safetensors", "nan.safetensors", "header.safetensors"),
        )
    ]
    + [["show", "digits", "--encoder-weights", "w/code.pt", *GIVEN]]
    + [["run", "digits", "--encoder-weights", f"local-dir:w/{name}"] for name in ("no-config", "bad-config", "code")]
    + [["run", "digits", "--encoder-weights", "w/good.pt", "--encoder-normalization", "1e300,0,0/1,1,1", *GIVEN]],
    "a model of the store is read": [
        *(
            [*command, "--layer", layer]
            for command in (["features", "digits"], ["figure", "tsne", "digits"])
            for layer in ODD
        ),
        ["figure", "examples", "digits", "--epsilon", "0"],
        ["figure", "tsne", "digits", "--perplexity", "100"],  # hangs on how many points the models have
    ],
}
"""The only ones that cannot be judged before torch is there."""
LINES = [line for lines in (*CASES.values(), *NEEDS_TORCH.values()) for line in lines]


# --- scenario files ----------------------------------------------------------------------------------------

NAN, INF = "float('nan')", "float('inf')"
WRONG_NUMBERS = [NAN, INF, "-1", "'1'", "True", "[1]", "10**400", "1e400"]
WRONG_WHOLE = [*WRONG_NUMBERS, "0", "1.5", "None", "10**30"]
WRONG_WORDS = ["None", "3", "'x'", "b'x'", "''", "['x']"]
WRONG_FLAGS = ["None", "1", "'yes'"]
WRONG_GRIDS = [
    "()",
    "[1, 0]",
    "[0, 0]",
    "[-1]",
    f"[{NAN}]",
    f"[{INF}]",
    "'0,1'",
    "1",
    "['0']",
    "[None]",
    "[True]",
    "[10**400]",
]
WRONG_NAMES = [
    "''",
    "'A'",
    "'a b'",
    "'../x'",
    "'a/b'",
    "'.a'",
    "'a\\n'",
    "'a\\x00'",
    "'é'",
    "'x' * 65",
    "3",
    "None",
    "'[red]'",
]


def every(fields, values):
    return {field: values for field in fields}  # noqa: C420


FIELDS = {
    "Scenario": {
        "name": [*WRONG_NAMES, "'digits'"],
        **every(("source", "target"), [*WRONG_WORDS, "'cifar10'", "'../digits'"]),
        "recipe": ["None", "'ross2022'", "{}", "Recipe"],
        "encoder": [
            "None",
            "3",
            "''",
            "'../x'",
            "'/etc/passwd'",
            "'a b'",
            "'a\\x00'",
            "'resnet18:'",
            "'é\\n'",
            "['conv3']",
        ],
        **every(("train_epsilons", "eval_epsilons"), [*WRONG_GRIDS, "None"]),
        "finetune_epsilons": WRONG_GRIDS,
        "seed": [NAN, "-1", "1.5", "'0'", "True", "2**63", "10**400", "None"],
        **every(("train_limit", "test_limit"), ["0", "-1", "1.5", "'60'", "True", NAN, "9", "10**6", "10**400"]),
        "description": ["None", "3", "b'x'"],
        "weights": ["None", "'x'", "'../../x'", "'0' * 15", "'0' * 17", "'G' * 16", "3", "'0' * 16"],
    },
    "Suite": {
        "name": [*WRONG_NAMES, "'digits'"],
        "members": ["()", "'digits'", "['x']", "[3]", "None"],
        "description": ["None"],
    },
    "Recipe": {
        "name": ["None", "3"],
        **every(("pretraining", "finetuning", "evaluation"), ["None", "{}", "3"]),
    },
    "Pretraining": {
        "epochs": WRONG_WHOLE,
        "batch_size": [*WRONG_WHOLE, "1"],
        **every(("learning_rate", "temperature"), [*WRONG_NUMBERS, "0", "None"]),
        "weight_decay": WRONG_NUMBERS,
        "constant_epochs": [NAN, "-1", "1.5", "'1'", "10**30"],
        "projection_dim": WRONG_WHOLE,
        **every(("projection_batch_norm", "normalize", "channels_last"), WRONG_FLAGS),
        "augmentation": ["None", "{}"],
        "attack": ["None", "'pgd'", "Attack('fgsm')", "Attack(restarts=2)"],
        "attack_mode": WRONG_WORDS,
        "batch_norm": WRONG_WORDS,
        "precision": [*WRONG_WORDS, "'float16'"],
    },
    "Finetuning": {
        **every(("epochs", "batch_size"), WRONG_WHOLE),
        "learning_rate": [*WRONG_NUMBERS, "0"],
        "weight_decay": WRONG_NUMBERS,
        "attack": ["None", "'pgd'", "Attack('fgsm')", "Attack(restarts=2)"],
        "trained": WRONG_WORDS,
    },
    "Evaluation": {"attack": ["None", "'pgd'", "Attack('x')"], "batch_size": WRONG_WHOLE, "attacked": WRONG_WORDS},
    "Attack": {
        "name": WRONG_WORDS,
        "norm": [*WRONG_WORDS, "'l2'"],
        "steps": WRONG_WHOLE,
        "step_size": [*WRONG_NUMBERS, "0", "None"],
        "random_start": WRONG_FLAGS,
        "step_unit": WRONG_WORDS,
        "restarts": WRONG_WHOLE,
    },
    "Augmentation": {
        "crop_scale": [
            "None",
            "0.5",
            "(0.5,)",
            "(1, 0.5)",
            "(0, 1)",
            "(0.5, 2)",
            f"({NAN}, 1)",
            "('a', 1)",
            "(1, 1, 1)",
        ],
        "crop_ratio": ["None", "(2, 1)", "(0, 1)", f"(1, {INF})"],
        "jitter": ["None", "(1, 1, 1)", "(1, 1, 1, 1)", "(2, 1, 1, 0)", f"({NAN}, 1, 1, 0)"],
        **every(
            ("flip_probability", "jitter_probability", "grayscale_probability", "blur_probability", "blur_kernel"),
            [*WRONG_NUMBERS, "1.1"],
        ),
        "blur_sigma": ["None", "(0, 1)", "(2, 1)", f"({NAN}, 1)"],
    },
}
START = (
    "from rossbench import Attack, Augmentation, Evaluation, Finetuning, Pretraining, Recipe, Scenario, Suite\n"
    "from rossbench.registry import register, register_attack, register_folder\n"
)
SCENARIO = "register(Scenario(**{{'name': 'mine', 'source': 'digits', 'target': 'digits', 'encoder': 'conv3', {}}}))\n"
IN_SCENARIO = {
    "Scenario": "{}",
    "Recipe": "'recipe': Recipe(**{{{}}})",
    "Pretraining": "'recipe': Recipe(pretraining=Pretraining(**{{{}}}))",
    "Augmentation": "'recipe': Recipe(pretraining=Pretraining(augmentation=Augmentation(**{{{}}})))",
    "Finetuning": "'recipe': Recipe(finetuning=Finetuning(**{{{}}}))",
    "Evaluation": "'recipe': Recipe(evaluation=Evaluation(**{{{}}}))",
    "Attack": "'recipe': Recipe(evaluation=Evaluation(attack=Attack(**{{{}}})))",
}
SUITE = "register(Suite(**{{'name': 'mine', 'members': ['digits'], {}}}))\n"


def _declared(cls, field, value):
    given = f"{field!r}: {value}"
    return START + (SUITE.format(given) if cls == "Suite" else SCENARIO.format(IN_SCENARIO[cls].format(given)))


SOURCES = {
    "syntax": b"def",
    "indent": b"  x\n y",
    "raises": b"raise RuntimeError('two\\nlines [red]')",
    "exits": b"import sys; sys.exit(0)",
    "exits-by-text": b"raise SystemExit('over')",
    "base-exception": b"class Mine(BaseException): pass\nraise Mine",
    "generator-exit": b"raise GeneratorExit",
    "recursion": b"def f(): f()\nf()",
    "no-module": b"import no_such_module_at_all",
    "binary": bytes(range(256)) * 8,
    "nul": b"x = 1\x00",
    "latin": "é = 'ü'".encode("latin-1"),
    "utf-16": "x = 1".encode("utf-16"),
    "pyc": b"\xa7\r\r\n" + b"\x00" * 64,
    "registers-nothing-known": START.encode() + b"register('digits')",
    "twice": START.encode() + b"register(Suite('a', ['digits'])); register(Suite('a', ['digits']))",
    "member": START.encode() + b"register(Suite('a', ['a']))",
    "unknown-field": START.encode() + SCENARIO.format("'epsilons': [1]").encode(),
    "no-field": START.encode() + b"register(Scenario())",
    "one-class": START.encode()
    + b"from rossbench.data.datasets import DATASETS, DatasetInfo\nDATASETS['one'] = DatasetInfo(('a',), 16, 9, 9)\n"
    + SCENARIO.format("'target': 'one'").encode(),
    "few-classes": START.encode()
    + b"from rossbench.data.datasets import DATASETS, DatasetInfo\n"
    + b"DATASETS['two'] = DatasetInfo(tuple('ab'), 16, 9, 9)\n"
    + SCENARIO.format("'target': 'two', 'recipe': Recipe(evaluation=Evaluation(attack=Attack('apgd-t')))").encode(),
    "attack-name": START.encode() + b"register_attack('../x', print)",
    "attack-function": START.encode() + b"register_attack('x', 3)",
    "attack-twice": START.encode() + b"register_attack('pgd', print)",
    "folder-name": START.encode() + b"register_folder('../x', '.', size=32)",
    "folder-none": START.encode() + b"register_folder('x', 'none\\n', size=32)",
    "folder-twice": START.encode() + b"register_folder('cifar10', '.', size=32)",
    "folder-size": START.encode() + b"register_folder('x', '.', size=0)",
    "folder-empty": START.encode() + b"register_folder('x', '.', size=32)",
    **{
        f"{cls}-{field}-{k}": _declared(cls, field, value).encode()
        for cls, fields in FIELDS.items()
        for field, values in fields.items()
        for k, value in enumerate(values)
    },
}
FILES = [["list", f"--scenario-file=s/{name}.py"] for name in SOURCES]
FILES += [
    [*command, f"--scenario-file={path}"]
    for command in (["list"], ["show", "digits"], ["run", "digits"], ["report"], ["figure", "matrix", "digits"])
    for path in ("none.py", "folder", "", "a\x00b", LONG, "/dev/zero", "file.txt/x.py", "s/raises.py", "/proc/self/mem")
]


# --- stores ------------------------------------------------------------------------------------------------


def _cell(k, value):
    """The note with one part of its first cell changed."""
    return lambda note: {
        **note,
        "cells": [[*note["cells"][0][:k], value, *note["cells"][0][k + 1 :]], *note["cells"][1:]],
    }


def _noted(**changes):
    return lambda note: {**note, **changes}


OUTSIDE = ["../../x", "/etc/passwd", "..", "", "a" * 15, "a" * 17, "A" * 16, "a" * 15 + "\n", 3, None, ["a" * 16]]
NOTES = {
    **{f"key-{k}": _cell(3, value) for k, value in enumerate(OUTSIDE)},
    **{
        f"name-{k}": _noted(name=name)
        for k, name in enumerate(["../../x", "/x", "", "A", "[red]", "a\n", "x" * 65, 3, None])
    },
    **{
        f"protocol-{k}": _noted(protocol=one)
        for k, one in enumerate(["../../x", "", "a" * 7, "a" * 9, "g" * 8, 3, None])
    },
    **{f"family-{k}": _noted(family=one) for k, one in enumerate(["../x", "", 3, []])},
    **{f"source-{k}": _noted(source=one) for k, one in enumerate(["../x", "[red]", 3, None])},
    **{f"target-{k}": _noted(target=one) for k, one in enumerate(["../x", "", 3, []])},
    **{f"seed-{k}": _noted(seed=one) for k, one in enumerate([-1, "0", 1.5, None, True])},
    **{f"registered-seed-{k}": _noted(registered_seed=one) for k, one in enumerate(["0", None])},
    **{f"epsilon-{k}": _cell(k % 3, value) for k, value in enumerate(["0", None, -1, [], {}, True])},
    **{f"cells-{k}": _noted(cells=one) for k, one in enumerate([None, {}, "x", [None], [[]], [[0, 0, 0]], 3])},
    **{
        f"deviations-{k}": _noted(deviations=one)
        for k, one in enumerate([None, [], {"a": 1}, {"a": [1]}, {"a": [1, 2, 3]}])
    },
    **{f"rows-{k}": _noted(registered_rows=one) for k, one in enumerate([None, [1], [[1]], [["a", "b"]], {}])},
    **{f"columns-{k}": _noted(registered_columns=one) for k, one in enumerate([None, 1, ["a"], [None], {}])},
    "schema": _noted(schema=99),
    "schema-text": _noted(schema="3"),
    "field": _noted(more=1),
    "list": lambda note: [note],
    "empty": lambda note: {},
}
TEXTS = {"null": b"null", "number": b"3", "nan": b"NaN", "text": b'"x"'}
"""What is no JSON is damaged, and set aside: see test_survival."""
RECORDS = {
    "schema-99": lambda record: {**record, "schema": 99},
    "field": lambda record: {**record, "more": 1},
    "list": lambda record: [record],
}
STORES = [
    *(f"note-{name}" for name in NOTES),
    *(f"text-{name}" for name in TEXTS),
    *(f"record-{name}" for name in [*RECORDS, *TEXTS]),
    *("matrices-file", "note-folder", "note-link"),
]
ON_STORES = [["report", f"--out=b/{store}"] for store in STORES]
ON_STORES += [
    [*command, f"--out=b/{store}"]
    for store in ("note-key-0", "note-name-0", "note-protocol-0", "text-null", "record-schema-99", "matrices-file")
    for command in (
        *(
            ["report", "digits", "--format", "json"],
            ["report", "--html", "x.html"],
            ["audit"],
            ["compare"],
            ["layers", "digits"],
        ),
        *(["compare", "digits@0", "digits@1"], ["figure", "matrix", "digits"], ["features", "digits"]),
    )
]


# --- the world ---------------------------------------------------------------------------------------------


class Code:
    """Unpickled, it would leave a file."""

    def __reduce__(self):
        return Path.write_text, (Path("w/RUN"), "code was run")


def _weights(folder):
    folder.mkdir()
    good = torch.nn.Linear(2, 2).state_dict()
    import timm

    state = timm.create_model("resnet18", num_classes=0).state_dict()
    torch.save(state, folder / "good.pt")
    torch.save({**state, "bn1.weight": torch.full((64,), torch.nan)}, folder / "nan.pt")
    save_file({**state, "bn1.weight": torch.full((64,), torch.nan)}, folder / "nan.safetensors")
    torch.save(good, folder / "other.pt")
    torch.save(3, folder / "number.pt")
    torch.save({"a": Code()}, folder / "code-in-archive.pt")
    for name in ("code.pt", "pickle.safetensors"):
        (folder / name).write_bytes(pickle.dumps({"a": Code()}))
    (folder / "truncated.pt").write_bytes((folder / "good.pt").read_bytes()[:5000])
    for end in ("pt", "safetensors"):
        (folder / f"empty.{end}").write_bytes(b"")
        (folder / f"text.{end}").write_text("weights")
    (folder / "header.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    for name, config in (("no-config", None), ("bad-config", "{"), ("code", json.dumps({"architecture": "resnet18"}))):
        (folder / name).mkdir()
        (folder / name / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Code()}))
        if config is not None:
            (folder / name / "config.json").write_text(config)


def _stores(folder, good):
    note, record = next((good / "matrices").iterdir()), next((good / "evaluate").iterdir()) / "record.json"
    key = record.parent.name
    for name in STORES:
        (folder / name / "matrices").mkdir(parents=True)
        (folder / name / "matrices" / note.name).write_bytes(note.read_bytes())
        if name.startswith("record-"):
            shutil.copytree(good / "evaluate", folder / name / "evaluate", ignore=shutil.ignore_patterns(SUMS))
    for kind, known in (("note", NOTES), ("record", RECORDS)):
        for name, change in known.items():
            path = (
                folder
                / f"{kind}-{name}"
                / (f"matrices/{note.name}" if kind == "note" else f"evaluate/{key}/record.json")
            )
            path.write_text(json.dumps(change(json.loads(path.read_text()))))
    for name, content in TEXTS.items():
        (folder / f"text-{name}" / "matrices" / note.name).write_bytes(content)
        (folder / f"record-{name}" / "evaluate" / key / "record.json").write_bytes(content)
    for path in folder.glob("*/matrices/*"):  # under the name that its content gives it
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        path.rename(path.with_stem(f"{path.stem.rpartition('-')[0]}-{digest}"))
    (folder / "note-folder" / "matrices" / note.name).unlink()
    (folder / "note-folder" / "matrices" / note.name).mkdir()
    (folder / "note-link" / "matrices" / note.name).unlink()
    (folder / "note-link" / "matrices" / note.name).symlink_to("/none")
    shutil.rmtree(folder / "matrices-file" / "matrices")
    (folder / "matrices-file" / "matrices").write_text("")


class World(type(Path())):
    """A folder, and what was in it before anything was done."""


@pytest.fixture(scope="module")
def world(tmp_path_factory, finished):
    """A folder with a good store and all that is bad."""
    root = World(tmp_path_factory.mktemp("world"))
    shutil.copytree(finished, root / "rossbench-store")
    (root / "folder").mkdir()
    (root / "file.txt").write_text("text")
    (root / "s").mkdir()
    for name, source in SOURCES.items():
        (root / "s" / f"{name}.py").write_bytes(source)
    (root / "s" / "good.py").write_text("")
    _weights(root / "w")
    _stores(root / "b", root / "rossbench-store")
    root.before, root.paths = _content(root), _paths(root)
    return root


def _paths(root):
    return {os.path.join(folder, name) for folder, *kinds in os.walk(root) for names in kinds for name in names}


def _content(root):
    files = [Path(path) for path in _paths(root)]
    return {path: path.read_bytes() for path in files if path.is_file()}


SAID = {}
"""What the cases gave, by their command line."""


@pytest.fixture
def judged(world, rossbench, monkeypatch):
    """Runs a bad command line in the world, and holds what it does and says to what it should."""

    def judge(line):
        monkeypatch.chdir(world)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of scenario files that import others
        monkeypatch.setattr(datasets, "DATASETS", dict(datasets.DATASETS))
        code, out, err = rossbench(*line)
        assert (code, err[:11]) == (2, "rossbench: "), err
        _check_line(err)
        assert "Traceback" not in out
        assert _paths(world) == world.paths
        SAID[tuple(line)] = err

    return judge


def _check_line(err):
    assert err.startswith("rossbench: ")
    assert err.endswith("\n")
    assert err[:-1].isprintable()  # so it is one line
    assert len(err) < 2100
    assert "Traceback" not in err
    assert not err.startswith("rossbench: unexpected ")


def _name(line):
    return " ".join(ascii(part)[1:-1] if len(part) < 60 else f"{part[:20]}-{len(part)}" for part in line)


@pytest.mark.parametrize("line", LINES, ids=map(_name, LINES))
def test_a_bad_command_line_is_one_line_and_leaves_nothing(judged, line):
    judged(line)


@pytest.mark.parametrize("line", FILES, ids=map(_name, FILES))
def test_a_bad_scenario_file_is_one_line_and_leaves_nothing(judged, line):
    judged(line)


@pytest.mark.parametrize("line", ON_STORES, ids=map(_name, ON_STORES))
def test_a_bad_store_is_one_line_and_leaves_nothing(judged, line):
    judged(line)


def test_no_file_of_the_world_has_changed(world):
    """After all of the above; nor was code from a pickle run."""
    assert _content(world) == world.before
    assert not (world / "w" / "RUN").exists()


def test_the_cases_are_many_and_of_every_command():
    distinct = {tuple(line) for line in (*LINES, *FILES, *ON_STORES)}
    assert len(distinct) >= 2000
    commands = {"list", "show", "run", "report", "audit", "compare", "figure", "layers", "features"}
    assert commands <= {line[0] for line in distinct if line}
    assert set(figure.commands) <= {line[1] for line in distinct if line[0] == "figure" and len(line) > 2}
    assert sum(map(len, NEEDS_TORCH.values())) < 60
    for cls in (Scenario, Suite, recipes.Recipe, recipes.Pretraining, recipes.Augmentation, recipes.Finetuning):
        assert {one.name for one in dataclasses.fields(cls)} == set(FIELDS[cls.__name__])
    for cls in (recipes.Evaluation, recipes.Attack):
        assert {one.name for one in dataclasses.fields(cls)} == set(FIELDS[cls.__name__])


NO_TORCH = """
import contextlib, io, json, sys
for name in ("torch", "torchvision", "timm", "lightly", "torchattacks", "torchmetrics"):
    sys.modules[name] = None  # to import it is an ImportError
from rossbench import cli, registry
from rossbench.config import recipes
from rossbench.data import datasets
known = [(one, dict(one)) for one in (
    registry._scenarios, registry._suites, recipes.ATTACKS, datasets.DATASETS
)]
said = []
for line in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(line)
        except SystemExit as stop:
            code = stop.code
    said.append([code, err.getvalue()])
    for one, before in known:
        one.clear()
        one.update(before)
json.dump(said, sys.stdout)
"""


def test_they_are_judged_before_torch_is_there(world):
    """All but those of NEEDS_TORCH, in a process that cannot import torch: the same line for each."""
    lines = [line for lines in CASES.values() for line in lines] + FILES + ON_STORES
    command = [sys.executable, "-B", "-c", NO_TORCH]
    here = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, cwd=world, env=here)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line, (code, err) in zip(lines, json.loads(done.stdout), strict=True):
        assert code == 2, (line, err)
        _check_line(err)
        assert err == SAID.get(tuple(line), err)
    assert _paths(world) == world.paths


# --- data from outside -------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    def refused(*arguments, **options):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refused)


@pytest.mark.parametrize("name", ["cifar10-to-cifar10", "cifar100-to-cifar100"])
def test_a_data_set_that_is_a_pickle_of_code_is_not_unpickled(rossbench, tmp_path, no_network, name):
    """torchvision holds each file against a known digest before it opens any; none here has it."""
    (tmp_path / "w").mkdir()
    for kind in (tv.CIFAR10, tv.CIFAR100):
        (tmp_path / kind.base_folder).mkdir()
        for file in (*(one for one, _ in kind.train_list + kind.test_list), kind.meta["filename"]):
            (tmp_path / kind.base_folder / file).write_bytes(pickle.dumps(Code()))
    code, _, err = rossbench("run", name, "--data-dir", tmp_path, "--device", "cpu")
    assert code == 2
    _check_line(err)
    assert "expected its files in" in err
    assert not (tmp_path / "w" / "RUN").exists()
    assert not (tmp_path / "rossbench-store").exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 3, pickle.dumps(Code()), b"\x00\x00\x08\x03" + b"\x00" * 20])
def test_damaged_files_of_mnist_are_one_line(tmp_path, no_network, content):
    """torchvision has no digests of these but of their archives."""
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for file, _ in tv.MNIST.resources:
        (tmp_path / "MNIST" / "raw" / file.removesuffix(".gz")).write_bytes(content)
    with pytest.raises(DataError, match=r"mnist.*: expected "):
        datasets.load("mnist", "test", data_dir=tmp_path)


def test_a_cache_of_mnist_that_is_a_pickle_of_code_is_not_unpickled(tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    for file in ("training.pt", "test.pt"):
        (tmp_path / "MNIST" / "processed" / file).write_bytes(pickle.dumps(Code()))
    with pytest.raises(DataError, match="mnist: expected its files"):
        datasets.load("mnist", "test", data_dir=tmp_path)
    assert not (tmp_path / "w" / "RUN").exists()


def test_a_file_that_cannot_be_written_leaves_the_old_one(rossbench, world, tmp_path, monkeypatch):
    """Nor half of the new one."""

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    (tmp_path / "f.png").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    code, out, err = rossbench("figure", "matrix", "digits", "--store", world / "rossbench-store", "--save", "f.png")
    assert (code, out) == (2, "")
    assert "f.png: expected a place to write to, got No space left on device" in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f.png", "old")]


def test_a_run_that_does_not_begin_leaves_no_folder_for_tensorboard(rossbench, tmp_path):
    code, _, err = rossbench("run", "digits", "--encoder", "resnet81", "--tensorboard", "a/b", "--device", "cpu")
    assert code == 2
    _check_line(err)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_through_a_link_and_to_a_device(rossbench, world, tmp_path):
    (tmp_path / "link.png").symlink_to("real.png")
    for target in ("link.png", "/dev/null"):
        command = ["report", "--html"] if target == "/dev/null" else ["figure", "matrix", "digits", "--save"]
        assert rossbench(*command, target, "--store", world / "rossbench-store", "--device", "cpu")[0] == 0
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")
