"""Counts among arguments, and what values are called in error messages."""

import numpy as np
import pytest
import torch

from skgmmot import DifferentiableGaussianMixture, OTMap
from skgmmot import functional as F
from skgmmot.numerics.counts import positive_integer, shown


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None])
def test_what_is_no_count_is_refused_with_advice(value):
    with pytest.raises(ValueError, match=r"n must be a positive integer, got .*\. Pass less\.$"):
        positive_integer("n", value, "Pass less.")
    assert positive_integer("n", np.int64(3)) == 3


ONES = torch.ones(2, 1, dtype=torch.float64)
MIXTURE = F.GaussianMixtureParams(ONES[:, 0] / 2, ONES * torch.tensor([[0.0], [9.0]]), ONES)
#: Functions of tensors by the name of a count that they take.
COUNTED = {
    "n_components": lambda n: F.reduce(MIXTURE, n, torch.Generator()),
    "n_init": lambda n: F.reduce(MIXTURE, 1, torch.Generator(), n_init=n),
    "n_directions": lambda n: F.directions("quasi", n, 3),
    "n_features": lambda n: F.directions("random", 3, n),
    "n_samples": lambda n: F.sample(MIXTURE, n),
    "n_samples ": lambda n: F.rsample(MIXTURE, n),
    "n_nodes": lambda n: F.nodes_plan(MIXTURE, ONES, ONES[:, 0], n_nodes=n),
    "n_steps": lambda n: F.mixture_flow(MIXTURE, MIXTURE)[1].transport(ONES, [0.0, 1.0], n),
    "n_paths": lambda n: F.mixture_flow(MIXTURE, MIXTURE)[1].paths([0.0, 1.0], n),
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "2"])
def test_functions_of_tensors_refuse_what_is_no_count_in_the_same_words(name, value):
    with pytest.raises(ValueError, match=rf"^{name.strip()} must be a positive integer, got"):
        COUNTED[name](value)
    COUNTED[name](np.int64(2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, "0.5"),
        ([1, 2], "[1, 2]"),
        (np.zeros((150, 4)), "ndarray of shape (150, 4)"),
        (torch.arange(300.0), "Tensor of shape (300,)"),
        (list(range(100)), "list of length 100"),
        (DifferentiableGaussianMixture(tol=1 / 3), "DifferentiableGaussianMixture(tol=0.333"),
        (OTMap(mixture=DifferentiableGaussianMixture(3, checkpoint="x" * 200)), "OTMap(mixture=D"),
    ],
)
def test_long_values_are_told_in_few_words(value, expected):
    found = shown(value)
    assert found.startswith(expected) and (len(found) == len(expected) or "(" in expected)
