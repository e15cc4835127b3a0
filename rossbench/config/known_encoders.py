"""The published encoders that ``rossbench zoo`` lists: declarations only.

Numbers are RobustSSL.github.io's (leaderboard, vanilla finetuning; read in November 2026) and those of the authors' own
READMEs. Settings are those of the code behind that leaderboard, RobustSSL_Benchmark's ``setup_hyperparameter``. No file
was at hand: layouts are from the loaders, no hash is known, and none of the numbers has been reproduced here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .zoo import UNKNOWN, KnownEncoder, Preset, PublishedNumbers

_BOARD = "RobustSSL.github.io, leaderboard, vanilla finetuning"
_ALL_MODES = "from a run of all modes at once, where the epochs of one mode leak into the next"
_STEM = "evaluated with a stem of padding 1, its own is 2"
Settings = dict[str, dict[str, Any]]


def _both(target: str, **fields: Any) -> Settings:
    """Settings of the linear presets, on one data set."""
    return {f"{target} {preset}": fields for preset in ("field-slf", "field-alf")}


# By the pretraining's data set. STL-10 has 32 pixels as a target of CIFAR's encoders, and 96 for its own.
_AT_32 = _both("stl10", batch_size=128)
_DYNACL = {
    "cifar10": {**_both("cifar100", learning_rate=0.05), **_AT_32},
    "cifar100": {**_both("cifar100", learning_rate=0.05), **_AT_32},
    "stl10": {**_both("stl10", learning_rate=0.1), "stl10 field-aff": {"milestones": (10, 20)}},
}
_LONG = {"field-aff": {"epochs": 100, "milestones": (40, 60)}}
_ACL = {
    "cifar10": {**_DYNACL["cifar10"], **_LONG},
    "cifar100": {**_DYNACL["cifar100"], **_LONG},
    "stl10": {**_both("stl10", learning_rate=0.1), **_LONG},
}
_STL10_OF_AIR = {
    "stl10 field-slf": {"learning_rate": 0.1},
    "stl10 field-alf": {"learning_rate": 0.1, "batch_size": 128},
}
_AIR = {
    "cifar10": {**_both("cifar100", learning_rate=0.1), **_AT_32, "cifar10 field-slf": {"epochs": 5}},
    "cifar100": {**_both("cifar100", learning_rate=0.1), **_AT_32},
    "stl10": _STL10_OF_AIR,
}
_ON_CIFAR100_OF_AIR_PP: Settings = {
    "cifar100 field-slf": {"learning_rate": 0.09},
    "cifar100 field-alf": {"learning_rate": 0.1},
}
_AIR_PP: dict[str, Settings] = {
    "cifar10": {**_ON_CIFAR100_OF_AIR_PP, "cifar10 field-alf": {"epochs": 4}},
    "cifar100": _ON_CIFAR100_OF_AIR_PP,
    "stl10": _STL10_OF_AIR,
}
_LATE = {preset: {"milestones": (15, 20)} for preset in ("field-slf", "field-alf")}
_ADVCL = {"cifar10": _LATE, "cifar100": _LATE}
_BN_LISTS = "state_dict; bn_list.0 clean, bn_list.1 adversarial; downsample.conv, downsample.bn; normalize"
_DYNACL_README = "github.com/PKU-ML/DYNACL, links in its README"
_BENCHMARK = "github.com/GodXuxilie/RobustSSL_Benchmark, model zoo"
_IMAGENET: Any = {"source": "cifar10", "encoder": "resnet18:cifar", "normalization": "imagenet"}
_PLAIN = {**_IMAGENET, "normalization": "none"}
_SAVED = "model.pt, as its code saves it"
_PAPERS = {
    "acl": "Jiang et al., Robust Pre-Training by Adversarial Contrastive Learning, NeurIPS 2020",
    "advcl": "Fan et al., When Does Contrastive Learning Preserve Adversarial Robustness from Pretraining to "
    "Finetuning?, NeurIPS 2021",
    "a-infonce": "Yu et al., Adversarial Contrastive Learning via Asymmetric InfoNCE, ECCV 2022",
    "dynacl": "Luo et al., Rethinking the Effect of Data Augmentation in Adversarial Contrastive Learning, ICLR 2023",
    "air": "Xu et al., Enhancing Adversarial Contrastive Learning via Adversarial Invariant Regularization, "
    "NeurIPS 2023",
}
_NO_FILE = "code; its README names no file to download"


def _method(
    name: str, dialect: str, offered: str, file: str = UNKNOWN, fields: dict[str, Any] = _IMAGENET
) -> KnownEncoder:
    return KnownEncoder(name, _PAPERS[name.removesuffix("++")], dialect=dialect, offered=offered, file=file, **fields)


_METHODS = (
    _method("acl", _BN_LISTS, "github.com/VITA-Group/Adversarial-Contrastive-Learning"),
    _method(
        "advcl",
        "model, perhaps module.; bn_list.0 to bn_list.2, the adversarial is 1; fc_* and head_* dropped",
        f"github.com/LijieFan/AdvCL, {_NO_FILE}",
        "epoch_1000.ckpt, as its code saves it",
        _PLAIN,
    ),
    _method("a-infonce", "as AdvCL's", f"github.com/yqy2001/A-InfoNCE, {_NO_FILE}", fields=_PLAIN),
    _method("dynacl", f"{_BN_LISTS}; encoder_k where there is encoder_q too", _DYNACL_README),
    _method(
        "dynacl++",
        "state_dict of torchvision's names, one BatchNorm; normalize; a file with two for field-aff",
        _DYNACL_README,
        _SAVED,
    ),
    _method("air", _BN_LISTS, _BENCHMARK, _SAVED),
    _method("air++", "state_dict of torchvision's names; normalize", _BENCHMARK, _SAVED),
)
_OWN = {
    "acl": _ACL,
    "advcl": _ADVCL,
    "a-infonce": _ADVCL,
    "dynacl": _DYNACL,
    "dynacl++": _DYNACL,
    "air": _AIR,
    "air++": _AIR_PP,
}
"""Settings by the data set of the pretraining."""
_NOT_DUAL = ("advcl", "a-infonce")
"""The others are finetuned in full with two BatchNorms on the data set of their pretraining."""
_DOUBTFUL = {
    ("air-cifar10", "cifar10", "field-alf"): _ALL_MODES,
    ("air-cifar10", "cifar10", "field-aff"): _ALL_MODES,
    ("air++-cifar10", "cifar10", "field-aff"): _ALL_MODES,
}

_CELLS: tuple[tuple[str, str, Preset], ...] = (
    ("cifar10", "cifar10", "field-slf"),
    ("cifar10", "cifar10", "field-alf"),
    ("cifar10", "cifar10", "field-aff"),
    ("cifar100", "cifar100", "field-slf"),
    ("cifar100", "cifar100", "field-aff"),
    ("cifar10", "stl10", "field-slf"),
    ("cifar10", "stl10", "field-aff"),
    ("cifar100", "stl10", "field-slf"),
    ("stl10", "stl10", "field-slf"),
)
"""Columns of _ROWS: data set of the pretraining, target and preset."""
# AutoAttack/clean in percent.
_ROWS = {
    "acl": "39.17/78.22 40.60/75.53 49.60/81.25 17.30/45.82 24.78/57.74 "
    "27.52/56.50 32.66/61.41 21.91/47.59 35.80/67.90",
    "advcl": "43.18/82.36 44.05/80.04 49.61/83.00 19.10/44.60 25.26/58.29 28.38/62.78 33.84/68.14 18.06/49.80 -",
    "a-infonce": "42.72/83.70 43.28/80.30 49.73/82.99 20.41/50.06 25.11/58.08 27.18/65.75 33.50/67.99 18.22/51.14 -",
    "dynacl": "45.09/75.41 45.67/72.97 50.52/81.86 19.30/45.83 24.88/57.43 "
    "29.17/52.41 35.25/63.53 23.17/47.54 46.61/69.56",
    "dynacl++": "46.54/79.82 47.98/78.81 50.34/81.93 20.07/52.16 25.21/57.30 - - - 47.24/70.91",
    "air": "45.17/78.08 46.14/77.42 50.58/82.74 20.13/46.19 25.97/57.75 "
    "29.64/55.84 35.66/63.74 23.24/48.20 47.71/72.25",
    "air++": "46.99/81.80 48.23/79.56 50.79/82.36 20.61/53.93 25.58/57.57 - - - 47.90/71.44",
}


def _of_board(method: KnownEncoder, source: str) -> KnownEncoder:
    name, published = f"{method.name}-{source}", []
    for (pretrained, target, preset), cell in zip(_CELLS, _ROWS[method.name].split(), strict=True):
        if pretrained == source and cell != "-":
            autoattack, clean = map(float, cell.split("/"))
            doubtful = _DOUBTFUL.get((name, target, preset), "")
            published.append(PublishedNumbers(target, preset, _BOARD, clean, None, autoattack, doubtful))
    own = _OWN[method.name][source]
    if method.name not in _NOT_DUAL:
        full = f"{source} field-aff"
        own = {**own, full: {**own.get(full, {}), "trades_batch_norm": "dual"}}
    return replace(
        method,
        name=name,
        source=source,
        encoder="resnet18" if source == "stl10" else method.encoder,
        dialect=f"{method.dialect} (names inferred from its loaders)",
        own=own,
        published=tuple(published),
    )


_ON_BOARD = tuple(_of_board(method, source) for method in _METHODS for source in _OWN[method.name])
_RCS = replace(
    next(one for one in _ON_BOARD if one.name == "dynacl-cifar10"),
    name="dynacl-rcs-cifar10",
    paper="Xu et al., Efficient Adversarial Contrastive Learning via Robustness-Aware Coreset Selection, NeurIPS 2023",
    offered=_BENCHMARK,
    published=(),
    remark="its cells on RobustSSL.github.io are doubtful and left out: its settings miss their branch by a spelling",
)
_README = "README of github.com/pantheon5100/DeACL, mean of five runs"
_TWICE = "natural images pass the encoder twice a step there, and so move its BatchNorm statistics twice"
_DEACL = KnownEncoder(
    "deacl-cifar10",
    "Zhang et al., Decoupled Adversarial Contrastive Learning for Self-supervised Adversarial Robustness, ECCV 2022",
    "cifar10",
    "resnet18:cifar-pad2",
    "Lightning's state_dict, backbone.* (names inferred from its loaders)",
    "0.4914,0.4822,0.4465/0.247,0.243,0.261",
    offered="github.com/pantheon5100/DeACL, link in its README",
    preset="deacl-slf",
    own=_LATE,
    published=(
        PublishedNumbers("cifar10", "field-slf", _BOARD, autoattack=43.27, doubtful=_STEM),
        PublishedNumbers("cifar10", "field-aff", _BOARD, autoattack=44.96, doubtful=_STEM),
        PublishedNumbers("cifar10", "deacl-slf", _README, 80.82, 53.45, 46.14),
        PublishedNumbers("cifar10", "deacl-alf", _README, 79.39, 55.30, 45.55, remark=_TWICE),
        PublishedNumbers("cifar10", "deacl-aff", _README, 83.64, 54.23, 50.75, remark=_TWICE),
    ),
)
_ROCL = KnownEncoder(
    "rocl-cifar10",
    "Kim et al., Adversarial Self-Supervised Contrastive Learning, NeurIPS 2020",
    "cifar10",
    "resnet18:cifar",
    "shortcut.0, shortcut.1, linear dropped (names inferred from its loaders)",
    offered="github.com/Kim-Minseon/RoCL, code; its README names no file to download",
    published=(
        PublishedNumbers(
            "cifar10",
            "field-slf",
            _BOARD,
            autoattack=26.12,
            unlike="settings that are not known: the leaderboard's code has no branch for RoCL",
        ),
        PublishedNumbers(
            "cifar10",
            "field-slf",
            "README of github.com/Kim-Minseon/RoCL",
            *(83.71, 40.27),
            unlike="150 epochs at rate 0.1, weight decay 5e-4, batch 1024; PGD in steps of epsilon / 10",
        ),
    ),
)
KNOWN_ENCODERS = (*_ON_BOARD, _RCS, _DEACL, _ROCL)
