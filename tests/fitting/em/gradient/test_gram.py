"""The Gram matrix of EM's statistics in the samples, and the natural step it is for."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.gradient.gram import FeatureGram, SampleGram
from skgmmot.gaussian.evaluators import FeatureEStep
from skgmmot.gaussian.statistics import e_step
from skgmmot.numerics.blocks import Buffers, add

F64 = torch.float64
TYPES = ["full", "tied", "diag", "spherical"]


@pytest.fixture(params=TYPES)
def kind(request):
    return request.param


# --- the matrix ----------------------------------------------------------------------------------


def jacobian(theta, X, a):
    """Derivatives of all statistics in the samples ``(q, n, d)``, by autograd."""

    def statistics(X):
        found = e_step(theta, X, a)
        return torch.cat([t.flatten() for t in found[:3]])

    return torch.autograd.functional.jacobian(statistics, X)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("K", "d"), [(3, 2), (1, 3), (2, 1)])
def test_the_gram_matrix_is_that_of_autograds_derivatives(
    kind, K, d, weighted, make_mixture, make_samples
):
    theta, X = make_mixture(kind, K, d), 2 * make_samples(40, d)
    a = make_samples(40, 1, seed=1).exp().squeeze(1) if weighted else torch.ones(40, dtype=F64)
    J = jacobian(theta, X, a) / a.sqrt().unsqueeze(1)
    found, _ = SampleGram(theta, X.new_zeros(d)).block(X, a if weighted else None, None)
    assert_close(found, J.flatten(1) @ J.flatten(1).mT, rtol=1e-10, atol=1e-10)


def test_gram_matrices_of_blocks_add_and_do_not_depend_on_the_origin(make_mixture, make_samples):
    theta, X = make_mixture("full", 3, 2), make_samples(50, 2)
    origin = torch.tensor([3.0, -5.0], dtype=F64)
    expected, _ = SampleGram(theta, torch.zeros(2, dtype=F64)).block(X, None, None)
    gram = SampleGram(theta, origin)
    parts = [gram.block(part + origin, None, None)[0] for part in X.split(20)]
    assert_close(sum(parts), expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "d"), [("full", 3), ("full", 1), ("diag", 3), ("spherical", 3)])
def test_features_have_the_gram_matrix_of_autograds_derivatives(
    name, d, weighted, make_mixture, make_samples
):
    origin = torch.linspace(1, 2, d, dtype=F64)
    theta, X = make_mixture(name, 2, d), 2 * make_samples(30, d) + origin
    a = make_samples(30, 1, seed=1).exp().squeeze(1) if weighted else torch.ones(30, dtype=F64)
    step = FeatureEStep(theta, origin)

    def sums(X):
        x = X - origin
        pairs = {"full": torch.combinations(torch.arange(d), with_replacement=True)}.get(name)
        squares = x.square().sum(1, keepdim=True) if name == "spherical" else x.square()
        quadratic = squares if pairs is None else x[:, pairs].prod(2)
        phi = torch.cat([x, torch.ones_like(x[:, :1]), quadratic], dim=1)
        resp = torch.softmax(phi @ step.coefficients.mT, dim=1) * a.unsqueeze(1)
        return (resp.mT @ phi).flatten()

    J = torch.autograd.functional.jacobian(sums, X) / a.sqrt().unsqueeze(1)
    weights = a if weighted else None
    parts = [slice(0, 12), slice(12, 30)]
    found, _ = add(
        FeatureGram(step).block(X[r], None if weights is None else weights[r], Buffers(X.device))
        for r in parts
    )
    assert_close(found, J.flatten(1) @ J.flatten(1).mT, rtol=1e-10, atol=1e-10)
