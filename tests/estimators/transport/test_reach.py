"""Images that are far from where the target reaches."""

import numpy as np
import pytest
import torch

from skgmmot import ot_map
from skgmmot.estimators.transport._reach import Reach
from skgmmot.gaussian.mixture import GaussianMixtureParams


@pytest.mark.parametrize("strategy", ["mean", "random"])
def test_images_far_from_the_target_are_warned_of_both_ways(strategy):
    thin = ([1.0], [[0.0, 0.0]], [np.diag([1.0, 1e-6])])
    wide = ([0.0, 1.0], [[9e9, 0.0], [3.0, 5.0]], [np.eye(2), np.eye(2)])  # no mass at the first
    there, back = (ot_map(*m, strategy=strategy) for m in ((thin, wide), (wide, thin)))
    for move in (there.transform, back.inverse_transform):
        move([[14.0, 0.0], [0.0, 0.049]])  # as far again as nine times the target's reach
        with pytest.warns(UserWarning, match="got one at 65 in feature 1, .* from 0 to 10"):
            move([[0.0, 0.0], [0.0, 0.06]])
    there.inverse_transform([[50.0, 0.0]])


def test_what_is_far_goes_with_the_mixture():
    w, m, S = torch.ones(1), torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 1e-6]])
    here, there = (Reach.of(GaussianMixtureParams(w, m + by, S)) for by in (0.0, 1000.0))
    for near, far in zip(here, there, strict=True):
        assert torch.allclose(near + 1000, far, rtol=1e-6)
    # five deviations on each side, ten times as far; the second feature in units of both
    width = [20.0, (20.0**2 / 2) ** 0.5]
    expected = [1 + 5 * width[0], 2 + 5 * width[1]]
    assert here.far_above.tolist() == pytest.approx(expected, rel=1e-4)
