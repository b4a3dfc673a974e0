"""Patterns of missing entries: the order of samples, and labels drawn."""

import math

import torch
from torch.testing import assert_close

from skgmmot.gaussian.incomplete.patterns import Patterns, by_pattern, drawn_labels

F64, NAN = torch.float64, math.nan


def test_rows_are_sorted_by_what_they_have(make_samples):
    X = make_samples(40, 60)
    X[make_samples(40, 60, seed=3) < 0] = NAN
    X = X[torch.arange(40).repeat(3)]
    rows = by_pattern(X)
    assert sorted(rows.tolist()) == list(range(120))
    patterns = Patterns.of(X[rows].isnan())
    assert len(patterns.rows) == 40 and patterns.counts().tolist() == [3] * 40
    assert_close(patterns.observed[:, None].expand(-1, 3, -1).reshape(120, 60), ~X[rows].isnan())


def test_components_without_probability_are_never_drawn():
    resp = torch.tensor([[0.0, 0.5], [1.0, 0.5], [0.0, 0.0]], dtype=F64)
    assert drawn_labels(resp, torch.tensor([0.0, 1.0])).tolist() == [1, 1]
