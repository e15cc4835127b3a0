"""Published encoders by name: the table, runs of their files, and their runs beside the published numbers."""

import dataclasses
import hashlib
import importlib.metadata
import itertools
import json

import pytest
import torch
from test_dialects import IMAGENET, NAME, Net
from test_published import matrix_of, record

from rossbench import load_classifier, registry
from rossbench.attacks.table import ATTACKS
from rossbench.config.recipes import FIELD_FULL, FIELD_LINEAR, FINETUNINGS
from rossbench.config.scenarios import Scenario
from rossbench.config.zoo import PRESETS
from rossbench.data import datasets
from rossbench.models import encoders
from rossbench.registry import KnownEncoder, PublishedNumbers, register_encoder
from rossbench.report import formats, page, zoo
from rossbench.store import artifacts, results
from rossbench.store.records import Audit, Verdict
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue, UnknownName
from rossbench.util.values import with_fields

pytestmark = pytest.mark.usefixtures("own_registry")
EPSILON = 8 / 255


def known(name="tiny-digits", **changes):
    numbers = PublishedNumbers("digits", "field-slf", "a made-up paper", clean=70, pgd20=20, autoattack=10)
    given = {"paper": "Made-up et al.", "source": "digits", "encoder": NAME, "normalization": "imagenet"}
    own = {"field-slf": {"epochs": 1, "milestones": (1,)}}
    return KnownEncoder(name, **{**given, "own": own, "published": (numbers,), **changes})


# --- the table ---------------------------------------------------------------------------------------------


def test_the_published_numbers_are_those_of_the_field():
    """AutoAttack and clean, of a cell in each row and column; and how many there are."""
    found = {
        (one.name, numbers.target, numbers.finetuning.removeprefix("field-")): (numbers.autoattack, numbers.clean)
        for one in registry.encoders()
        for numbers in one.published
        if "RobustSSL" in numbers.source
    }
    assert found["acl-cifar10", "cifar10", "slf"] == (39.17, 78.22)
    assert found["advcl-cifar10", "cifar10", "alf"] == (44.05, 80.04)
    assert found["a-infonce-cifar100", "cifar100", "aff"] == (25.11, 58.08)
    assert found["dynacl-cifar10", "stl10", "aff"] == (35.25, 63.53)
    assert found["dynacl++-stl10", "stl10", "slf"] == (47.24, 70.91)
    assert found["air-cifar100", "stl10", "slf"] == (23.24, 48.20)
    assert found["air++-cifar100", "cifar100", "slf"] == (20.61, 53.93)
    assert found["deacl-cifar10", "cifar10", "aff"] == (44.96, None)
    # Columns of AutoAttack, added up by hand: SLF, ALF, AFF on CIFAR-10.
    for preset, total in (("slf", 308.86), ("alf", 315.95), ("aff", 351.17)):
        names = ("acl", "advcl", "a-infonce", "dynacl", "dynacl++", "air", "air++")
        assert sum(found[f"{one}-cifar10", "cifar10", preset][0] for one in names) == pytest.approx(total)
    assert len(found) == 7 * 5 + 5 * 2 + 5 + 5 + 3  # on CIFAR, to STL-10 from CIFAR-10 and -100, on STL-10, two alone


def test_what_is_doubtful_says_why():
    doubtful = {
        (one.name, numbers.finetuning) for one in registry.encoders() for numbers in one.published if numbers.doubtful
    }
    assert doubtful == {
        *(("deacl-cifar10", f"field-{preset}") for preset in ("slf", "aff")),
        *(("air-cifar10", f"field-{preset}") for preset in ("alf", "aff")),
        ("air++-cifar10", "field-aff"),
    }
    assert "by a spelling" in registry.encoder("dynacl-rcs-cifar10").remark


LINEAR, FULL = dataclasses.asdict(FIELD_LINEAR), dataclasses.asdict(FIELD_FULL)
DUAL = {"trades_batch_norm": "dual"}
SETTINGS = [
    ("acl-cifar10", "cifar10-to-cifar10", "field-slf", {}),
    ("acl-cifar10", "cifar10-to-cifar100", "field-alf", {"learning_rate": 0.05}),
    ("acl-cifar10", "cifar10-to-stl10", "field-slf", {"batch_size": 128}),
    ("acl-cifar100", "cifar100-to-cifar100", "field-aff", {"epochs": 100, "milestones": (40, 60), **DUAL}),
    ("acl-cifar10", "cifar10-to-stl10", "field-aff", {"epochs": 100, "milestones": (40, 60)}),
    ("advcl-cifar100", "cifar100-to-cifar100", "field-aff", {}),
    ("air-stl10", "stl10-to-stl10", "field-aff", DUAL),
    ("dynacl-stl10", "stl10-to-stl10", "field-slf", {"learning_rate": 0.1}),
    ("dynacl-cifar10", "cifar10-to-cifar10", "field-aff", DUAL),
    ("advcl-cifar10", "cifar10-to-stl10", "field-slf", {"milestones": (15, 20)}),
    ("deacl-cifar10", "cifar10-to-cifar10", "field-alf", {"milestones": (15, 20)}),
    ("air-cifar10", "cifar10-to-cifar10", "field-slf", {"epochs": 5}),
    ("air++-cifar100", "cifar100-to-cifar100", "field-alf", {"learning_rate": 0.1}),
    ("air++-cifar100", "cifar100-to-cifar100", "field-slf", {"learning_rate": 0.09}),
]


@pytest.mark.parametrize(("name", "scenario", "preset", "own"), SETTINGS)
def test_a_method_is_finetuned_by_its_own_settings_and_tested_as_the_field_tests(name, scenario, preset, own):
    one = registry.encoder(name)
    found = one.finetuned(registry.get(scenario), preset)
    expected = {**(FULL if preset == "field-aff" else LINEAR), **own}
    assert dataclasses.asdict(found.recipe.finetuning) == expected
    assert found.encoder == one.encoder
    assert found.eval_epsilons == (0, EPSILON)
    assert (found.recipe.evaluation.attack.steps, found.recipe.evaluation.attack.length(EPSILON)) == (20, 2 / 255)
    assert found.pixels == (96 if name.endswith("stl10") else 32)


def test_zoo_lists_all_within_80_columns_and_shows_all_of_one(rossbench):
    register_encoder(known(sha256="ab" * 32, remark="Only a test."))
    code, out, _ = rossbench("zoo")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for one in registry.encoders():
        assert f" {one.name} " in out
    assert "abababa" in out
    code, out, _ = rossbench("zoo", "deacl-cifar10")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(part for line in out.splitlines() for part in line.replace("│", " ").split())
    for said in ("ECCV 2022", "resnet18:cifar-pad2", "github.com/pantheon5100/DeACL", "80.82", "43.27", "DOUBTFUL"):
        assert said in words
    assert [one["name"] for one in json.loads(rossbench("zoo", "--json")[1])] == [e.name for e in registry.encoders()]
    shown = json.loads(rossbench("zoo", "tiny-digits", "--json")[1])
    assert (shown["remark"], shown["published"][0]["pgd20"]) == ("Only a test.", 20)


# --- registering -------------------------------------------------------------------------------------------


OWN = (
    "from rossbench.registry import KnownEncoder, register_encoder\n"
    "register_encoder(KnownEncoder('mine', 'A paper', source='digits', encoder='conv3'))\n"
)


def test_files_and_plugins_register_encoders(rossbench, tmp_path, monkeypatch):
    (tmp_path / "my.py").write_text(OWN)
    code, out, _ = rossbench("zoo", "mine", "--scenario-file", "my.py")
    assert (code, "A paper" in out) == (0, True)
    del registry._encoders["mine"]
    (tmp_path / "zoo_plugin.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("zoo", "zoo_plugin", "rossbench.scenarios")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    registry._load_plugins.cache_clear()
    assert registry.encoder("mine").paper == "A paper"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: register_encoder("acl"), "register_encoder: expected a KnownEncoder, got 'acl'"),
        (lambda: register_encoder(known("acl-cifar10")), "encoder 'acl-cifar10' is registered already"),
        (lambda: known("A B"), "KnownEncoder.name: expected lower-case letters"),
        (lambda: known(encoder="a model"), "KnownEncoder.encoder: expected conv3, a timm model, or"),
        (lambda: known(sha256="abc"), "KnownEncoder.sha256: expected 64 hex digits, got 'abc'"),
        (lambda: known(source="digitz"), "unknown data set 'digitz'; did you mean digits"),
        (lambda: known(normalization="image"), "KnownEncoder.normalization: expected none, imagenet, cifar10 or R,G,B"),
        (lambda: known(own={"slf": {}}), 'KnownEncoder.own: expected "PRESET" or "TARGET PRESET"'),
        (lambda: known(own={"digitz field-slf": {}}), "KnownEncoder.own: expected"),
        (
            lambda: known(own={"field-slf": {"epoch": 3}}),
            "unknown field 'Finetuning.epoch'; known: attack",
        ),
        (lambda: known(own={"field-slf": {"epochs": 0}}), "Finetuning.epochs: expected a number of at least 1, got 0"),
        (lambda: known(preset="field-sl"), "unknown KnownEncoder.preset 'field-sl'; did you mean field-slf"),
        (lambda: PublishedNumbers("digits", "field-slf", "x", clean=101), "at most 100, got 101"),
        (lambda: registry.encoder("acl-cifar"), "unknown encoder of the zoo 'acl-cifar'; did you mean acl-cifar10"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_in_one_line(make, said):
    with pytest.raises((InvalidValue, UnknownName)) as caught:
        make()
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# --- runs --------------------------------------------------------------------------------------------------


def acl_file(folder):
    """A small file in ACL's layout: two BatchNorms, ImageNet's normalization, the optimizer beside it."""
    net = Net(2, shortcut="downsample.conv", normalize=IMAGENET)
    torch.save({"state_dict": net.state_dict(), "optim": {"state": {0: torch.ones(3)}}}, folder / "acl.pt")
    return folder / "acl.pt"


def known_of_low(path):
    presets = ("field-slf", "field-alf")
    numbers = known().published[0]
    both = tuple(dataclasses.replace(numbers, target="digits-low", finetuning=one) for one in presets)
    own = {preset: {"epochs": 1, "batch_size": 600} for preset in presets}
    hashed = hashlib.sha256(path.read_bytes()).hexdigest()
    return known("tiny-low", source="digits-low", own=own, published=both, sha256=hashed)


def test_one_command_runs_the_scenario_and_compare_sets_it_beside_the_published_numbers(rossbench, tmp_path):
    path = acl_file(tmp_path)
    register_encoder(known_of_low(path))
    given = ["--zoo", "tiny-low", "--encoder-weights", path, "--device", "cpu", "--no-audit"]
    code, out, err = rossbench("run", *given)
    assert (code, err) == (0, "")
    assert "BatchNorm: adversarial" in out
    (matrix,) = results.load(Store(tmp_path / "rossbench-store"))
    assert (matrix.zoo, matrix.name, matrix.columns) == ("tiny-low", "digits-low-to-low", [0, EPSILON])
    spec = matrix.records[-1].spec
    assert (spec.finetune.pretrain.encoder, spec.finetune.epsilon, spec.recipe.attack.steps) == (NAME, 0, 20)
    assert spec.finetune.recipe.optimizer == "sgd"
    code, out, err = rossbench("compare")
    assert (code, err) == (0, "")
    assert "tiny-low on digits-low, field-slf" in out
    assert "NOT COMPARABLE" not in out
    assert max(map(len, out.splitlines())) <= 80
    for number in ("70.00", "20.00", "10.00", f"{matrix.value((0, 0), EPSILON, 'top1'):.2f}"):
        assert number in out
    plainly = ["--encoder", NAME, "--finetuning", "field-slf", "--finetune-epochs", 1, "--encoder-weights", path]
    run = ["run", "digits-low-to-low", *plainly, "--set", "finetuning.batch_size=600", "--device", "cpu", "--no-audit"]
    assert rossbench(*run)[0] == 0
    assert rossbench("compare") == (code, out, err)


def test_aff_goes_through_both_batch_norms_of_an_acl_file_and_is_tested_through_the_adversarial_one(
    rossbench, tmp_path
):
    path = acl_file(tmp_path)
    own = {"field-aff": {"epochs": 2, "batch_size": 50, "trades_batch_norm": "dual"}}
    register_encoder(known("tiny-low", source="digits-low", own=own, published=()))
    few = ["--train-limit", 50, "--test-limit", 40, "--device", "cpu", "--set", "finetuning.attack.steps=2"]
    given = ["--zoo", "tiny-low", "--encoder-weights", path, "--finetuning", "field-aff", *few]
    code, out, err = rossbench("run", *given, "--encoder-bn", "clean")
    assert (code, err.count("\n")) == (2, 1)
    assert "expected an encoder with a clean and an adversarial BatchNorm" in err
    code, out, err = rossbench("run", *given)
    assert (code, err) == (0, "")
    assert "the clean one is kept for finetuning.trades_batch_norm=dual" in out
    assert "finetuned in full" in out
    store = Store(tmp_path / "rossbench-store")
    (one,) = results.load(store)
    assert one.audits[0, EPSILON].verdicts
    spec = one.cells[0, EPSILON, 0].spec
    tuned, was = load_classifier(store, one.name, (0, EPSILON)), artifacts.load_encoder(store, spec.finetune.pretrain)
    for before, after in zip(was.modules(), tuned.encoder.modules(), strict=True):
        if isinstance(after, encoders.DualBatchNorm2d):
            means = before.running_mean, after.running_mean, after.clean.running_mean
            assert not any(torch.equal(*pair) for pair in itertools.combinations(means, 2))
    predictions, _ = artifacts.load_predictions(store, spec)
    images = datasets.load("digits-low", "test", 40).images / 255
    assert torch.equal(tuned(images).argmax(1), predictions[:, 0])


def test_options_beside_zoo_are_run_and_are_another_protocol(rossbench, tmp_path):
    path = acl_file(tmp_path)
    register_encoder(known_of_low(path))
    few = ["--test-limit", 20, "--train-limit", 20, "--set", "finetuning.attack.steps=1", "--finetuning", "field-alf"]
    given = ["--zoo", "tiny-low", "--encoder-weights", path, "--device", "cpu", "--no-audit", *few]
    assert rossbench("run", "digits-low-to-low", *given)[0] == 0
    for names in ((), ("tiny-low",), ("digits-low-to-low",)):
        code, _, err = rossbench("compare", *names)
        assert code == 2
        assert "compare: expected runs under the published protocol, got tiny-low on digits-low, field-alf: " in err
        assert "test_limit 20 (published: all)" in err
        assert "finetuning.attack.steps 1 (published: 10)" in err
    code, out, err = rossbench("compare", "tiny-low", "--show-reduced")
    assert (code, err) == (0, "")
    assert "NOT COMPARABLE: tiny-low on digits-low, field-alf: " in out
    assert "published" in out
    code, _, err = rossbench("compare", "acl-cifar10")
    assert (code, err.count("\n")) == (2, 1)
    assert "expected runs with --zoo acl-cifar10 in rossbench-store, got none" in err


REFUSED = [
    (["--zoo", "tiny-digit"], "unknown encoder of the zoo 'tiny-digit'; did you mean tiny-digits"),
    (
        ["--zoo", "tiny-digits", "--encoder-weights", "page.pt"],
        "page.pt: expected weights, written by torch.save or as",
    ),
    (["--zoo", "tiny-digits", "--encoder-weights", "page.pt"], "got an HTML page, as a download that needs a login"),
    (["--zoo", "tiny-digits", "--encoder-weights", "cut.pt"], "cut.pt: expected weights"),
    (["--zoo", "tiny-digits", "--encoder-weights", "cut.pt"], "its download may not have ended"),
    (["--zoo", "tiny-digits", "--encoder-weights", "acl.pt"], "acl.pt: expected a file of SHA-256 abababab"),
    (
        ["--zoo", "tiny-digits"],
        "--zoo tiny-digits: expected its file as --encoder-weights FILE, got none; offered at: ",
    ),
    (["--zoo", "tiny-digits", "--encoder-weights", "hf-hub:timm/x"], "--encoder-weights FILE, got hf-hub:timm/x"),
    (
        ["digits-low-to-high", "--zoo", "tiny-digits", "--encoder-weights", "acl.pt"],
        "a scenario from digits, got digits-l",
    ),
    (["--zoo", "plain-digits", "--encoder-weights", "acl.pt", "--encoder-normalization", "none"], "as in the file"),
    (["--zoo", "plain-digits", "--encoder-weights", "acl.pt", "--epochs", 3], "which replaces pretraining"),
    ([], "expected the NAME of a scenario or suite, or --zoo and the name of a known encoder"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_what_is_not_the_file_gets_one_line(arguments, said, rossbench, tmp_path):
    path = acl_file(tmp_path)
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-2000])
    register_encoder(known(sha256="ab" * 32))
    register_encoder(known("plain-digits"))
    code, _, err = rossbench("run", *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_options_beside_zoo_win(rossbench, tmp_path):
    register_encoder(known())
    path = acl_file(tmp_path)
    options = ["--attack", "autoattack-standard", "--set", "finetuning.learning_rate=0.5", "--finetune-epochs", 7]
    code, out, _ = rossbench(
        "show", "--zoo", "tiny-digits", "--encoder-weights", path, "--encoder-bn", "clean", *options
    )
    assert code == 0
    assert "BatchNorm: clean" in out
    shown = json.loads(rossbench("show", "--zoo", "tiny-digits", "--encoder-weights", path, *options, "--json")[1])
    (scenario,) = shown["scenarios"]
    finetuning, attack = scenario["recipe"]["finetuning"], scenario["recipe"]["evaluation"]["attack"]
    assert (finetuning["learning_rate"], finetuning["epochs"], finetuning["milestones"]) == (0.5, 7, [1])
    assert (attack["name"], attack["norm"]) == ("autoattack-standard", "Linf")


# --- made-up records ---------------------------------------------------------------------------------------


def matrix(one, finetuning="field-slf", values=(70.0, 20.0), target=None, **changes):
    """A run of a known encoder that gave these numbers, with fields changed by their paths from the scenario."""
    target = target or one.source
    base = Scenario("a-run", one.source, target, size=None if target == one.source else 32)
    scenario = with_fields(one.finetuned(base, finetuning), {"train_epsilons": (0,), "weights": "0" * 16, **changes})
    cells = {}
    for (place, spec), value in zip(scenario.cells.items(), values, strict=True):
        made = record(spec, value)
        cells[place] = dataclasses.replace(made, n=10_000, robust_right=made.top1_right)
    return matrix_of(scenario, cells, zoo=one.name)


AUTOATTACK = dataclasses.replace(ATTACKS["autoattack-standard"].defaults, norm="Linf")


def test_clean_pgd_and_autoattack_of_two_runs_stand_beside_the_published_values():
    one = register_encoder(known("net", source="cifar10", encoder="resnet18:cifar"))
    numbers = PublishedNumbers("cifar10", "field-slf", "another", clean=70, autoattack=12, doubtful="no seed is named")
    old = PublishedNumbers("cifar10", "field-slf", "a third", clean=1, unlike="a larger batch")
    one = dataclasses.replace(one, published=(numbers, old))
    registry._encoders["net"] = one
    changes = {"recipe.evaluation.attack": AUTOATTACK, "recipe.evaluation.attacked": "correct"}
    runs = [matrix(one, values=(71, 20)), matrix(one, values=(71, 10.5), **changes)]
    spec = runs[0].audit_specs()[0.0, 0.0]
    runs[0].audits[0.0, 0.0] = Audit(spec, (Verdict("x", "warn", "", ""),), 5, 1.0, "", {})
    (found,) = zoo.compare(runs)
    assert found.refusal is None
    shown = zoo.table(found, 1.0)
    assert shown.lines == [
        (["net", "ours"], ["71.00", "20.00", "10.50"]),
        (["→ cifar10", "published ?"], ["70.00", "—", "12.00"]),
        (["field-slf", "difference"], ["+1.00", "—", "-1.50"]),
    ]
    assert "DOUBTFUL (?), another: no seed is named" in shown.notes
    assert "not compared: a third: published for a larger batch" in shown.notes
    assert "1 of 2 cells within 1 points" in shown.caption
    assert "audit: warn 1" in shown.caption
    assert len(zoo.table(found, 1.0, reduced=True).lines) == 5
    assert "AA" in formats.to_markdown(shown)


UNLIKE = [
    ({"recipe.finetuning.epochs": 3}, "finetuning.epochs 3 (published: 25)"),
    ({"recipe.finetuning.optimizer": "adam"}, "finetuning.optimizer adam (published: sgd)"),
    ({"test_limit": 200}, "test_limit 200 (published: all)"),
    ({"train_limit": 200}, "train_limit 200 (published: all)"),
    ({"encoder": "resnet18:cifar-pad2"}, "encoder resnet18:cifar-pad2 (published: resnet18:cifar)"),
    ({"size": 64}, "size 64 (published: "),
]


@pytest.mark.parametrize(("changes", "said"), UNLIKE)
def test_another_protocol_is_refused_with_its_fields(changes, said):
    (found,) = zoo.compare([matrix(registry.encoder("acl-cifar10"), **changes)])
    assert said in found.refusal
    assert zoo.table(found, 2).notes[0].startswith("NOT COMPARABLE: acl-cifar10 on cifar10, field-slf: ")
    assert next(cells for _, cells in zoo.table(found, 2, reduced=True).lines)[:2] == ["70.00", "20.00"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eval_epsilons": (0, 4 / 255)}, "evaluation epsilon 4/255 (published: 8/255)"),
        ({"recipe.evaluation.attack.steps": 10}, "evaluation.attack.steps 10 (published: 20)"),
        ({"recipe.evaluation.attack.norm": "L2"}, "evaluation.attack.norm L2 (published: Linf)"),
        ({"recipe.evaluation.attack": dataclasses.replace(AUTOATTACK, norm="L2")}, "evaluation.attack.norm L2 (publ"),
    ],
)
def test_of_another_attack_the_clean_number_alone_is_compared(changes, said):
    (found,) = zoo.compare([matrix(registry.encoder("acl-cifar10"), **changes)])
    assert found.refusal is None
    assert found.ours == {"clean": 70}
    assert any(said in note for note in zoo.table(found, 2).notes)


def test_another_finetuning_epsilon_is_another_protocol_and_other_targets_have_no_numbers():
    acl = registry.encoder("acl-cifar10")
    (found,) = zoo.compare([matrix(acl, "field-alf", finetune_epsilons=(4 / 255,))])
    assert "finetuning epsilon 4/255 (published: 8/255)" in found.refusal
    (found,) = zoo.compare([matrix(acl, "field-slf", target="cifar100")])
    assert found.refusal == "acl-cifar10 on cifar100, field-slf: nothing is published of it"
    (found,) = zoo.compare([matrix(acl, "field-slf", target="stl10", values=(56.5, 30.0))])
    assert zoo.table(found, 2).lines[1][1] == ["56.50", "—", "27.52"]
    (found,) = zoo.compare([matrix(registry.encoder("rocl-cifar10"))])
    assert "no branch for RoCL" in found.refusal
    single = {"recipe.finetuning.trades_batch_norm": "single"}
    assert zoo.compare([matrix(acl, "field-aff")])[0].refusal is None
    assert "trades_batch_norm single (published: dual)" in zoo.compare([matrix(acl, "field-aff", **single)])[0].refusal


@pytest.mark.parametrize("kind", ["slf", "alf", "aff"])
def test_a_methods_own_finetuning_is_compared_with_what_was_published_for_it(kind):
    deacl = registry.encoder("deacl-cifar10")
    (found,) = zoo.compare([matrix(deacl, f"deacl-{kind}")])
    assert (found.preset, found.refusal) == (f"deacl-{kind}", None)
    assert [one.source.split()[0] for one in found.published] == ["README"]
    (found,) = zoo.compare([matrix(deacl, f"field-{kind}")])
    if kind == "alf":  # of which the leaderboard has no number
        assert "finetuning.trained linear (published: linear+statistics)" in found.refusal
    else:
        assert [one.doubtful != "" for one in found.published] == [True]
    (found,) = zoo.compare([matrix(deacl, f"deacl-{kind}", **{"recipe.finetuning.epochs": 3})])
    assert "finetuning.epochs 3 (published: 25)" in found.refusal


def test_seeds_and_weights_are_compared_apart_and_what_is_not_of_the_zoo_is_left_out():
    acl = registry.encoder("acl-cifar10")
    other = matrix(acl, weights="1" * 16)
    found = zoo.compare([matrix(acl), matrix(acl, seed=3), other, dataclasses.replace(other, zoo="")])
    assert [one.refusal for one in found] == [None] * 3
    assert [zoo.table(one, 2).caption.split("seed ")[1][0] for one in found] == ["0", "3", "0"]


def test_the_page_has_the_comparison_and_no_setting_of_an_attack_that_is_not_made():
    acl = registry.encoder("acl-cifar10")
    text = page.render([], [matrix(acl)], [], "now")
    assert "acl-cifar10 on cifar10, field-slf" in text
    assert "finetuning.trades_beta" not in text
    assert "finetuning.loss" not in text
    assert "finetuning.loss" in page.render([], [matrix(acl, "field-aff")], [], "now")


def test_every_preset_of_the_field_can_be_published():
    assert set(PRESETS) == {name for name in FINETUNINGS if not name.isupper()}
