"""The kinds of figures: each function finds what models of a store have, and draws it. ``rossbench figure`` lists them.

A function takes the FigureData of a store, models of it, and options; beside it stands what draws from plain values.
"""

from ... import stages as stages  # before matplotlib is imported
from .adversarial_examples import examples
from .class_counts import per_class
from .curves import robustness, training
from .heatmaps import confusion, matrix
from .kinds import corruptions, displacement, distances
from .maps import tsne, tsne_together

__all__ = [
    "confusion",
    "corruptions",
    "displacement",
    "distances",
    "examples",
    "matrix",
    "per_class",
    "robustness",
    "training",
    "tsne",
    "tsne_together",
]
