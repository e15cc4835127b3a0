"""What a page begins with, of given rates."""

import dataclasses

import pytest
from conftest import collapsed, under
from test_tables import with_rates

from rossbench.report.finding import finding

CASES = [
    (
        {(0, 0): [98.5, 0.7], (0.5, 0.5): [98.5, 86.19], (1, 1): [97, 86.2]},
        [
            "At attack ε = 1, conv3 ε=1 keeps 86.2 % of the test images right, conv3 ε=0 0.7 %; conv3 ε=0.5 is within "
            "noise of the best.",
            "Without an attack: conv3 ε=1 97.0 % and conv3 ε=0 98.5 %.",
        ],
    ),
    (
        {(0, 0): [98.5, 50], (1, 1): [97, 50.01]},
        [
            "At attack ε = 1, conv3 ε=1 keeps 50.0 % of the test images right, conv3 ε=0 50.0 %: no difference beyond "
            "noise.",
            "Without an attack: conv3 ε=1 97.0 % and conv3 ε=0 98.5 %.",
        ],
    ),
    (
        {(0, 0): [None, 50]},
        ["At attack ε = 1, conv3 ε=0 keeps 50.0 % of the test images right."],
    ),
]


@pytest.mark.parametrize(("rates", "said"), CASES)
def test_the_finding_is_made_of_the_numbers(matrix, rates, said):
    given = with_rates(matrix, rates, (0, 1))
    cells = {place: record and under(record, epsilon=place[2]) for place, record in given.cells.items()}
    found = finding([dataclasses.replace(given, cells=cells)])
    assert found.sentences == said
    assert "Attack ε is the L2 distance by which each test image, its pixels in [0, 1], may be changed" in found.terms


def test_a_collapsed_encoder_is_never_the_finding(matrix):
    given = with_rates(matrix, {(0, 0): [90], (1, 1): [70]}, (0,))
    cells = {place: under(record, epsilon=0) for place, record in given.cells.items()}
    cells[0, 0, 0] = collapsed(cells[0, 0, 0])
    assert finding([dataclasses.replace(given, cells=cells)]).sentences == [
        "Without an attack, conv3 ε=1 keeps 70.0 % of the test images right.",
        "Not to be trusted, and not counted here: conv3 ε=0 (collapsed encoder).",
    ]


def test_nothing_evaluated_has_no_finding(matrix):
    assert finding([dataclasses.replace(matrix, cells=dict.fromkeys(matrix.cells))]) is None
