"""Trees and graphs are laid out as their merges and links say."""

from __future__ import annotations

import numpy as np

from harness import Dendrogram
from harness.report.figure_marks import leaf_order, spring_layout


def test_leaves_stand_in_the_order_of_the_tree():
    assert leaf_order(Dendrogram(merges=((0, 1, 1.0), (2, 3, 1.5), (4, 5, 4.0)))) == [0, 1, 2, 3]
    assert leaf_order(Dendrogram(merges=((1, 3, 1.0), (0, 2, 2.0), (4, 5, 3.0)))) == [1, 3, 0, 2]


def test_a_layout_draws_linked_nodes_together():
    edges = [(a, b, 1.0) for group in ((0, 1, 2), (3, 4, 5)) for a in group for b in group if a < b]
    places = spring_layout(6, edges)
    inside = np.linalg.norm(places[0] - places[1])
    assert inside < 0.7 * np.linalg.norm(places[:3].mean(0) - places[3:].mean(0))
    np.testing.assert_array_equal(places, spring_layout(6, edges))
