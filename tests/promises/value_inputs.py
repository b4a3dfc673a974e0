"""Generated mixtures and samples as tensors, for the functions of tensors.

They are valid, for these functions validate little, and their squares, in units of the narrowest
component, are far within float64.
"""

import numpy as np
import torch
from hypothesis import strategies as st
from promises.inputs import REFUSED, answered, assert_finite, samples, seeds
from promises.mixture_inputs import FEATURES, plain_mixtures, reference_matrices

from skgmmot import DifferentiableGaussianMixture

DOUBLE = torch.float64
NUMBERS = st.integers(2, 12)


#: Largest size, smallest nonzero one, and largest ratio of both.
SIZES, MAX_RATIO = (1e-70, 1e70), 1e100


def in_range(mixture, *others):
    """Whether sizes of a mixture and of samples are such that their squares are numbers."""
    _, means, covariances, _ = mixture
    with np.errstate(invalid="ignore"):
        sizes = [abs(np.asarray(t)).ravel() for t in (means, *others)]
        sizes = np.concatenate([*sizes, np.sqrt(abs(covariances)).ravel()])
    sizes = sizes[sizes != 0]
    if not len(sizes):
        return True
    low, high = SIZES
    return low < sizes.min() and sizes.max() < high and sizes.max() / MAX_RATIO < sizes.min()


def as_params(mixture):
    """A mixture as a value, or `REFUSED`."""
    if not in_range(mixture):
        return REFUSED
    model = answered(DifferentiableGaussianMixture.from_parameters, *mixture)
    return model if model is REFUSED else model._params()


@st.composite
def problems(draw, n=NUMBERS):
    """A mixture as arrays and as a value, and samples of its dimension, near it or anywhere."""
    mixture = draw(plain_mixtures(draw(FEATURES), absurd=False))
    X = draw(samples(n=n, d=st.just(mixture[1].shape[1])))
    if draw(st.booleans()):
        rng, (matrices, _) = np.random.default_rng(draw(seeds)), reference_matrices(mixture)
        k = rng.integers(len(mixture[0]), size=len(X))
        width = np.sqrt(np.einsum("kii->ki", matrices).clip(0))
        with np.errstate(over="ignore", invalid="ignore"):  # then they are not in range
            X = mixture[1][k] + width[k] * rng.normal(size=X.shape)
    X = np.nan_to_num(X)
    theta = as_params(mixture) if in_range(mixture, X) else REFUSED
    return mixture, theta, torch.tensor(X)


@st.composite
def pairs_of_values(draw):
    """Two mixtures as arrays and as values."""
    d = draw(FEATURES)
    pair = [draw(plain_mixtures(d, absurd=False)) for _ in range(2)]
    return pair, [as_params(mixture) for mixture in pair]


def any_refused(*answers):
    """Whether one is `REFUSED`."""
    return any(answer is REFUSED for answer in answers)


def assert_mixture(mixture):
    """A mixture is one: finite, with weights of sum one."""
    assert_finite(*mixture)
    assert (mixture.weights >= 0).all() and abs(float(mixture.weights.sum()) - 1) < 1e-9
