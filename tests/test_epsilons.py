from itertools import pairwise

import pytest
from conftest import TEXTS, refusal
from hypothesis import example, given
from hypothesis import strategies as st

from rossbench.util.epsilons import format_epsilon, format_model, parse_epsilons, parse_models
from rossbench.util.errors import InvalidValue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0.0,)),
        ("0,0.5, 1", (0.0, 0.5, 1.0)),
        ("0:1:0.2", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ("0:1:0.3", (0.0, 0.3, 0.6, 0.9)),
        ("0,8/255", (0.0, 8 / 255)),
        ("0:8/255:4/255", (0.0, 4 / 255, 8 / 255)),
        ("0:0.4:0.2,2", (0.0, 0.2, 0.4, 2.0)),
    ],
)
def test_epsilons_are_read_exactly(text, expected):
    assert parse_epsilons(text) == expected


NO_EPSILONS = ["", ",", "a", "1,0", "0,0", "-1", "nan", "inf", "1/0", "0:1", "0:1:0", "1:0:0.1", "0:1:1e-9", "0:1:-1"]
NO_MODELS = ["", ",", "0,", "a", "1:", ":1", "1:0:0", "-1", "1:-1", "nan", "1:inf", "1/0:0", "1e9"]


@pytest.mark.parametrize(
    ("parse", "text"),
    [*((parse_epsilons, text) for text in [*NO_EPSILONS, "1e9"]), *((parse_models, text) for text in NO_MODELS)],
)
def test_what_is_no_list_of_epsilons_or_models_is_refused_in_one_line(parse, text):
    with pytest.raises(InvalidValue, match="expected") as raised:
        parse(text)
    assert parse is parse_epsilons or repr(text) in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.sets(st.integers(0, 1000), min_size=1, max_size=20), st.sampled_from([1, 10, 255, 1000]))
def test_epsilons_survive_being_written_and_read(numerators, denominator):
    epsilons = tuple(n / denominator for n in sorted(numerators))
    assert parse_epsilons(",".join(f"{n}/{denominator}" for n in sorted(numerators))) == epsilons


@pytest.mark.parametrize(
    ("epsilon", "text"), [(0.0, "0"), (0.2, "0.2"), (1.0, "1"), (8 / 255, "8/255"), (1 / 3, "85/255")]
)
def test_epsilons_are_shown_short(epsilon, text):
    assert format_epsilon(epsilon) == text


MODELS = [
    ("0", ((0.0, 0.0),)),
    ("1:0", ((1.0, 0.0),)),
    ("0:1", ((0.0, 1.0),)),
    ("0,1,1:0", ((0.0, 0.0), (1.0, 1.0), (1.0, 0.0))),
    ("1:0, 0.2 : 0.4", ((1.0, 0.0), (0.2, 0.4))),
    ("8/255:0,8/255", ((8 / 255, 0.0), (8 / 255, 8 / 255))),
    ("1,0", ((1.0, 1.0), (0.0, 0.0))),
]


@pytest.mark.parametrize(("text", "expected"), MODELS, ids=[text for text, _ in MODELS])
def test_models_are_read_in_their_order(text, expected):
    assert parse_models(text) == expected


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ((0, 0), "0"),
        ((1, 1), "1"),
        ((1, 0), "1:0"),
        ((0, 1), "0:1"),
        ((8 / 255, 0.2), "8/255:0.2"),
        ((0.5, 0.5), "0.5"),
    ],
)
def test_a_model_is_written_short_where_both_epsilons_are_one(model, text):
    assert format_model(*model) == text


# --- properties ----------------------------------------------------------------------------------------------

PIECES = st.text("0123456789./:,e+-_ \n", max_size=20) | TEXTS
NUMBERS = st.floats(0, 1000) | st.floats(0, 1e-6) | st.integers(0, 255_000).map(lambda level: level / 255)
SHARE = 5.01e-4
"""Four digits are shown."""


@given(PIECES)
@example("-1\n/2")
@example("1e999999999")
@example("1e-999999999")
@example("1e-5000,0")
@example("0:1:1e-5000")
@example("0:" + "9" * 5000)
@example("0.1,0.1" + "0" * 20 + "1")
def test_any_text_is_epsilons_or_refused_in_one_line(text):
    if refusal(parse_epsilons, text) is None:
        found = parse_epsilons(text)
        assert all(0 <= number <= 1000 for number in found)
        assert all(a < b for a, b in pairwise(found))


@given(PIECES)
@example("-1\n/2")
@example("1e-999999999")
def test_any_text_is_models_or_refused_in_one_line(text):
    if refusal(parse_models, text) is None:
        assert all(0 <= number <= 1000 for model in parse_models(text) for number in model)


@given(NUMBERS)
@example(1.23456e-10)
@example(1.9999999999998863)
def test_an_epsilon_is_read_as_it_is_shown(epsilon):
    (found,) = parse_epsilons(format_epsilon(epsilon))
    assert found == pytest.approx(epsilon, rel=SHARE, abs=0)
    assert format_epsilon(found) == format_epsilon(epsilon)


@given(st.floats(-1.7e308, 1.7e308))
@example(1e308)
def test_any_finite_number_is_shown(number):
    level, _, levels = format_epsilon(number).partition("/")
    assert float(level) / float(levels or 1) == pytest.approx(number, rel=SHARE, abs=1e-320)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_models_are_read_as_they_are_shown(models):
    found = parse_models(",".join(format_model(*model) for model in models))
    assert [number for model in found for number in model] == [
        pytest.approx(number, rel=SHARE, abs=0) for model in models for number in model
    ]
