"""The sliced fit: minima known in closed form, coordinates, weights, thin components, batches."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.sliced import (
    WHITENING_RIDGE,
    SlicedObjective,
    Whitening,
    fit_sliced,
    refine_sliced,
)
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, ELEMENTARY_TYPES, FULL, SPHERICAL
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.numerics.fixed_point import Solution

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def name(request):
    return request.param


def objective(X, kind, **options):
    return SlicedObjective(X, kind, generator=generator(), **{"n_projections": 16} | options)


def test_points_are_mixtures_and_back(name, make_mixture, make_samples):
    mixture = make_mixture(name, 3, 2)
    problem = objective(make_samples(20, 2), COVARIANCE_TYPES[name], reg_covar=0.0)
    found = problem.to_mixture(problem.to_point(mixture))
    for ours, given in zip(found, mixture, strict=True):
        assert_close(ours, given)


def test_every_point_is_a_mixture(name, make_mixture, make_samples):
    mixture = make_mixture(name, 3, 2)
    problem = objective(make_samples(20, 2), COVARIANCE_TYPES[name], reg_covar=1e-3)
    point = problem.to_point(mixture)
    for i in range(5):
        moved = [5 * torch.randn(t.shape, dtype=F64, generator=generator(i)) for t in point]
        found = problem.to_mixture(moved)
        assert_close(found.weights.sum(), torch.ones((), dtype=F64))
        assert (torch.linalg.eigvalsh(found.full_covariances()) > 0.9e-3).all()


@pytest.mark.usefixtures("random_seed")
def test_one_gaussian_fits_mean_and_covariance(make_samples):
    A = torch.tensor([[1.0, 0.0], [0.8, 0.5]], dtype=F64)
    X = make_samples(1000, 2) @ A.mT + 1
    start = GaussianMixtureParams(
        torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), 0.01 * torch.eye(2, dtype=F64)[None]
    )
    solution = fit_sliced(objective(X, FULL), start, tol=1e-3)
    assert solution.converged
    assert_close(solution.value.means[0], X.mean(0), atol=0.01, rtol=0)
    assert_close(solution.value.covariances[0], X.mT.cov(), atol=0.03, rtol=0)


def test_an_unequal_mixture_is_found_with_its_weights(name, make_mixture, random_seed):
    truth = make_mixture(name, 3, 2)
    truth = GaussianMixtureParams(
        torch.tensor([0.7, 0.2, 0.1], dtype=F64),
        torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=F64),
        0.05 * truth.covariances,
    )
    X, labels = sample(truth, 1000, generator=generator(random_seed))
    start = truth._replace(weights=torch.full((3,), 1 / 3, dtype=F64), means=truth.means + 0.3)
    problem = objective(X, COVARIANCE_TYPES[name])
    # with weights held at first, the largest component may be split from here, as for seed 3
    solution = fit_sliced(problem, start, hold_weights=False)
    weights, order = solution.value.weights.sort(descending=True)
    assert_close(weights, (labels.bincount() / 1000).double(), atol=0.02, rtol=0)
    assert_close(solution.value.means[order], truth.means, atol=0.1, rtol=0)
    assert solution.objective < problem.distance(truth)


@pytest.mark.usefixtures("random_seed")
def test_a_component_that_is_too_thin_widens_again(make_samples):
    # in the logarithm of a deviation the gradient vanishes with it; in its root it does not
    X = make_samples(500, 2)
    start = GaussianMixtureParams(
        torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), torch.full((1, 1), 1e-12, dtype=F64)
    )
    solution = fit_sliced(objective(X, SPHERICAL), start)
    assert_close(solution.value.covariances, torch.ones(1, 1, dtype=F64), atol=0.15, rtol=0)


@pytest.mark.usefixtures("random_seed")
def test_as_many_components_as_samples_shrink_to_them(name, make_samples):
    X = make_samples(6, 2)
    storage = COVARIANCE_TYPES[name].shape(6, 2)
    wide = torch.eye(2, dtype=F64).expand(storage) if len(storage) == 3 else torch.ones(storage)
    weights = torch.full((6,), 1 / 6, dtype=F64)
    start = GaussianMixtureParams(weights, X + 0.1, 0.04 * wide.to(F64))
    solution = fit_sliced(objective(X, COVARIANCE_TYPES[name]), start, tol=1e-3)
    assert solution.objective < 0.1 * solution.objectives[0]  # never zero: of reg_covar
    apart = torch.cdist(X, solution.value.means)  # near samples may have changed components
    assert max(apart.amin(0).max(), apart.amin(1).max()) < 0.03  # 0.14 at the start
    assert solution.value.covariances.abs().max() < 0.05**2


@pytest.mark.usefixtures("random_seed")
def test_weights_are_held_at_first_unless_asked_for(make_mixture, make_samples):
    X, start = make_samples(200, 2), make_mixture("diag", 3, 2, spread=4.0)
    problem = objective(X, COVARIANCE_TYPES["diag"])
    held = fit_sliced(problem, start, max_iter=10)
    assert_close(held.value.weights, start.weights)
    free = fit_sliced(problem, start, max_iter=10, hold_weights=False)
    assert (free.value.weights - start.weights).abs().max() > 0.01


@pytest.mark.parametrize("projections", ["quasi", "random", "orthogonal", "max"])
def test_all_directions_lead_to_the_mixture(projections, make_mixture, random_seed):
    truth = make_mixture("diag", 2, 3, spread=3.0)
    X, _ = sample(truth, 500, generator=generator(random_seed))
    problem = objective(X, COVARIANCE_TYPES["diag"], projections=projections, n_projections=8)
    solution = fit_sliced(problem, truth._replace(means=truth.means + 1), tol=0.05)
    assert_close(solution.value.means, truth.means, atol=0.4, rtol=0)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_other_exponents_lead_to_the_mixture(p, make_mixture, random_seed):
    truth = make_mixture("diag", 2, 2)
    means = torch.tensor([[-3.0, 0.0], [3.0, 1.0]], dtype=F64)
    truth = truth._replace(means=means, covariances=0.3 * truth.covariances)
    X, _ = sample(truth, 300, generator=generator(random_seed))
    problem = objective(X, COVARIANCE_TYPES["diag"], p=p, n_projections=8)
    start = truth._replace(means=truth.means + 1.5)
    solution = fit_sliced(problem, start, tol=0.1, max_iter=150)
    assert_close(solution.value.means, truth.means, atol=0.5, rtol=0)
    assert solution.objective < min(1.2 * problem.distance(truth), 0.3 * problem.distance(start))


def test_batches_of_samples_lead_to_the_mixture(make_mixture, random_seed):
    truth = make_mixture("spherical", 2, 2, spread=3.0)
    X, _ = sample(truth, 1000, generator=generator(random_seed))
    a = torch.ones(1000, dtype=F64)
    problem = objective(X, SPHERICAL, batch_size=200, sample_weight=a)
    solution = fit_sliced(problem, truth._replace(means=truth.means + 1))
    assert_close(solution.value.means, truth.means, atol=0.4, rtol=0)


def test_sample_weights_are_repeated_samples(make_mixture, make_samples):
    X, mixture = make_samples(6, 2), make_mixture("full", 2, 2)
    a = torch.tensor([1, 2, 3, 1, 1, 2])
    weighted = objective(X, FULL, sample_weight=a.double()).distance(mixture)
    repeated = objective(X.repeat_interleave(a, dim=0), FULL).distance(mixture)
    assert abs(weighted - repeated) < 1e-9


def test_a_fit_is_refined_to_where_all_lines_are_at_their_minimum(make_mixture):
    truth = make_mixture("full", 3, 2)
    X, _ = sample(truth, 2000, generator=generator())
    problem = objective(X, truth.covariance_type, n_projections=30)
    start = truth._replace(means=truth.means + 0.3)
    end = refine_sliced(problem, start, tol=1e-4)
    assert end.objective < 0.15 * problem.held_out_distance(start)
    assert_close(problem.held_out_distance(end.value), end.objective)
    point = [t.requires_grad_() for t in problem.to_point(end.value)]
    before = [t.requires_grad_() for t in problem.to_point(start)]
    slope, first = (
        sum(g.norm() for g in torch.autograd.grad(problem.fixed_loss(problem.to_mixture(p)), p))
        for p in (point, before)
    )
    assert slope < 0.02 * first


@pytest.mark.parametrize(("gain", "kept"), [(1e-9, False), (1e-5, True)])
def test_a_refinement_that_gains_rounding_only_is_the_start(gain, kept, make_mixture, monkeypatch):
    start = make_mixture("full", 2, 2)
    problem = objective(sample(start, 100, generator=generator())[0], start.covariance_type)
    before = problem.held_out_distance(start)
    moved = start._replace(means=start.means + 1e-3)

    def refined(objective, theta0, share, **options):
        after = (1 - gain) * before
        return Solution(moved, theta0, after, (before, after), 5, True, 0.0)

    monkeypatch.setattr("skgmmot.fitting.sliced._refined", refined)
    found = refine_sliced(problem, start)
    assert (found.value is moved) == kept and found.objective == (1 - gain * kept) * before


def test_a_hopeless_fit_is_given_up_after_five_steps(make_mixture):
    truth = make_mixture("full", 3, 2)
    X, _ = sample(truth, 500, generator=generator())
    problem = objective(X, truth.covariance_type)
    start = truth._replace(means=truth.means * 0.2)
    whole, given_up = (refine_sliced(problem, start, tol=1e-6, hopeless=h) for h in (9.0, 0.0))
    assert given_up.n_iter == 5 < whole.n_iter
    assert whole.objective < given_up.objective < problem.held_out_distance(start)


def test_the_loss_of_a_share_is_that_of_the_first_directions(make_mixture, make_samples):
    mixture = make_mixture("diag", 3, 2)
    problem = objective(make_samples(50, 2), mixture.covariance_type, n_projections=9)
    theta, samples = problem.fixed
    few = problem.fixed_loss(mixture, 1 / 3)
    problem.fixed = theta[:3], samples.rows(slice(3))
    assert_close(few, problem.fixed_loss(mixture))


def test_the_fixed_distance_does_not_change_with_the_steps(make_mixture, make_samples):
    problem, mixture = objective(make_samples(50, 2), FULL), make_mixture("full", 2, 2)
    before = problem.distance(mixture)
    losses = [float(problem.loss(mixture)) for _ in range(25)]
    assert problem.distance(mixture) == before
    assert len(set(losses)) == 3  # directions are new every ten steps


@pytest.mark.parametrize(("d", "expected"), [(1, (1, 500)), (2, (16, 100))])
@pytest.mark.parametrize("batch_size", [None, 400])
def test_samples_on_all_lines_are_thinned_out_where_they_would_take_much_memory(
    d, expected, batch_size, make_mixture, make_samples, monkeypatch
):
    monkeypatch.setattr("skgmmot.fitting.sliced.MAX_PROJECTED", 16 * 100)
    problem = objective(make_samples(500, d), FULL, batch_size=batch_size)
    problem.loss(make_mixture("full", 2, d))
    assert problem.fixed[1].values.shape == problem.held_out[1].values.shape == expected
    steps = problem.current[1].values.shape
    assert steps == (expected[0], min(expected[1], batch_size or 500))


def test_samples_are_drawn_by_their_weights_where_not_all_are_taken(
    make_mixture, make_samples, monkeypatch
):
    monkeypatch.setattr("skgmmot.fitting.sliced.MAX_PROJECTED", 100)
    X, a = make_samples(400, 1), torch.ones(400, dtype=torch.float64)
    X[0], a[0], a[1:50] = 99.0, 350.0, 0.0  # half of all
    X[1:50] = -99.0
    problem = objective(X, FULL, sample_weight=a)
    for _ in range(2):
        problem.loss(make_mixture("full", 2, 1))
        for values in (problem.fixed[1].values, problem.current[1].values):
            assert values.shape == (1, 100)
            assert abs(int((values == 99.0).sum()) - 50) <= 1
            assert not (values == -99.0).any()
        problem.age = 10


def test_samples_that_are_thinned_out_are_drawn_anew(make_mixture, make_samples, monkeypatch):
    monkeypatch.setattr("skgmmot.fitting.sliced.MAX_PROJECTED", 50)
    problem, mixture = objective(make_samples(500, 1), FULL), make_mixture("full", 2, 1)
    seen = []
    for _ in range(20):
        problem.loss(mixture)
        seen.append(problem.current[1].values)
    assert seen[0] is seen[9]
    assert not torch.equal(seen[9], seen[10])


@pytest.mark.parametrize(
    ("n_features", "expected"), [(2, 50), (11, 275), (12, 300), (30, 300), (31, 310)]
)
def test_more_features_are_seen_by_more_directions(n_features, expected, make_samples):
    found = SlicedObjective(make_samples(20, n_features), SPHERICAL, generator=generator())
    assert found.n_projections == expected
    assert found.n_drawn == min(expected, 100)


def test_whitened_moments_of_samples_are_the_identity_in_any_unit(name):
    X = torch.randn(500, 3, dtype=F64, generator=generator()) * torch.tensor([1.0, 2.0, 0.5])
    X, origin, scale = X - X.mean(0), torch.zeros(3, dtype=F64), 4.0
    covariance_type, ones = COVARIANCE_TYPES[name], torch.ones(1, dtype=F64)
    covariances = covariance_type.nearest((X.mT @ X / len(X)).unsqueeze(0), ones)
    theta = GaussianMixtureParams(ones, X[:1], covariances, covariance_type)
    whitening = Whitening(covariance_type, covariances / scale**2, origin, scale)
    white = whitening.whiten(theta)
    identity = torch.eye(3, dtype=F64)  # but for the ridge
    assert_close(white.full_covariances()[0], identity, rtol=0, atol=2 * WHITENING_RIDGE)
    assert_close(white.means, whitening.rows(X[:1]))
    for found, expected in zip(whitening.unwhiten(white), theta, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("options", [{}, {"projections": "max"}, {"batch_size": 20}])
@pytest.mark.parametrize("n_steps", [0, 3, 10, 17])
def test_steps_go_on_from_any_state_with_the_same_directions(
    options, n_steps, make_mixture, make_samples
):
    mixture, X = make_mixture("full", 3, 2), make_samples(60, 2)
    problem = objective(X, FULL, **options)
    for _ in range(n_steps):
        problem.loss(mixture)
    state, moved = problem.get_state(), mixture._replace(means=mixture.means + 1)
    expected = [float(problem.loss(moved)) for _ in range(12)]
    again = objective(X, FULL, **options)
    again.set_state(state)
    assert [float(again.loss(moved)) for _ in range(12)] == expected


def explained(X, mixture, **options):
    """Whether a mixture explains samples."""
    return SlicedObjective(X, mixture.covariance_type, **options).explains(mixture)


def two_groups(n):
    """Samples of two Gaussians in four dimensions, and the mixture of their moments."""
    X = torch.randn(n, 4, dtype=torch.float64)
    X[: n // 4] += 5
    groups = X[: n // 4], X[n // 4 :]
    means = torch.stack([group.mean(0) for group in groups])
    covariances = torch.stack([group.mT.cov(correction=0) for group in groups])
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    return X, GaussianMixtureParams(weights, means, covariances)


@pytest.mark.parametrize("n", [40, 400, 4000])
def test_a_mixture_explains_samples_up_to_their_noise(n, random_seed):
    X, mixture = two_groups(n)
    assert explained(X, mixture)
    shifted = mixture._replace(means=mixture.means + 4 / n**0.5)
    assert not explained(X, shifted)
    wide = mixture._replace(covariances=mixture.covariances * (1 + 8 / n**0.5))
    assert not explained(X, wide)


@pytest.mark.usefixtures("random_seed")
def test_copies_and_weights_explain_alike():
    X, mixture = two_groups(400)
    mixture = mixture._replace(means=mixture.means + 0.03)
    a = torch.ones(400, dtype=torch.float64)
    assert explained(X, mixture) and not explained(X.repeat(9, 1), mixture)
    for weights in (a, 0.01 * a, a / 400):  # shares, of as many samples
        assert explained(X, mixture, sample_weight=weights)
    assert not explained(X, mixture, sample_weight=9 * a)
