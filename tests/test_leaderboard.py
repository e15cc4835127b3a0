"""The leaderboard as text and, where chromium is installed, driven in a browser; its entries and their commands."""

import base64
import dataclasses
import hashlib
import html
import json
import re
import shlex

import click
import pytest
import torch
from conftest import collapsed, tiny
from test_figures import contrast
from test_names import given, run_given
from test_page import CHROMIUM, CONTRAST, CREATED, Checker, browse, of_text

import rossbench as rossbench_
from rossbench import cli
from rossbench.models import checkpoints, encoders
from rossbench.report import leaderboard, templates
from rossbench.report.model import Model
from rossbench.runner import run as runner
from rossbench.runner.overrides import changed_scenarios
from rossbench.store import results
from rossbench.store.records import Verdict
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue

LOW, HIGH = "digits-low-to-low", "digits-low-to-high"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two models pretrained here and two encoders that were given, one as a file, on two tasks; another protocol."""
    root = tmp_path_factory.mktemp("board")
    runner.run_suite([tiny(LOW), tiny(HIGH, train_epsilons=(1,))], store=root / "store", device="cpu")
    torch.save(encoders.build("conv3", 16, seed=5).backbone.state_dict(), root / "mine.pt")
    one = checkpoints.read(str(root / "mine.pt"), "conv3", 16, ((0.5,) * 3, (0.25,) * 3))
    mine = {"weights": one.weights, "train_epsilons": (0,), "encoder_name": "mine v3"}
    recipe = tiny().recipe
    other = dataclasses.replace(recipe, evaluation=dataclasses.replace(recipe.evaluation, attacked="correct"))
    first = [tiny(LOW, seed=0, **mine), tiny(LOW, seed=1, **mine), tiny(HIGH, finetune_epsilons=(0, 0.5), **mine)]
    for some in (first, [tiny(LOW, recipe=other, **mine)]):
        runner.run_suite(some, encoders=[one], store=root / "store", device="cpu")
    run_given(root / "store", 2, "module", tiny(LOW))
    runner.audit([HIGH], store=root / "store", device="cpu")
    return root


@pytest.fixture(scope="module")
def matrices(root):
    return results.load(Store(root / "store"))


@pytest.fixture(scope="module")
def text(matrices):
    return leaderboard.render(matrices, CREATED)


def test_what_was_tested_otherwise_is_another_board(matrices):
    first, second = leaderboard.boards(matrices)
    assert [(board.number, len(board.entries)) for board in (first, second)] == [(1, 7), (2, 1)]
    names = {target: sorted(one.name for one in inside) for target, inside in first.targets.items()}
    assert names == {
        "digits-high": ["conv3 ε=1", "mine v3", "mine v3, finetuned ε=0.5"],
        "digits-low": ["conv3 ε=0", "conv3 ε=1", "mine v3", "module"],
    }
    (mine,) = (one for one in first.targets["digits-low"] if one.name == "mine v3")
    assert [one.seed for one in mine.matrices] == [0, 1]
    for column, score in mine.scores.items():
        rates = [record.robust_right / record.n for record in score.records]
        assert score.mean == pytest.approx(sum(rates) / 2)
        assert score.low <= min(score.mean, *rates) + 1e-9
        assert score.high >= max(score.mean, *rates) - 1e-9 or column
    assert first.settings["evaluation.attacked"] == "all"
    assert second.settings["evaluation.attacked"] == "correct"


def test_the_best_come_first_and_bold_is_beyond_noise(matrices):
    """A failed audit and a collapsed encoder take part in no comparison; a model without one epsilon has no mean."""
    board = leaderboard.boards(matrices)[0]

    def entry(right, verdict="pass", collapse=False):
        some = board.targets["digits-low"][0].matrix
        cells = {
            place: record and dataclasses.replace(record, robust_right=right.get(place[2], 0), n=1000, top1_right=0)
            for place, record in some.cells.items()
        }
        cells = {place: collapsed(record) if record and collapse else record for place, record in cells.items()}
        verdicts = (Verdict("a", verdict, "b", "c"),)
        audits = dict.fromkeys(some.rows, dataclasses.replace(audited, verdicts=verdicts))
        made = dataclasses.replace(some, cells={p: c for p, c in cells.items() if p[2] in right}, audits=audits)
        return Model(made, made.rows[0])

    audited = next(audit for one in matrices for audit in one.audits.values())
    good, equal, poor = entry({0: 990, 0.5: 900}), entry({0: 990, 0.5: 895}), entry({0: 985, 0.5: 100})
    failed, half = entry({0: 990, 0.5: 999}, "fail"), entry({0: 980})
    constant = entry({0: 990, 0.5: 998}, collapse=True)
    made = leaderboard.Board(1, (poor, half, equal, failed, constant, good))
    assert made.targets["digits-low"] == [failed, constant, good, equal, poor, half]
    assert [made.is_best(one, 0.5) for one in (failed, constant, good, equal, poor)] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert not any(made.is_best(one, 0) for one in made.entries)  # all are alike
    assert made.mean(half) is None
    assert made.mean(good) == 0.9


def test_each_command_repeats_its_numbers(matrices, root, monkeypatch, own_registry):
    """Parsed as a shell would, it names the cells that the numbers are of."""
    monkeypatch.chdir(root)
    some = [entry for board in leaderboard.boards(matrices) for entry in board.entries]
    for entry in (one for one in some if one.name != "module"):
        _, name, *arguments = shlex.split(entry.command)
        context = cli.cli.commands[name].make_context(name, arguments, parent=click.Context(cli.cli))
        scenarios = changed_scenarios(context.params["name"], context.params)
        source, norm = context.params["encoder_weights"], context.params["encoder_normalization"]
        if source:
            weights = checkpoints.read(source, "conv3", 16, norm).weights
            scenarios = [dataclasses.replace(one, weights=weights) for one in scenarios]
            assert {one.encoder_name for one in scenarios} == {"mine v3"}
        keys = {cell.key for one in scenarios for cell in one.cells.values()}
        assert keys == {record.key for score in entry.scores.values() for record in score.records}


def test_of_a_module_the_command_is_python(matrices, root):
    (entry,) = (one for board in leaderboard.boards(matrices) for one in board.entries if one.name == "module")
    command = entry.command.replace("seed=seed)", f"seed=seed, store={str(root / 'store')!r}, device='cpu')")
    places = {"module": given(2).encoder.backbone, "rossbench": rossbench_, "found": []}
    exec(command.replace(": rossbench", ": found.append(rossbench") + ")", places)
    keys = [record.key for found in places["found"] for record in found.values()]
    assert sorted(keys) == sorted(record.key for score in entry.scores.values() for record in score.records)


def test_every_number_leads_to_its_record_audit_and_command(text, matrices):
    found = Checker(text)
    assert len(found.ids) == len(set(found.ids))
    assert {target[1:] for target in found.targets} <= set(found.ids)
    assert found.outside == []
    for board in leaderboard.boards(matrices):
        for k, entry in enumerate(board.entries):
            start = text.index(f'<details class="entry" id="e{board.number}-{k}">')
            own = text[start : text.index("<pre>", start) + 2000]
            assert html.escape(entry.command, quote=False).replace("'", "&#39;") in own.replace("&#34;", '"')
            for column, score in entry.scores.items():
                place = f"e{board.number}-{k}-{board.columns.index(column) + 1}"
                assert f'<a href="#{place}">{score.text}' in text
                line = own[own.index(f'id="{place}"') :]
                assert all(record.key in line for record in score.records)
    assert text.count("Not audited: rossbench audit does it.") == 5
    assert text.count("checks on") == 3


def test_its_policy_allows_its_own_script_and_nothing_else(text):
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    digest = re.search(r"script-src &#39;sha256-([\w+/=]{44})&#39;; ", policy)
    assert digest
    assert policy.startswith("default-src 'none'; ")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == digest[1]
    assert not re.search(r"https?://|@import|url\(|fetch\(|innerHTML", text)


def test_whatever_is_said_the_page_has_no_tag_of_it(matrices):
    said = '</script><b id="x">&'
    told = [of_text(one, said) for one in matrices if one.name == HIGH]
    plain = [of_text(one, "x") for one in matrices if one.name == HIGH]
    assert Checker(leaderboard.render(told, said)).tags == Checker(leaderboard.render(plain, "x")).tags


def test_nothing_evaluated_has_no_board(matrices):
    empty = dataclasses.replace(matrices[0], cells=dict.fromkeys(matrices[0].cells))
    with pytest.raises(InvalidValue, match="leaderboard: expected evaluated models, got none"):
        leaderboard.render([empty], CREATED)


def test_stores_are_read_together(rossbench, root, tmp_path):
    runner.run(tiny(LOW, train_epsilons=(0.5,)), store=tmp_path / "other", device="cpu")
    code, out, _ = rossbench("leaderboard", root / "store", tmp_path / "other", "--html", "new/board")
    assert (code, out) == (0, "saved new/board/index.html\n")
    page = (tmp_path / "new/board/index.html").read_text()
    assert "conv3 ε=0.5" in page
    assert "mine v3" in page
    code, _, err = rossbench("leaderboard", tmp_path / "none", "--html", "board")
    assert (code, "nothing to report in" in err) == (2, True)


@pytest.mark.parametrize("scheme", [0, 1])
def test_all_text_can_be_read_on_every_ground(scheme):
    """WCAG's 4.5, of the colours that all pages share; the first are of light pages, the second of dark ones."""
    colours = dict(re.findall(r"--(\w+): (#\w{6})", templates.read("head.html").split(":root {")[1 + scheme]))
    for ground in ("paper", "panel"):
        for ink in ("ink", "soft", "accent", "warn"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


# --- in a browser ------------------------------------------------------------------------------------------

DRIVE = """
<script>
const names = () => [...document.querySelectorAll("#p1 tbody")].map(
  body => [...body.querySelectorAll("tr[data-name]:not([hidden])")].map(row => row.dataset.name));
const press = title => [...document.querySelectorAll("#p1 thead button")].find(
  button => button.textContent.trim() === title).click();
const choose = (name, value) => {
  const field = document.querySelector(`#filter [name=${name}]`);
  field.value = value;
  field.dispatchEvent(new Event("input", {bubbles: true}));
};
const boards = () => [...document.querySelectorAll(".board:not([hidden])")].map(board => board.id);
const text = selector => document.querySelector(selector).textContent;
const steps = {first: names(), width: innerWidth, shown: text("#shown")};
steps.over = document.documentElement.scrollWidth - innerWidth;
steps.sideways = getComputedStyle(document.querySelector(".sideways")).display;
press("encoder"); steps.up = names();
press("encoder"); steps.down = names();
press("0.5"); steps.strongest = names();
steps.sorted = [...document.querySelectorAll("[aria-sort]")].map(head => head.textContent.trim()).slice(0, 1);
choose("words", "MINE digits-low"); steps.words = names(); steps.few = text("#shown"); steps.both = boards();
choose("board", "2"); steps.second = boards(); steps.one = text("#shown");
choose("board", ""); choose("words", ""); choose("target", "digits-high"); steps.high = names();
choose("target", ""); choose("audit", "none"); steps.audit = names();
choose("audit", "");
const link = document.querySelector("#p1 td[data-value] a");
const entry = document.getElementById(link.hash.slice(1)).closest("details");
steps.before = entry.open;
link.click();
setTimeout(() => {
  steps.after = entry.open;
  steps.command = entry.querySelector("pre").checkVisibility();
  CONTRAST
  steps.contrast = contrast;
  document.title = JSON.stringify(steps);
}, 200);
</script></body>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (420, "light"), (420, "dark")])
def test_a_browser_sorts_filters_and_opens(text, matrices, tmp_path, width, scheme):
    """Measured by a script put in here; the page's own runs first."""
    path = tmp_path / "index.html"
    path.write_text(re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", DRIVE.replace("CONTRAST", CONTRAST)))
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", browse(path, tmp_path, width, scheme))[1]))
    high, low = (
        sorted(["conv3 ε=1", "mine v3", "mine v3, finetuned ε=0.5"]),
        ["conv3 ε=0", "conv3 ε=1", "mine v3", "module"],
    )
    assert found["over"] <= 0
    assert found["sideways"] == ("none" if width == 1400 else "block")
    assert found["shown"] == "8 of 8 shown"
    assert found["up"] == [high, low]
    assert found["down"] == [high[::-1], low[::-1]]
    robust = {(one.matrix.target, one.name): one.scores[0.5].mean for one in leaderboard.boards(matrices)[0].entries}
    for target, names in zip(("digits-high", "digits-low"), found["strongest"], strict=True):
        shown = [robust[target, name] for name in names]
        assert shown == sorted(shown, reverse=True)
        assert len(shown) == len(high if target == "digits-high" else low)
    assert found["sorted"] == ["0.5"]
    assert found["words"] == [["mine v3", "mine v3, finetuned ε=0.5"], ["mine v3"]]
    assert (found["few"], found["both"], found["second"], found["one"]) == (
        *("4 of 8 shown", ["p1", "p2"], ["p2"], "1 of 8 shown"),
    )
    assert [sorted(names) for names in found["high"]] == [high, []]
    assert [sorted(names) for names in found["audit"]] == [[], low]
    assert (found["before"], found["after"], found["command"]) == (False, True, True)
    assert found["contrast"] >= 4.5


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_its_script_runs_under_its_own_policy(text, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(text)
    assert "8 of 8 shown" in browse(path, tmp_path, 1400, "light")
