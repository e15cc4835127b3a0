"""The page is tested as text and, where chromium is installed, in a browser."""

import dataclasses
import functools
import html.parser
import json
import re
import shutil
import subprocess

import pytest
from conftest import TEXTS, tamper, tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rossbench import registry
from rossbench.registry import Suite
from rossbench.report import figures, page, plot_style
from rossbench.report.figure_data import FigureData, choose
from rossbench.report.figures import curves
from rossbench.report.page import PageFigure
from rossbench.report.page_figures import page_figures
from rossbench.runner import run as runner
from rossbench.stages.audit import CHECKS
from rossbench.store import metrics, results
from rossbench.store.records import Verdict
from rossbench.store.store import Store

CREATED = "2026-01-02 03:04 UTC"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A tiny study: a scenario with its heads, and another source of the same target size."""
    root = tmp_path_factory.mktemp("study")
    scenarios = [
        tiny("digits-low-to-high"),
        tiny("digits-high-to-high"),
        tiny("digits-low-to-high-finetuning", train_epsilons=(1,), finetune_epsilons=(0, 1)),
    ]
    runner.run_suite(scenarios, store=root, device="cpu")
    runner.audit(["digits-low-to-high", "digits-low-to-high-finetuning"], store=root, device="cpu")
    return root


@pytest.fixture(scope="module")
def drawn(store):
    """Every figure of the study; maps of 40 images need small perplexities."""

    with pytest.MonkeyPatch.context() as patch:
        for name in ("tsne", "tsne_together"):
            small = functools.partial(getattr(figures, name), perplexity=5, iterations=250)
            patch.setattr(figures, name, small)
        return page_figures(FigureData(store, device="cpu"), results.load(Store(store)))


@pytest.fixture
def sketched(monkeypatch):
    """Every figure is the same simple one, where it only matters that there is one."""
    for name in figures.__all__:
        monkeypatch.setattr(figures, name, lambda *_, **__: curves.plot_robustness({"a": {0.0: 1.0}}, "MCC"))


@pytest.fixture(scope="module")
def text(store, drawn):
    return page.render(["digits-study"], results.load(Store(store), ["digits-study"]), drawn, CREATED)


VOID = {"meta", "br", "link", "img", "input", "hr"}


class Checker(html.parser.HTMLParser):
    """What a page is made of; its opening and closing tags are held against each other."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.targets, self.outside, self.cells, self.tags = [], [], [], [], [], []
        self.skeleton, self.values, self.texts, self.comments = [], [], [], 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.skeleton.append((tag, *(name for name, _ in attrs if name != "class")))
        self.values += [value for _, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "xlink:href", "src"):
                (self.targets if value.startswith("#") else self.outside).append(value)
            elif value and "url(" in value:
                self.targets += re.findall(r"url\((#[^)]+)\)", value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.skeleton.append(f"/{tag}")

    def handle_comment(self, data):
        self.comments += 1

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data.strip())


def test_its_policy_allows_styles_and_pictures_of_its_own_and_nothing_else(text):
    """What is asked of the outside would be refused; nothing is asked. What is referred to is there, once."""
    found = Checker(text)
    assert len(found.ids) == len(set(found.ids))
    assert {target[1:] for target in found.targets} <= set(found.ids)
    assert all(value.startswith("data:image/png;base64,") for value in found.outside)
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert set(policy.split("; ")) == {
        *("default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'", "form-action 'none'"),
    }
    assert text.index(policy) < text.index("<style>")
    outside = "script link base iframe object embed form video audio source img"
    assert not set(found.tags) & set(outside.split())
    assert not re.search(r"""\son\w+\s*=\s*["']""", re.sub(r">[^<]*<", "><", text))  # handlers of events
    references = re.findall(r"""(?:href|src|action|srcset|data)\s*=\s*["']([^"']*)""", text)
    references += re.findall(r"""url\(\s*["']?([^)"']*)""", text)
    assert references
    assert [one for one in references if not one.startswith(("#", "data:image/png;base64,"))] == []
    assert not re.search(r"@import|@font-face|javascript:|<\?xml-stylesheet", text)


def test_every_verdict_is_in_it_and_those_that_are_no_pass_stand_out(text, store):
    section = text[text.index('<section id="audit">') : text.index('<section id="published">')]
    matrices = [matrix for matrix in results.load(Store(store), ["digits-study"]) if matrix.audits]
    assert len(matrices) == 2
    assert section.count("<h3>") == 2
    found = [one for matrix in matrices for audit in matrix.audits.values() for one in audit.verdicts]
    cells = Checker(section).cells
    checks = [check for check in CHECKS if "distances" not in check.needs]
    assert len(found) == 4 * (1 + len(checks))  # and whether the encoder has learned something
    for verdict in ("pass", "warn", "fail"):
        assert cells.count(verdict) == 2 * sum(one.verdict == verdict for one in found)  # a table, and the details
    assert section.count('<p class="note">') == sum(one.verdict != "pass" for one in found)
    assert text[text.index('<section id="run">') :].count(">audit</th>") == 2 * len(metrics.METRICS)
    said = [f"audit-{one.name}-{one.protocol}-" for one in matrices for a in one.audits.values() if a.verdict != "pass"]
    assert sum(section.count(f'<div id="{place}') for place in {*said}) == len(said)
    assert all(f'href="#{place}' in text for place in said)


def test_several_seeds_have_one_section(tmp_path):
    several = [tiny(seed=seed, train_epsilons=(1,)) for seed in (0, 1)]
    runner.run_suite(several, store=tmp_path, device="cpu")
    found = page.render([], results.load(Store(tmp_path)), [], CREATED)
    Checker(found)
    assert found.count("mean ± sample deviation over 2 seeds") == 2  # the finding, and the section
    assert found.count("<h3>") == 1
    assert len(re.findall("digits, 2 seeds", found)) == 1


def test_every_kind_of_figure_is_in_it(text, drawn):
    assert [one.caption for one in drawn if not one.svg] == []
    assert text.count("<figure ") == len(drawn)
    for words in (
        "Accuracy under attack against",
        "The matrix as colours",
        "Confusion without and under the strongest attack",
        "Confusion on digits-high under attack",
        "Correct predictions of each class of digits-high",
        "Features of the encoder in the plane",
        "Outputs of the linear layer in one map",
        "Images of digits-high that a plainly seen attack turns",
        "Pretraining on digits-low: loss",
        "Finetuning, RoSS digits-high → digits-high: loss",
    ):
        assert any(one.caption.startswith(words) for one in drawn), words
        assert words in text


def test_every_number_of_the_store_is_in_it(text, store):
    cells = Checker(text).cells
    for matrix in results.load(Store(store)):
        for (*row, column), record in matrix.cells.items():
            assert record.key in cells
            for name, metric in metrics.METRICS.items():
                shown = metric.text(matrix.value(tuple(row), column, name))
                assert {shown, shown + "!"} & {*cells}  # "!" where the audit fails


def test_a_reduced_run_says_so_at_the_top_and_above_each_table(text, store):
    assert text.index("Reduced or changed protocol: these numbers") < text.index("What was run, and how")
    assert text.count("REDUCED OR CHANGED PROTOCOL: pretraining.epochs 2 (registered: 10)") == 3 + 1  # the finding


def test_what_was_asked_for_and_not_run_is_missing(text):
    assert "digits-low-to-low: not run" in text
    assert "The study has published nothing on these scenarios." in text
    for field, value in (("pretraining.epochs", "2"), ("evaluation.attack.steps", "20"), ("encoder", "conv3")):
        assert f'<tr><th>{field}</th><td class="wrap">{value}</td></tr>' in text
    assert "3 scenarios, 5 models, 10 evaluations" in " ".join(text.split())  # a head is in two of them
    assert "rows 0, 1 (registered: 0, 0.5, 1)" in text[text.index('id="missing"') :]


def test_sections_are_the_experiments(text):
    titles = re.findall(r"<h2>(Experiment [^<]*)</h2>", text)
    assert [title[:12] for title in titles] == ["Experiment 1", "Experiment 2", "Experiment 3"]
    first, second, third = (text.index(f"<h2>{title}") for title in titles)
    assert first < text.index('id="digits-high-to-high-') < second < text.index('id="digits-low-to-high-')
    assert third < text.index('id="digits-low-to-high-finetuning-')


def test_where_numbers_come_from(text, store):
    provenance = text[text.index('id="provenance"') :]
    (matrix, *_) = results.load(Store(store))
    stage = matrix.records[0].provenance["evaluate"]
    assert f"torch {stage['versions']['torch']}" in provenance
    assert stage["platform"] in provenance
    assert "Surroundings 1: cpu, float32" in provenance


def test_names_are_escaped(store, drawn, monkeypatch):
    monkeypatch.setattr(registry, "_suites", dict(registry._suites))
    registry.register(Suite("evil", ("digits-low-to-high",), "<script>alert(1)</script> & more"))
    (matrix,) = results.load(Store(store), ["digits-low-to-high"])
    matrix = dataclasses.replace(matrix, deviations={"<b>": ["</style>", '"']})
    text = page.render(["evil"], [matrix], [PageFigure("#training", '<i>"x"', drawn[0].svg)], CREATED)
    assert "script" not in Checker(text).tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    assert "<b>" not in text.replace("<b>Figure", "")


def of_text(matrix, said):
    """The matrix with a text wherever one may be: names, notes, audits, records and where they come from."""
    verdict = Verdict(said, "warn", said, said)
    audits = {row: dataclasses.replace(audit, verdicts=(verdict,)) for row, audit in matrix.audits.items()}
    stages = {stage: {**made, "platform": said, said: said} for stage, made in matrix.records[0].provenance.items()}
    changed = {"created": said, "provenance": stages, "scenario": said}
    cells = {place: dataclasses.replace(record, **changed) for place, record in matrix.cells.items()}
    names = dict.fromkeys(("name", "source", "target", "protocol", "family"), said)
    return dataclasses.replace(matrix, **names, deviations={said: [said, [said]]}, audits=audits, cells=cells)


@given(said=TEXTS)
@example(said="--><script>alert(1)</script>")
@example(said='" onload="alert(1)')
@settings(max_examples=15)
def test_whatever_is_said_a_page_has_no_tag_and_no_attribute_of_it(store, drawn, said):
    """Nothing of what comes from names, notes and records is more than text."""
    (matrix,) = results.load(Store(store), ["digits-low-to-high"])
    svg = '<svg width="10pt" viewBox="0 0 1 1"><g id="a"/></svg>'

    def rendered(said):
        figures = [PageFigure(f"{said}-{said}", said, svg), PageFigure("#training", said, "")]
        return Checker(page.render([said] * bool(said), [of_text(matrix, said)], figures, said))

    plain, found = rendered("x" if said else ""), rendered(said)
    assert (found.skeleton, found.comments) == (plain.skeleton, plain.comments)
    assert any(said in text for text in found.texts)
    assert {f"{said}-{said}", said} <= set(found.values)  # an id, and what a figure is called


@given(said=st.text("<>&\"'-!?$\\/[]ax ", min_size=1, max_size=12).filter(str.strip))
@example(said="--!><script>alert(1)</script>")
@example(said='" id="a" href="#a"')
@settings(max_examples=3)
def test_whatever_is_said_a_figure_has_no_tag_of_it(said):
    """An SVG has its texts as paths, and in comments."""
    svg = plot_style.to_bytes(curves.plot_robustness({said: {0.0: 1.0, 1.0: 0.5}}, said), "svg").decode()
    found = Checker(page._figure(PageFigure("#training", said, svg), 1))
    known = {"figure", "svg", "defs", "style", "g", "path", "use", "clippath", "rect", "figcaption", "b"}
    assert {*found.tags} <= known
    assert found.values[1:3] == ["img", said]
    assert all(text.isspace() or said in text or text.startswith(("*{", "Figure")) for text in found.texts)


def test_a_figure_that_cannot_be_drawn_says_why_and_the_others_stay(store):
    """Perplexity 35 is too much for maps of 40 images; only the maps are lost."""
    drawn = page_figures(FigureData(store, device="cpu"), results.load(Store(store), ["digits-high-to-high"]))
    (lost,) = [one for one in drawn if not one.svg]
    assert "Not drawn: t-SNE: expected a perplexity of 1 to 13 for 40 points, got 35" in lost.caption
    text = page.render([], results.load(Store(store), ["digits-high-to-high"]), drawn, CREATED)
    assert "Not drawn: t-SNE" in text[text.index('id="missing"') :]
    assert text.count("<figure ") == len(drawn) - 1


def test_a_run_that_was_interrupted_has_a_page(store, tmp_path):
    """Of one matrix a row is missing, of another all but one cell, of the third the weights are damaged."""
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    low, high = tiny("digits-low-to-high"), tiny("digits-high-to-high")
    lost = [low.cells[1, 1, 0], low.cells[1, 1, 0.5], *list(high.cells.values())[:3]]
    for cell in lost:
        shutil.rmtree(Store(tmp_path).path(cell))
    tamper(Store(tmp_path).path(low.cells[1, 1, 0].finetune.pretrain) / "history.jsonl", "{")
    matrices = results.load(Store(tmp_path))
    drawn = page_figures(FigureData(tmp_path, device="cpu"), matrices)
    text = page.render([], matrices, drawn, CREATED)
    assert text.count("<figure ") == len([one for one in drawn if one.svg]) > 5
    assert "history.jsonl: expected JSON lines" in text
    assert "2 of 4 cells are missing" in text


def test_two_protocols_of_one_scenario_have_figures_of_their_own(store, tmp_path, sketched):
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    runner.run(tiny("digits-low-to-high", seed=1), store=tmp_path, device="cpu")
    matrices = results.load(Store(tmp_path), ["digits-low-to-high"])
    drawn = page_figures(FigureData(tmp_path, device="cpu"), matrices)
    first = f"{matrices[0].name}-{matrices[0].protocol}"
    assert {one.place for one in drawn} == {"#finding", "#targets", "#training", first}
    assert len({f"{m.name}-{m.protocol}" for m in matrices}) == 2
    text = page.render([], matrices, drawn, CREATED)
    assert "1 scenarios" in text
    for matrix in matrices:
        assert text.count(f'id="{matrix.name}-{matrix.protocol}"') == 1


def test_a_scenario_called_as_a_section_is_not_the_section(store, sketched):
    (matrix,) = results.load(Store(store), ["digits-low-to-high"])
    named = dataclasses.replace(matrix, name="training")
    places = [one.place for one in page_figures(FigureData(store, device="cpu"), [named])]
    assert f"training-{matrix.protocol}" in places
    assert "training" not in places


def test_a_page_of_nothing_evaluated_is_a_page(store):
    matrix = results.load(Store(store))[0]
    empty = dataclasses.replace(matrix, cells=dict.fromkeys(matrix.cells))
    drawn = page_figures(FigureData(store, device="cpu"), [empty])
    assert drawn == []
    text = page.render([matrix.name], [empty], drawn, CREATED)
    assert "4 of 4 cells are missing" in text
    assert "Nothing was audited: rossbench audit does it." in text


def test_published_numbers_stand_beside_ours(drawn):
    from test_published import matrix as published

    text = page.render(["cifar10-to-cifar10"], [published("cifar10-to-cifar10", 0.5)], [], CREATED)
    assert "Table 5.1: Top-1 accuracy (%) (Accuracy RoSS C10→C10), ours and published" in text
    assert "36 of 36 cells within 2 points" in text
    reduced = published("cifar10-to-cifar10", deviations={"test_limit": [200, None]})
    text = page.render(["cifar10-to-cifar10"], [reduced], [], CREATED)
    assert "Not compared: reduced or changed protocol: test_limit 200 (registered: all) (tables 5.1)" in text
    assert "ours and published" not in text


def test_the_page_and_the_figures_share_an_ink(store, text):
    """Else text would stay dark on a dark page."""
    (matrix, *_) = results.load(Store(store), ["digits-low-to-high"])
    svg = plot_style.to_bytes(figures.robustness(FigureData(store, device="cpu"), choose([matrix])), "svg").decode()
    assert plot_style.INK in svg
    assert plot_style.INK not in text
    assert "currentColor" in text


# --- in a browser ------------------------------------------------------------------------------------------

PROBE = """
<script>
const over = document.documentElement.scrollWidth - window.innerWidth;
const small = [...document.querySelectorAll("figure svg")].filter(s => s.getBoundingClientRect().width < 200).length;
const ink = getComputedStyle(document.querySelector("figure svg")).color;
const paper = getComputedStyle(document.body).backgroundColor;
for (const one of document.querySelectorAll("details")) one.open = true;
CONTRAST
const hint = getComputedStyle(document.querySelector(".scroll.many"), "::before").content;
const beside = document.querySelector("#finding table").getBoundingClientRect().right
  <= document.querySelector("#finding figure").getBoundingClientRect().left;
document.title = JSON.stringify({over, small, ink, paper, contrast, hint, beside, width: window.innerWidth});
</script></body>
"""
CONTRAST = """
const ground = element => {
  for (let one = element; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if (!colour.startsWith("rgba(0, 0, 0, 0")) return colour;
  }
};
const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
  .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, k) => sum + part * [0.2126, 0.7152, 0.0722][k], 0);
const contrast = Math.min(...[...document.querySelectorAll("body *")].filter(one => one.tagName !== "SCRIPT"
  && one.checkVisibility() && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())
).map(one => {
  const [low, high] = [light(getComputedStyle(one).color), light(ground(one))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}));
"""
"""The least contrast of a text that is seen to what is behind it, as WCAG 2 counts."""


def browse(path, tmp_path, width, scheme):
    """The page as it is when its scripts have run."""
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom"),
        *("--virtual-time-budget=3000", f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"),
        path.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1400, 500])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_wide_and_narrow_light_and_dark(text, tmp_path, width, scheme):
    """Nothing sticks out sideways, figures have a size, and ink and paper differ; measured by a script put in here."""
    path = tmp_path / "report.html"
    measured = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", PROBE.replace("CONTRAST", CONTRAST))
    path.write_text(measured)
    found = json.loads(re.search(r"<title>(.*?)</title>", browse(path, tmp_path, width, scheme))[1])
    assert found["width"] == width
    assert found["over"] <= 0
    assert found["small"] == 0
    assert found["contrast"] >= 4.5
    assert ("sideways" in found["hint"], found["beside"]) == ((False, True) if width == 1400 else (True, False))
    dark = found["paper"] == "rgb(20, 23, 26)"
    assert dark == (scheme == "dark")
    assert found["ink"] == ("rgb(228, 228, 223)" if dark else "rgb(28, 29, 31)")
