"""What covariance types compute in storage, against full matrices and autograd."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, ELEMENTARY_TYPES

F64 = torch.float64
K, d = 3, 4
EYE = torch.eye(d, dtype=F64)


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def name(request):
    """A covariance type's name."""
    return request.param


@pytest.fixture
def kind(name):
    """A covariance type."""
    return COVARIANCE_TYPES[name]


@pytest.fixture
def covariances(name, make_mixture):
    """Covariances of three components in four dimensions, by seed."""
    return lambda seed=0: make_mixture(name, K, d, seed=seed).covariances


@pytest.fixture
def symmetric(kind, covariances):
    """Small symmetric matrices in storage, of eigenvalues of both signs, by seed."""
    return lambda seed: 0.1 * (covariances(seed) - covariances(seed + 1))


def as_matrices(kind, storage):
    """One matrix a component."""
    return kind.to_full(storage, K, d)


def test_products_in_storage_are_those_of_matrices(kind, covariances, symmetric, make_samples):
    S, B = covariances(), symmetric(3)
    F = kind.factor(covariances(5))
    full, full_B, full_F = (as_matrices(kind, t) for t in (S, B, F))
    half = EYE + full_B
    pairs = [
        (F, full_F),
        (kind.transpose(F), full_F.mT),
        (kind.congruence(S, F), full_F.mT @ full @ full_F),
        (kind.squared(B, F), full_F @ half @ half @ full_F.mT),
        (kind.anticommutator(S, B), full @ full_B + full_B @ full),
        (kind.pushed(S, B), half @ full @ half),
        (kind.symmetric(F), (full_F + full_F.mT) / 2),
    ]
    for found, expected in pairs:
        assert_close(as_matrices(kind, found), expected)
    assert_close(full_F @ full_F.mT, as_matrices(kind, covariances(5)))
    X = make_samples(K * 5, d).view(K, 5, d)
    assert_close(kind.apply(X, F), X @ full_F)


def test_diagonals_are_those_of_matrices(kind, covariances):
    S = covariances()
    full = as_matrices(kind, S)
    diagonals = kind.diagonals(S).expand(K, d)
    assert_close(diagonals, full.diagonal(dim1=-2, dim2=-1))
    precisions = kind.precision_diagonals(kind.precision_factor(S)).expand(K, d)
    assert_close(precisions, torch.linalg.inv(full).diagonal(dim1=-2, dim2=-1))


def test_functions_of_covariances_have_their_inverses(kind, covariances):
    S, scale = covariances(), torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=F64)
    assert_close(kind.from_free(kind.to_free(S, scale), scale), S)
    assert_close(kind.exponential(kind.logarithm(S)), S)
    logarithms = as_matrices(kind, kind.logarithm(S))
    assert_close(torch.linalg.matrix_exp(logarithms), as_matrices(kind, S))
    nothing = kind.logarithm(torch.cat([S, S * torch.inf]))
    assert_close(nothing[: len(S)], kind.logarithm(S))
    assert not torch.isfinite(nothing[len(S) :]).any()
    B = as_matrices(kind, kind.root(S))
    assert_close(B @ B.mT, as_matrices(kind, S))
    regular = as_matrices(kind, kind.from_root(kind.root(S), 0.3))
    assert_close(regular, as_matrices(kind, S) + 0.3 * EYE)


def test_the_nearest_of_a_type_is_a_mean(kind, name, make_covariances):
    matrices, weights = make_covariances(K, d), torch.tensor([0.2, 0.3, 0.6], dtype=F64)
    diagonals = matrices.diagonal(dim1=-2, dim2=-1)
    expected = {
        "full": matrices,
        "tied": (weights[:, None, None] * matrices).sum(0, keepdim=True) / weights.sum(),
        "diag": diagonals,
        "spherical": diagonals.mean(1, keepdim=True),
    }[name]
    assert_close(kind.nearest(matrices, weights), expected)
    of_diagonals = as_matrices(kind, kind.nearest(diagonals, weights))
    assert_close(
        of_diagonals, as_matrices(kind, kind.nearest(torch.diag_embed(diagonals), weights))
    )


def test_cotangents_of_estimates_and_features_are_those_of_autograd(
    kind, covariances, make_samples
):
    mass = torch.tensor([2.0, 5.0, 3.0], dtype=F64, requires_grad=True)
    shift = (0.1 * make_samples(K, d)).requires_grad_()
    scatter = (10 * covariances()).requires_grad_()
    u = kind.symmetric(covariances(7) - covariances(8))
    value = kind.estimate(mass, shift, scatter, 0.1)
    expected = torch.autograd.grad((u * value).sum(), (mass, shift, scatter))
    with torch.no_grad():
        found = kind.estimate_pullback(mass, shift, scatter, u)
    assert_close(tuple(t.expand_as(e) for t, e in zip(found, expected, strict=True)), expected)

    X, q = make_samples(d, 6).requires_grad_(), kind.n_quadratic(d)
    if not q:  # features that move no responsibility
        assert not kind.quadratic_pullback(X.detach(), X.new_empty(0, 6)).any()
        return
    cotangents = make_samples(q, 6, seed=1)
    features = torch.empty(q, 6, dtype=F64)
    kind.quadratic(X.detach(), out=features)
    products = [
        X[i] * X[j] for i in range(d) for j in range(i, d) if q > d or i == j
    ]  # the upper triangle, the diagonal, or its sum
    products = torch.stack(products) if q > 1 else torch.stack(products).sum(0, keepdim=True)
    assert_close(features, products.detach())
    (expected,) = torch.autograd.grad((products * cotangents).sum(), X)
    assert_close(kind.quadratic_pullback(X.detach(), cotangents), expected)


def test_the_score_is_the_derivative_in_the_covariances(kind, covariances):
    S, moments = covariances().requires_grad_(), 10 * covariances(9)
    mass = torch.tensor([2.0, 5.0, 3.0], dtype=F64)
    full = as_matrices(kind, S)
    terms = [(torch.linalg.inv(full) * as_matrices(kind, moments)).sum((-2, -1))]
    if kind.shared:  # moments of all components together
        terms = [t[:1] for t in terms]
    value = -(mass * torch.linalg.slogdet(full).logabsdet).sum() - terms[0].sum()
    (expected,) = torch.autograd.grad(value, S)
    precisions = kind.precisions(kind.precision_factor(S.detach()))
    found = kind.pooled(d) * kind.score(precisions, mass, moments)
    assert_close(kind.symmetric(found), kind.symmetric(expected))


@pytest.mark.parametrize("batch", [(), (5,)])
def test_a_quadratic_term_that_all_components_share_has_no_coefficients(batch):
    precisions = torch.eye(3).expand(*batch, 1, 3, 3)
    assert COVARIANCE_TYPES["tied"].quadratic_coefficients(precisions).shape == (*batch, 1, 0)


def test_scores_are_in_inverse_units_however_large(kind, covariances):
    S = covariances()
    mass, scatter = torch.linspace(1.0, 2.0, K, dtype=F64), covariances() * 3
    precisions = kind.precisions(kind.precision_factor(S))
    expected = kind.score(precisions, mass, scatter)
    large = kind.score(precisions * 1e-200, mass, scatter * 1e200)
    assert_close(large * 1e200, expected)
