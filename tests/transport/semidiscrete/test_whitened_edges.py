"""Edges seen from a Gaussian, and integrals along them."""

import numpy as np

from skgmmot.transport.semidiscrete import whitened_edges


def test_short_edges_by_nodes_are_as_accurate_as_by_owen_s_function(rng, monkeypatch):
    ends = rng.normal(size=(2, 2, 3, 400)) * [[[4.0], [1.0], [0.2]]]
    ends[1, ..., :200] = ends[0, ..., :200] + rng.normal(size=(2, 3, 200)) / 10
    ends[:, :, 0, 0] = [[0.0, 0.0], [0.3, 0.4]]  # from the origin
    ends[:, :, 0, 1] = [[-0.2, 0.0], [0.2, 0.0]]  # through it
    edges = whitened_edges.WhitenedEdges.between(*ends.reshape(2, 2, -1), (1.0, 0.0, 1.0))
    assert all(
        (edges.length <= length).sum() > 100 for length, _ in whitened_edges.SHORT_EDGE_RULES
    )
    short = whitened_edges.standard_normal_integrals(edges)
    monkeypatch.setattr(whitened_edges, "SHORT_EDGE_RULES", ())
    owen = whitened_edges.standard_normal_integrals(edges)
    assert np.abs(short[0] - owen[0]).max() < 1e-13
    assert all(np.array_equal(*pair) for pair in zip(short[1:], owen[1:], strict=True))
