import dataclasses
import functools
import io
import itertools
import re

import matplotlib.text
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from rossbench.report import page, plot_style, templates
from rossbench.report.figures.adversarial_examples import Example, plot_examples
from rossbench.report.figures.class_counts import Right, plot_per_class
from rossbench.report.figures.curves import plot_robustness, plot_training
from rossbench.report.figures.heatmaps import plot_confusions, plot_matrix
from rossbench.report.figures.kinds import plot_corruptions, plot_displacement, plot_robustness_curves
from rossbench.report.figures.maps import plot_joint_map, plot_maps
from rossbench.report.plot_style import INK

EPSILONS = [0, 0.25, 0.5, 1, 2, 3]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
LONG = [f"household_{name}" for name in CIFAR] + [f"large_{name}" for name in CIFAR]
TITLE = "pretrained ε = 0.25, finetuned ε = 0, attack ε = 8/255"
HUNDRED = [f"class {i}" for i in range(100)]
RANDOM = np.random.default_rng(0)


def curves(labels):
    return {label: {e: 90 * np.exp(-e / (i + 1)) for e in EPSILONS} for i, label in enumerate(labels)}


def models(n):
    return [f"pretrained ε = {i / 4:g}, finetuned ε = 0" for i in range(n)]


def accuracies(n=6):
    return RANDOM.uniform(-1, 1, (n, n))


def counts(*shape, most=40):
    return RANDOM.integers(0, most + 1, shape)


def per_class(panels, epsilons, names, total):
    return plot_per_class([Right(title, right, names, total) for title, right in panels], epsilons)


def bars(names, epsilons=EPSILONS, panels=2, most=40):
    drawn = [(f"ε = {i}", counts(len(epsilons), len(names), most=most)) for i in range(panels)]
    return per_class(drawn, epsilons, names, [most] * len(names))


def confused(down, across, names, most=40):
    n = len(names)
    return plot_confusions([[(f"ε = {j}", counts(n, n, most=most)) for j in range(across)]] * down, names)


def mapped(panels, names, n):
    drawn = [(f"ε = {i}", RANDOM.normal(0, 50, (n, 2))) for i in range(panels)]
    return plot_maps(drawn, RANDOM.integers(0, len(names), n), names)


def joined(names, n):
    return plot_joint_map(RANDOM.normal(0, 50, (n, 2)), RANDOM.integers(0, len(names), n), names)


def example(label="ship", before="ship", after="cat", side=8):
    natural = RANDOM.uniform(0, 1, (side, side, 3))
    adversarial = np.clip(natural + RANDOM.uniform(-0.1, 0.1, natural.shape), 0, 1)
    return Example(natural, adversarial, label, before, after)


def history(epochs):
    return [{"epoch": i + 1, "loss": 2 / (i + 1), "top1": 1 - 1 / (i + 2), "top5": 1.0} for i in range(epochs)]


def displaced(n):
    return [(label, 1 / (i + 1), 90 - 50 / (i + 1)) for i, label in enumerate(models(n))]


def ticks(n):
    return [f"{i / 4:g}" for i in range(n)]


CASES = {
    "robustness": lambda: plot_robustness(curves(["ε = 0", "ε = 1"]), "Top-1 accuracy (%)"),
    "robustness of 12": lambda: plot_robustness(curves(models(12)), "Top-1 accuracy (%)"),
    "robustness, endless label": lambda: plot_robustness(curves(["so long a name " * 9]), "MCC"),
    "matrix": lambda: plot_matrix(accuracies(), ticks(6), ticks(6), "Top-1 accuracy (%)"),
    "matrix of 11": lambda: plot_matrix(100 * accuracies(11), ticks(11), ticks(11), "MCC"),
    "matrix of 1": lambda: plot_matrix(np.ones((1, 1)), ["0"], ["0"], "Top-1 accuracy (%)"),
    "confusions of 5": lambda: confused(1, 3, CIFAR[:5]),
    "confusions of 10": lambda: confused(2, 3, CIFAR, 1000),
    "confusion of 10": lambda: confused(1, 1, CIFAR),
    "confusions of 20": lambda: confused(1, 2, LONG, 500),
    "confusions of 20, small": lambda: confused(1, 6, LONG, 500),
    "confusions of 100": lambda: confused(2, 3, HUNDRED, 100),
    "confusions, long titles": lambda: plot_confusions([[(TITLE, counts(5, 5))] * 3] * 2, CIFAR[:5]),
    "per class, two targets": lambda: plot_per_class(
        [Right("a", counts(6, len(n)), n, [40] * len(n)) for n in (CIFAR, HUNDRED)], EPSILONS
    ),
    "per class, long titles": lambda: per_class([(TITLE, counts(2, 10))] * 3, [0, 1], CIFAR, [40] * 10),
    "maps, long titles": lambda: plot_maps([(TITLE, RANDOM.normal(0, 1, (9, 2)))] * 4, np.arange(9), CIFAR),
    "per class, 5": lambda: bars(CIFAR[:5], panels=1),
    "per class, 10": lambda: bars(CIFAR, most=1000),
    "per class, 20": lambda: bars(LONG),
    "per class, 100": lambda: bars(HUNDRED, most=100),
    "map": lambda: mapped(1, CIFAR, 60),
    "maps of 10": lambda: mapped(3, CIFAR, 60),
    "maps of 20": lambda: mapped(5, LONG, 60),
    "maps of 100": lambda: mapped(3, HUNDRED, 60),
    "joint map": lambda: joined(models(6), 60),
    "example": lambda: plot_examples([example()], 8 / 255),
    "examples": lambda: plot_examples([example()] * 8, 0.5),
    "examples, long": lambda: plot_examples([example(*["fruit_and_vegetables"] * 2, "invertebrates")] * 8, 0.5),
    "distances": lambda: plot_robustness_curves(
        {label: np.array([0, 0.2, 0.5, np.inf]) for label in models(3)}, {models(1)[0]: ([0, 0.5], [75, 50])}
    ),
    "distances alone": lambda: plot_robustness_curves({"ε = 0": RANDOM.gamma(4, 0.1, 60)}, {}),
    "corruptions": lambda: plot_corruptions(
        {f"motion blur {i}": dict.fromkeys(models(3), range(6)) for i in range(12)}
    ),
    "corruptions, few": lambda: plot_corruptions({"elastic transform": {"ε = 0": [90, 50]}, "fog": {"ε = 1": [9, 5]}}),
    "training": lambda: plot_training({label: history(60) for label in models(6)}),
    "training, collapsed": lambda: plot_training(
        {"ε = 0": [{**one, "collapsed": True} for one in history(9)]}, [4.844]
    ),
    "displacement": lambda: plot_displacement(displaced(3), 0.5, "Top-1 accuracy (%)"),
    "displacement of 12": lambda: plot_displacement(displaced(12), 8 / 255, "Top-1 accuracy (%)"),
    "training, 1 epoch": lambda: plot_training({"ε = 0": history(1)}),
}


@functools.cache
def built(case):
    return CASES[case]()


@pytest.fixture
def written(monkeypatch):
    """Draws a figure; returns (text, box in pixels, points, colour) of every text that was really drawn."""

    def draw(figure):
        found = []
        original = matplotlib.text.Text.draw

        def recording(self, renderer, *args, **kwargs):
            original(self, renderer, *args, **kwargs)
            if self.get_visible() and self.get_text().strip():
                box = self.get_window_extent(renderer)
                found.append((self.get_text(), box, self.get_fontsize(), self.get_color()))

        with monkeypatch.context() as patch:
            patch.setattr(matplotlib.text.Text, "draw", recording)
            FigureCanvasAgg(figure).draw()
        return found

    return draw


def texts(axes):
    return [text.get_text() for text in axes.texts]


def names_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def luminance(colour):
    """Relative luminance, in [0, 1] (WCAG 2)."""
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


# --- every figure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_figure_fits_a_paper_and_its_texts_are_whole_apart_and_of_the_colour_that_a_page_replaces(case, written):
    """Colours but for text on coloured cells; in an SVG there is no black, no ground and no font."""
    figure = built(case)
    found = written(figure)
    assert len(found) >= 5
    width, height = figure.canvas.get_width_height(physical=True)
    for text, box, size, _ in found:
        assert size >= 7, text
        assert min(box.x0, box.y0) >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (text, a, *_), (other, b, *_) in itertools.combinations(found, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) < 1, f"{text!r} overlaps {other!r} by {across:.1f}x{down:.1f} of 300 pixels an inch"
    assert plot_style.COLUMN <= figure.get_figwidth() <= plot_style.WIDE
    assert figure.get_figheight() < 9
    cells = {text for axes in figure.axes for text in texts(axes)}
    assert {colour for text, *_, colour in found if text not in cells} == {INK}
    svg = plot_style.to_bytes(figure, "svg").decode()
    assert INK in svg
    assert "#000000" not in svg
    assert "<text" not in svg
    assert "fill: none" in re.search(r'<g id="patch_1">.*?</g>', svg, re.S).group()


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
@pytest.mark.parametrize("case", ["matrix", "confusions of 5", "maps of 10", "example"])
def test_the_same_figure_gives_the_same_bytes(case, form, monkeypatch):
    monkeypatch.setattr("test_figures.RANDOM", np.random.default_rng(1))
    figure = CASES[case]()
    first = plot_style.to_bytes(figure, form)
    assert plot_style.to_bytes(figure, form) == first
    monkeypatch.setattr("test_figures.RANDOM", np.random.default_rng(1))
    assert plot_style.to_bytes(CASES[case](), form) == first
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form])


def test_a_png_has_300_pixels_an_inch_on_white():
    picture = Image.open(io.BytesIO(plot_style.to_bytes(built("robustness"), "png"))).convert("RGBA")
    assert picture.width == round(3.35 * 300)
    assert picture.getpixel((0, 0)) == (255, 255, 255, 255)


def test_settings_of_a_user_change_nothing():
    before = plot_style.to_bytes(plot_robustness(curves(["a"]), "MCC"), "svg")
    with matplotlib.rc_context({"font.size": 20, "xtick.direction": "in", "font.family": "serif"}):
        assert plot_style.to_bytes(plot_robustness(curves(["a"]), "MCC"), "svg") == before
        assert matplotlib.rcParams["font.size"] == 20


def test_many_points_are_a_picture_inside_an_svg():
    few, many = mapped(1, CIFAR, 2000), mapped(1, CIFAR, 8000)
    assert not any(dots.get_rasterized() for dots in few.axes[0].collections)
    assert all(dots.get_rasterized() for dots in many.axes[0].collections)
    assert len(plot_style.to_bytes(many, "svg")) < 500_000


# --- colours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 6, 7, 12])
def test_curves_are_ordered_by_luminance_and_seen_on_both_grounds(n):
    colours = [look["color"] for look in plot_style.curve_looks(n)]
    shades = [luminance(colour) for colour in colours]
    assert shades == sorted(shades)
    assert len(set(colours)) == n
    for colour in colours:
        assert min(contrast(colour, "#ffffff"), contrast(colour, "#14171a")) > 1.8


@pytest.mark.parametrize("ground", page.GROUNDS)
def test_marks_on_a_page_have_a_contrast_of_3_to_its_ground(ground):
    assert ground in templates.read("head.html")
    for colour in plot_style.mark_colours():
        assert contrast(plot_style.seen_on(ground, colour), ground) >= 3
        if contrast(colour, ground) >= 3:
            assert plot_style.seen_on(ground, colour) == colour


def test_several_tasks_have_colours_and_models_dashes():
    kinds = {f"{task}{model}": (task, model) for task in "ab" for model in ("x", "y")}
    bands = {"ax": {0: (0.1, 0.2), 1: (0.1, 0.3)}}
    figure = plot_robustness(curves(list(kinds)), "MCC", None, bands, kinds)
    lines = dict(zip(kinds, figure.axes[0].lines, strict=True))
    for one, other in itertools.combinations(kinds, 2):
        assert (lines[one].get_color() == lines[other].get_color()) == (one[0] == other[0])
        dashes = [str(lines[name]._unscaled_dash_pattern) for name in (one, other)]
        assert (dashes[0] == dashes[1]) == (one[1] == other[1])
    assert legend(figure) == ["a", "b", "x", "y"]
    assert figure.axes[0].collections[0].get_paths()[0].get_extents().extents.tolist() == [0, 0.1, 1, 0.3]


@pytest.mark.parametrize("n", [3, 10, 12, 20])
def test_kinds_have_colours_of_their_own(n):
    looks = plot_style.looks(n)
    assert len({colour for colour, _ in looks}) == n
    assert len({marker for _, marker in looks}) == min(n, len(plot_style.MARKERS))
    assert all(contrast(colour, "#ffffff") > 1.4 for colour, _ in looks)


# --- each figure -------------------------------------------------------------------------------------------


def test_robustness_draws_what_it_is_given():
    """Where a value is missing matplotlib breaks the line."""
    gap = plot_robustness({"ε = 0": {0: 9.0, 0.2: np.nan, 0.4: 5.0}}, "MCC").axes[0].lines[0]
    assert list(gap.get_xdata()) == [0, 0.2, 0.4]
    assert np.isnan(gap.get_ydata()).tolist() == [False, True, False]
    given = {"ε = 0": {0: 90.0, 1: 10.0, 0.5: 40.0}, "ε = 1": {0: 80.0, 1: 50.0}}
    figure = plot_robustness(given, "Top-1 accuracy (%)")
    (axes,) = figure.axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 90], [0.5, 40], [1, 10]], [[0, 80], [1, 50]]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Attack ε", "Top-1 accuracy (%)")
    assert legend(figure) == ["ε = 0", "ε = 1"]
    assert axes.get_ylim()[0] < 0 < 90 < axes.get_ylim()[1]
    (bars, none) = plot_robustness(given, "%", {"ε = 0": {0.5: (35.0, 45.0)}}).axes[0].collections
    assert [part.tolist() for part in bars.get_segments()] == [[[0.5, 35], [0.5, 45]]]
    assert none.get_segments() == []


def test_12_curves_have_12_pairs_of_line_and_marker():
    lines = plot_robustness(curves(models(12)), "MCC").axes[0].lines
    assert len({(str(line._unscaled_dash_pattern), line.get_marker()) for line in lines}) == 12


@pytest.mark.parametrize(
    ("values", "label", "shown"),
    [
        ([[92.04, np.nan], [0.5, 10]], "Top-1 accuracy (%)", ["92.0", "–", "0.5", "10.0"]),
        ([[0.5, np.nan], [0.0, 1]], "Top-1 accuracy (%)", ["0.5", "–", "0.0", "1.0"]),
        ([[0.92, np.nan], [-0.5, 1]], "MCC", ["0.920", "–", "-0.500", "1.000"]),
    ],
)
def test_a_matrix_writes_its_values(values, label, shown):
    axes, bar = plot_matrix(np.array(values), ["0", "1"], ["0", "0.5"], label).axes
    assert texts(axes) == shown
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("Attack ε", "Model ε", label)
    assert axes.images[0].get_clim() == ((0, 100) if "%" in label else (-0.5, 1))
    assert (names_of(axes.xaxis), names_of(axes.yaxis)) == (["0", "0.5"], ["0", "1"])


def test_values_are_legible_on_their_cells():
    figure = plot_matrix(np.linspace(0, 100, 36).reshape(6, 6), ticks(6), ticks(6), "%")
    image = figure.axes[0].images[0]
    for text, value in zip(figure.axes[0].texts, image.get_array().flat, strict=True):
        assert contrast(text.get_color(), image.to_rgba(value)[:3]) > 4
        assert text.get_color() != INK


def test_confusions_are_in_percent_of_each_true_class_on_one_scale():
    sharp, flat = np.diag([40, 30, 20]), np.full((3, 3), 2)
    figure = plot_confusions([[("a", sharp), ("b", flat)], [("c", flat)]], ["x", "y", "z"])
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["a", "b", "c"]
    assert [axes.images[0].get_clim() for axes in panels] == [(0, 100)] * 3
    assert len(figure.axes) == 4  # one colour bar
    assert texts(panels[0]) == ["100", "0", "0", "0", "100", "0", "0", "0", "100"]
    assert texts(panels[1]) == ["33"] * 9
    assert [axes.get_xlabel() for axes in panels] == ["", "Predicted class", "Predicted class"]
    assert [axes.get_ylabel() for axes in panels] == ["True class", "", "True class"]
    assert names_of(panels[0].yaxis) == names_of(panels[1].xaxis) == names_of(panels[2].xaxis) == ["x", "y", "z"]
    assert not any(names_of(panels[0].xaxis))
    assert not any(names_of(panels[1].yaxis))


def test_shares_that_would_not_fit_are_not_written():
    assert texts(confused(1, 6, CIFAR, 1000).axes[0]) == []
    assert texts(confused(1, 1, LONG).axes[0]) == []


def test_a_rising_count_is_a_bar_that_stands_out():
    given = np.array([[30, 10], [20, 35]])
    figure = per_class([("ε = 0", given), ("ε = 1", given)], [0, 1], ["cat", "dog"], [40, 36])
    first, second = figure.axes
    assert [[bar.get_height() for bar in group] for group in first.containers] == given.tolist()
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in first.patches)
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(edges))  # no bar hides another
    shades = [luminance(group.patches[0].get_facecolor()) for group in first.containers]
    assert shades == sorted(shades, reverse=True)
    assert [line[0][1] for line in first.collections[0].get_segments()] == [40, 36]
    assert names_of(first.xaxis) == ["cat", "dog"]
    assert (first.get_xlabel(), first.get_ylabel(), second.get_ylabel()) == ("Class", "Correct predictions", "")
    assert first.get_ylim() == second.get_ylim()
    assert legend(figure) == ["attack ε = 0", "attack ε = 1", "images of the class"]


def test_a_hundred_classes_are_steps():
    given = counts(2, 100)
    figure = per_class([("ε = 0", given)], [0, 1], HUNDRED, [40] * 100)
    assert [step.get_data().values.tolist() for step in figure.axes[0].patches] == [*given.tolist(), [40] * 100]
    assert figure.axes[0].get_xlabel() == "Class index"


def test_maps_draw_every_point_in_the_look_of_its_class():
    points, labels = RANDOM.normal(0, 1, (50, 2)), np.arange(50) % 3
    figure = plot_maps([("ε = 0", points), ("ε = 1", points)], labels, ["cat", "dog", "ship"])
    for axes in figure.axes:
        drawn = {
            (tuple(dots.get_facecolor()[0][:3]), tuple(point))
            for dots in axes.collections
            for point in dots.get_offsets()
        }
        wanted = [to_rgb(colour) for colour, _ in plot_style.looks(3)]
        assert drawn == {(wanted[k], tuple(point)) for k, point in zip(labels, points, strict=True)}
        assert axes.get_aspect() == 1
        assert not len(axes.get_xticks())
    assert [axes.get_title() for axes in figure.axes] == ["ε = 0", "ε = 1"]
    assert legend(figure) == ["cat", "dog", "ship"]


def test_maps_of_many_classes_have_a_colour_bar():
    points, labels = RANDOM.normal(0, 1, (60, 2)), RANDOM.integers(0, 100, 60)
    figure = plot_maps([("ε = 0", points), ("ε = 1", points)], labels, HUNDRED)
    (dots,) = figure.axes[0].collections
    drawn = zip(map(tuple, dots.get_offsets().tolist()), dots.get_array(), strict=True)
    assert set(drawn) == set(zip(map(tuple, points.tolist()), labels, strict=True))
    assert not figure.legends
    assert figure.axes[-1].get_ylabel() == "Class index"
    assert dots.get_clim() == (0, 99)


def test_no_model_hides_the_others_in_a_joint_map():
    figure = joined(["a", "b"], 400)
    drawn = [tuple(dots.get_facecolor()[0][:3]) for dots in figure.axes[0].collections]
    first = to_rgb(plot_style.looks(2)[0][0])
    assert {colour == first for colour in drawn[-2:]} == {True, False}
    assert len(drawn) == 40
    assert len({marker for _, marker in plot_style.looks(2)}) == 2
    assert legend(figure) == ["a", "b"]


@pytest.mark.parametrize(("n", "order"), [(2, [0, 1, 2]), (5, [0, 5, 10])])
def test_an_example_shows_both_images_and_their_difference(n, order):
    natural = np.full((4, 4, 3), 0.5)
    adversarial = natural.copy()
    adversarial[0, 0], adversarial[1, 1] = 0.75, 0.375
    figure = plot_examples([Example(natural, adversarial, "ship", "ship", "cat")] * n, 0.5)
    chosen = [figure.axes[i] for i in order]
    shown = [axes.images[0].get_array() for axes in chosen]
    np.testing.assert_allclose(shown[0], natural)
    np.testing.assert_allclose(shown[1], adversarial)
    assert [float(shown[2][i, i, 0]) for i in range(3)] == [1, 0.25, 0.5]
    assert [axes.get_xlabel() for axes in chosen] == ["→ ship", "→ cat", "× 4"]
    assert [axes.xaxis.label.get_fontweight() for axes in chosen] == ["normal", "bold", "normal"]
    assert {axes.images[0].get_interpolation() for axes in chosen} == {"nearest"}
    said = [text for axes in figure.axes for text in (axes.get_title(), axes.get_ylabel()) if text]
    assert sorted(said) == sorted(["Natural", "Adversarial, attack ε = 0.5", "Difference", *["ship"] * n])


def test_equal_images_have_a_grey_difference():
    same = dataclasses.replace(example(), adversarial=np.zeros((2, 2, 3)), natural=np.zeros((2, 2, 3)))
    axes = plot_examples([same], 0).axes[2]
    assert axes.get_xlabel() == "none"
    assert (axes.images[0].get_array() == 0.5).all()


def test_training_shows_loss_and_percent():
    figure = plot_training({"ε = 0": history(3), "ε = 1": history(2)})
    loss, accuracy = figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[2, 1, 2 / 3], [2, 1]]
    assert [list(line.get_ydata()) for line in accuracy.lines[:2]] == [[50, pytest.approx(200 / 3), 75], [100] * 3]
    assert [line.get_linestyle() for line in accuracy.lines] == ["-", "--", "-", "--"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["Training loss", "Training accuracy (%)"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"Epoch"}
    assert legend(figure) == ["ε = 0", "ε = 1", "top-1", "top-5"]


def test_collapsed_epochs_are_marked_beside_the_loss_of_constant_features():
    stuck = [{**entry, "loss": 4.84, "collapsed": entry["epoch"] > 1} for entry in history(3)]
    figure = plot_training({"ε = 0": history(3), "ε = 1": stuck}, [4.844])
    line, marks = figure.axes[0].lines[2:]
    assert (list(line.get_ydata()), line.get_linestyle()) == ([4.844] * 2, "--")
    assert (list(marks.get_xdata()), list(marks.get_ydata())) == ([2, 3], [4.84] * 2)
    assert [text.get_text() for text in figure.axes[0].texts] == ["constant features"]
    assert legend(figure) == ["ε = 0", "ε = 1", "top-1", "top-5", "collapsed"]


@pytest.mark.parametrize("epochs", [1, 2, 7, 60])
def test_epochs_are_whole_and_marked(epochs):
    for axes in plot_training({"a": history(epochs), "b": history(epochs)}).axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())
        for line in axes.lines:
            assert line.get_markevery()[0] < epochs
            assert line.get_marker() in plot_style.MARKERS


def test_a_long_title_is_never_broken_inside_an_epsilon():
    title = plot_maps([(TITLE, RANDOM.normal(0, 1, (9, 2)))] * 4, np.arange(9), CIFAR).axes[0].get_title()
    assert title.split("\n") == ["pretrained ε = 0.25,", "finetuned ε = 0, attack", "ε = 8/255"]


# --- fonts -------------------------------------------------------------------------------------------------

STRANGE = ["猫 cat", "café", "🐱🦤", "مرحبا", "a\tb", "\udcff", "$x$ _y", "e\u0301", "👩‍🔬"]


@pytest.mark.parametrize("form", ["pdf", "ps"])
def test_venues_that_refuse_type_3_fonts_take_a_figure(form):
    written = plot_style.to_bytes(plot_confusions([[("ε → é", counts(9, 9))]], STRANGE), form)
    assert not re.search(rb"/Type3|/FontType 3", written)
    assert re.search(rb"/FontFile2|/FontType 42", written)


def test_a_name_that_no_font_has_is_spelled_and_stays_itself(monkeypatch):
    """As where only matplotlib's own font is installed; a missing glyph would warn, which is an error here."""
    monkeypatch.setattr(plot_style, "_glyphs", lambda: frozenset(range(0x250)))
    plot_style.drawable.cache_clear()
    assert list(map(plot_style.drawable, STRANGE[:3])) == ["\\u732b cat", "café", "[cat face][dodo]"]
    assert list(map(plot_style.drawable, STRANGE[4:7])) == ["a\\tb", "\\udcff", "$x$ _y"]
    plot_style.drawable.cache_clear()


@pytest.mark.parametrize(
    ("points", "drawn", "said"),
    [
        ([("a", 0.1, 90.0), ("b", 0.2, 80.0), ("c", 0.4, 85.0)], 3, "rank correlation (Kendall) -0.33"),
        ([("a", 0.1, 90.0), ("b", 0.2, 80.0), ("collapsed", np.nan, 10.0)], 2, "rank correlation (Kendall) -1.00"),
        ([("a", 0.1, 90.0)], 1, ""),
    ],
)
def test_displacement_has_a_point_a_model_and_the_rank_correlation(points, drawn, said):
    figure = plot_displacement(points, 0.5, "Top-1 accuracy (%)")
    (axes,) = figure.axes
    assert [tuple(line.get_xydata()[0]) for line in axes.lines] == [point[1:] for point in points[:drawn]]
    assert legend(figure) == [label for label, *_ in points[:drawn]]
    assert axes.get_title("right") == said
