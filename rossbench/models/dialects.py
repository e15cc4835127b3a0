"""Dialects of checkpoints: which tensors of a file are the encoder, and what else in it changes the encoder's function.

A file's tensors are named by their whole path, containers included, so ``{"teacher": {"backbone.conv1.weight": ...}}``
is read as ``teacher.backbone.conv1.weight``, and a candidate is a prefix under which all of the encoder is.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..util.errors import InvalidValue
from . import encoders, preprocessing
from .candidates import BRANCHES, HEAD, Candidate, Layout, candidates, not_numbers, shared, tensors
from .pretrained import UNUSED, Normalization

_ROLES = {
    role: re.compile(pattern)
    for role, pattern in {
        "query": r"(\w+_)?(q|query)",
        "key": r"(\w+_)?(k|key)",
        "base": r"base_encoder",
        "dual": r"\w+_dual",
        "ema": r"(\w+_)?(ema|averaged|swa)(_\w+)?",
        **{word: rf"{word}(_\w+)?|\w+_{word}" for word in ("online", "target", "teacher", "student", "momentum")},
    }.items()
}
_PREFERRED = {
    ("query", "key"): "MoCo is evaluated by its query encoder",
    ("key", "query"): "DynACL is evaluated by encoder_k",  # and has several BatchNorms, as MoCo has not
    ("online", "target"): "BYOL is evaluated by its online network",
    ("base", "momentum"): "MoCo v3 is evaluated by its base encoder",
    ("", "momentum"): "solo-learn and lightly evaluate the backbone that was trained",
    ("teacher", "student"): "DINO and iBOT are evaluated by their teacher",
    ("dual", ""): "RobustSSL_Benchmark takes state_dict_dual, with two BatchNorms, where a file has it",
    ("ema", ""): "timm and torchvision evaluate the moving average",
}
"""Of two encoders in one file, that of the first role is taken; "" has none of these roles."""
_SOLO_LEARN = {"backbone_args", "method_kwargs", "num_large_crops", "proj_hidden_dim", "knn_eval", "cifar"}
"""Hyper-parameters of solo-learn, and of DeACL, which is built on it."""
EXPORTED = "rossbench"
"""Names what a file of ``rossbench export`` says of its encoder."""


@dataclass(frozen=True)
class Fit:
    """What a file says of an encoder."""

    tensors: dict[str, Tensor]
    """The backbone's state dict, float32, with BatchNorm's counters where the file has them; of ACL's two BatchNorms
    both, see encoders.add_clean_branches."""
    normalization: Normalization | None
    account: dict[str, Any]
    """prefix, dropped, notes; see PretrainedEncoder."""


def fit(
    name: str,
    backbone: nn.Module,
    content: object,
    normalization: Normalization | None = None,
    bn: str | None = None,
    prefix: str | None = None,
) -> Fit:
    """The encoder ``name`` of a file's content, whole; InvalidValue if it is not there, or there is no saying which.

    What the user says of a file, or None: its normalization; ``bn``: a key of BRANCHES; ``prefix``: of the encoder's
    names, or any part of it between dots.
    """
    exported = content.get(EXPORTED) if isinstance(content, Mapping) else None
    meant = exported.get("encoder", name) if isinstance(exported, Mapping) else name
    if meant != name:
        raise InvalidValue(f"expected --encoder {meant}, as which it was exported, got {name}")
    found = dict(tensors(content))
    if not found:
        keys = ", ".join(map(str, content)) if isinstance(content, Mapping) else ""
        got = type(content).__name__ + (f" of {keys}"[:200] if keys else "")
        raise InvalidValue(f"expected a state dict, names with tensors, got {got}")
    pairs = preprocessing.normalizers(found)
    explained = {key for pair in pairs.values() for key in pair.values()}
    if normalization is not None:
        explained |= {key for key in found if preprocessing.is_before(key, found[key])}
    read = candidates(Layout(backbone), found, BRANCHES[bn or "adversarial"], explained)
    asked = read if prefix is None else _named(prefix, read)
    whole = [one for one in asked if one.whole]
    if not whole:
        raise InvalidValue(_mismatch(name, max(asked, key=lambda one: len(one.keys)), found, content))
    chosen, notes = _chosen(whole, found)
    clean = _clean(chosen, backbone, found)
    notes += _stem(name, content) + _branches(chosen, bn, bool(clean))
    others = tuple(one.prefix for one in read if one.whole and not chosen.prefix.startswith(one.prefix))
    own = {parent: pair for parent, pair in pairs.items() if not f"{parent}.".startswith(others)}
    known, used, said = preprocessing.normalization(own, found, chosen.prefix, normalization)
    beside = sorted(found.keys() - chosen.keys.values() - chosen.unused - used)
    beside = [key for key in beside if not key.startswith(others) and not key.endswith(UNUSED)]
    if normalization is None:
        preprocessing.refuse_others(chosen.prefix, {key: found[key] for key in beside})
    if prefix is None:
        _refuse_unexplained(chosen, [key for key in beside if key not in explained], found)
    second = {encoders.clean_name(own): found[key] for own, key in clean.items()}
    state, lossy = _checked(chosen.tensors(found) | second)
    dropped = _dropped(chosen, others, [key for key in found if key not in used and key not in clean.values()])
    return Fit(state, known, {"prefix": chosen.prefix, "dropped": dropped, "notes": [*notes, *said, *lossy]})


# --- which encoder ------------------------------------------------------------------------------------------


def _named(prefix: str, found: list[Candidate]) -> list[Candidate]:
    """The candidates that --encoder-prefix means: of that name, else ending in it, else with it among their parts."""
    wanted = prefix.strip(".")
    tests = (
        lambda title: title == wanted,
        lambda title: f".{title}".endswith(f".{wanted}"),
        lambda title: f".{wanted}." in f".{title}.",
    )
    for among in ([one for one in found if one.whole], found):
        for test in tests:
            meant = [one for one in among if test(one.prefix.removesuffix("."))]
            if meant:
                return meant
    known = [one.title for one in found if one.whole]
    raise InvalidValue(f"expected --encoder-prefix of {_listed(known)}, got {prefix!r}")


def _chosen(whole: list[Candidate], found: Mapping[str, Tensor]) -> tuple[Candidate, list[str]]:
    """The candidate that its dialect says, and what to say of it; InvalidValue where no rule decides."""
    groups: list[list[Candidate]] = []
    for one in whole:  # equal ones are one: a network saved under two names
        same = next((group for group in groups if _equal(group[0], one, found)), None)
        groups.append([one]) if same is None else same.append(one)
    for group in groups:
        others = [other for other in groups if other is not group]
        reasons = [_reason(group, other) for other in others]
        if all(reasons):
            notes = [f"{_listed([one.title for one in group], 'and')} are equal"] * (len(group) > 1)
            rest = _listed(one.title for other in others for one in other)
            why = f"{_listed(dict.fromkeys(reasons), 'and')}; --encoder-prefix takes another"
            return group[0], notes + [f"taken: {group[0].title}, not {rest} ({why})"] * bool(others)
    differ = f"{len(groups)} that differ: {_listed(one.title for one in whole)}"
    raise InvalidValue(f"expected one encoder, got {differ}; name --encoder-prefix")


def _equal(one: Candidate, other: Candidate, found: Mapping[str, Tensor]) -> bool:
    for name in one.layout.expected:
        pair = [found[candidate.keys[name]] for candidate in (one, other)]
        if any(map(not_numbers, pair)) or pair[0].dtype != pair[1].dtype or not torch.equal(*pair):
            return False
    return True


def _reason(group: list[Candidate], other: list[Candidate]) -> str:
    """Why the first is taken and not the other; "" if there is no reason."""
    for one, rival in product(group, other):
        roles = _roles(one.prefix.split("."), rival.prefix.split("."))
        if roles in _PREFERRED and (set(roles) != {"query", "key"} or (roles[0] == "key") == bool(one.branches)):
            return _PREFERRED[roles]
    return ""


def _roles(one: list[str], other: list[str]) -> tuple[str, str]:
    """The roles of two prefixes, by the parts in which they differ."""
    start = shared(one, other)
    end = shared(one[start:][::-1], other[start:][::-1])

    def role(parts: list[str]) -> str:
        differing = parts[start : len(parts) - end]
        return next((role for role, pattern in _ROLES.items() if any(map(pattern.fullmatch, differing))), "")

    return role(one), role(other)


def _clean(chosen: Candidate, backbone: nn.Module, found: Mapping[str, Tensor]) -> dict[str, str]:
    """The clean BatchNorms beside adversarial ones that are taken, if they are whole, in layers that can be dual."""
    clean, norms = chosen.clean(), {own.rpartition(".")[0] for own in chosen.others}
    expected = {own: t for own, t in chosen.layout.expected.items() if own.rpartition(".")[0] in norms}
    whole = all(own in clean and found[clean[own]].shape == tensor.shape for own, tensor in expected.items())
    plain = all(type(backbone.get_submodule(norm)) is encoders.BatchNorm2d for norm in norms)
    return clean if whole and plain else {}


def _branches(chosen: Candidate, bn: str | None, has_clean: bool) -> list[str]:
    """What to say of the BatchNorm that is taken; InvalidValue where one is asked for and there is no choice."""
    if not chosen.branches:
        if bn is not None:
            raise InvalidValue(f"expected several BatchNorms in a layer for --encoder-bn {bn}, got one")
        return []
    other = "adversarial" if bn == "clean" else "clean"
    taken, *names = (name or "the plain one" for name in (chosen.branch, *sorted(chosen.branches)))
    said = f"BatchNorm: {bn or 'adversarial'}, {taken} of {_listed(names, 'and')}"
    kept = "; the clean one is kept for finetuning.trades_batch_norm=dual" * has_clean
    return [f"{said} (--encoder-bn {other} takes another){kept}"]


# --- what is taken and what is not --------------------------------------------------------------------------


def _checked(taken: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors in float32, counters as they are, and what that loses. InvalidValue for what are no weights."""
    state, kinds, lossy = {}, set(), False
    for name, tensor in taken.items():
        if name.endswith(UNUSED):
            if tensor.numel() == 1 and not not_numbers(tensor):
                state[name] = tensor.reshape(()).long()
            continue
        got = not_numbers(tensor)
        if got or not tensor.is_floating_point():
            got = got or str(tensor.dtype).removeprefix("torch.")
            raise InvalidValue(f"expected dense floating-point weights, got {got} in {name}")
        state[name] = tensor.float()
        if name.endswith("running_var") and (state[name] < 0).any():
            least = float(state[name].min())
            raise InvalidValue(f"expected variances of 0 or more, got {least:.3g} in {name}")
        if tensor.dtype is not torch.float32:
            kinds.add(str(tensor.dtype).removeprefix("torch."))
            lossy = lossy or not torch.equal(state[name].double(), tensor.double())
    return state, [f"{' and '.join(sorted(kinds))} as float32{', rounded' * lossy}"] * bool(kinds)


def _refuse_unexplained(chosen: Candidate, beside: Iterable[str], found: Mapping[str, Tensor]) -> None:
    """InvalidValue for a tensor beside the encoder that is of no head, no training and no other encoder."""
    path, strange = chosen.prefix.split("."), []
    for key in beside:
        parts = key.split(".")
        part = parts[min(shared(parts, path), len(parts) - 1)]
        known = any(pattern.fullmatch(part) for pattern in (HEAD, *_ROLES.values()))
        if not (known or _OPTIMISER.fullmatch(parts[-1])):
            strange.append(f"{key} {list(found[key].shape)}")
    if strange:
        more = f" and {len(strange) - 2} more" if len(strange) > 2 else ""
        raise InvalidValue(
            f"expected nothing that may change features beside the encoder, {chosen.title}, got "
            f"{', '.join(strange[:2])}{more}; if it has no part in them, --encoder-prefix {chosen.title} drops it; "
            "if it has, give the module to rossbench.evaluate_encoder"
        )


_OPTIMISER = re.compile(r"(\w+_)?(exp_avg|square_avg|momentum_buffer)\w*|step")


def _dropped(chosen: Candidate, others: Iterable[str], keys: Iterable[str]) -> list[str]:
    """What is not used, in parts as large as the encoder, and how many tensors each has."""
    depth, counts, taken = chosen.prefix.count("."), Counter[str](), set(chosen.keys.values())
    for key in keys:
        if key in taken or key.endswith(UNUSED):
            continue
        other = next((prefix for prefix in others if key.startswith(prefix)), "")
        parts = key.split(".")[: other.count(".") or depth + key.startswith(chosen.prefix)]
        counts["other BatchNorms" if key in chosen.unused else ".".join(parts)] += 1
    return [f"{part} ({count} tensor{'s' * (count > 1)})" for part, count in counts.items()]


# --- what the container says -------------------------------------------------------------------------------


def _stem(name: str, content: object) -> list[str]:
    """What to say of a padding that the tensors do not show; InvalidValue where the container shows it is another."""
    if not name.split(",")[0].endswith(":cifar") or not isinstance(content, Mapping):
        return []
    if _is_solo_learn(content):
        raise InvalidValue(
            f"expected --encoder {name}-pad2, solo-learn's stem of padding 2, got {name}; "
            "of another library's file with such hyper-parameters give the state_dict alone"
        )
    lightning = any(str(key).startswith("pytorch-lightning") for key in content)
    return [f"solo-learn and DeACL, which save such containers, have the stem of {name}-pad2"] * lightning


def _is_solo_learn(content: object) -> bool:
    """Whether it is Lightning's container with solo-learn's hyper-parameters around ``backbone.*``."""
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        return False
    settings = _settings(content.get("hyper_parameters"))
    marked = settings & _SOLO_LEARN or ("method" in settings and settings & {"backbone", "encoder"})
    return bool(marked) and any(str(key).startswith(("backbone.", "encoder.")) for key in content["state_dict"])


def _settings(content: object, depth: int = 0) -> set[str]:
    if depth > 4 or not isinstance(content, (Mapping, argparse.Namespace)):
        return set()
    pairs = content if isinstance(content, Mapping) else vars(content)
    return set(map(str, pairs)).union(*(_settings(value, depth + 1) for value in pairs.values()))


def _listed(names: Iterable[str], word: str = "or") -> str:
    *some, last = list(names) or ["nothing"]
    return f"{', '.join(some)} {word} {last}" if some else last


def _mismatch(name: str, best: Candidate, found: Mapping[str, Tensor], content: object) -> str:
    expected = best.layout.expected
    other = [f"{key} {list(found[best.keys[key]].shape)} for {list(expected[key].shape)}" for key in best.misshapen]
    kinds = (("missing", best.missing), ("of another shape", other), ("unknown", best.strange))
    told = [f"{len(keys)} {kind} ({', '.join(keys[:2])}{', ...' * (len(keys) > 2)})" for kind, keys in kinds if keys]
    hint, base = "", encoders.parts(name)[0]
    if "conv1.weight" in best.misshapen:
        kernel = [list(one["conv1.weight"].shape[2:]) for one in (best.tensors(found), expected)]
        if kernel == [[3, 3], [7, 7]]:
            stems = list(encoders.PADDINGS)[_is_solo_learn(content) :]
            hint = f"; that is the CIFAR stem, --encoder {_listed(f'{base}:{stem}' for stem in stems)}"
        elif kernel == [[7, 7], [3, 3]]:
            hint = f"; that is the ImageNet stem, --encoder {base}"
    elif any(preprocessing.is_before(f"{best.prefix}{key}", found[f"{best.prefix}{key}"]) for key in best.strange):
        hint = "; of what comes before the encoder, give mean and std as --encoder-normalization"
    elif not (best.missing or best.misshapen):
        hint = (
            "; where the encoder does not use them, save its state_dict without; where it does, give its module to "
            "rossbench.evaluate_encoder"
        )
    if len(best.missing) == len(expected):
        parts = list(dict.fromkeys(key.split(".")[0] for key in found))
        hint = f"; the file holds {', '.join(parts[:6])}{', ...' * (len(parts) > 6)}"
    return f"expected the {len(expected)} tensors of {name}, got {'; '.join(told)}{hint}"
