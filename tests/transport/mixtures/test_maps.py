"""The maps of a plan between mixtures: the mean map and the random map."""

import numpy as np
import ot
import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from skgmmot.gaussian.bures import low_rank
from skgmmot.gaussian.choice import fastest_e_step
from skgmmot.gaussian.covariance.registry import DIAG, ELEMENTARY_TYPES, FULL
from skgmmot.gaussian.evaluators import DefinitionEStep, WhiteningEStep
from skgmmot.gaussian.log_density import log_responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import sample
from skgmmot.numerics.linalg import bures_map
from skgmmot.transport.discrete.plan import transposed
from skgmmot.transport.mixtures import maps
from skgmmot.transport.mixtures.distance import cost_matrix, transport_plan
from skgmmot.transport.mixtures.maps import (
    FactoredMap,
    carried_labels,
    mean_map,
    mixture_map,
    random_map,
)

F64 = torch.float64


def for_pot(source, target):
    """Means, covariances and weights in the order of `ot.gmm`."""
    fields = zip(
        (source.means, source.full_covariances(), source.weights),
        (target.means, target.full_covariances(), target.weights),
        strict=True,
    )
    return [t.numpy() for both in fields for t in both]


def uniforms(n, seed=0):
    return torch.rand(n, 2, dtype=F64, generator=torch.Generator().manual_seed(seed))


def draw(mixture, n, seed=0):
    return sample(mixture, n, generator=torch.Generator().manual_seed(seed))


def mean_and_covariance(mixture):
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean
    second = mixture.full_covariances() + centred.unsqueeze(2) * centred.unsqueeze(1)
    return mean, torch.einsum("k,kij->ij", mixture.weights, second)


# --- closed forms ------------------------------------------------------------------------------


def test_maps_between_single_gaussians_are_affine(name, make_mixture, make_samples):
    source, target = (make_mixture(name, 1, 3, seed=s) for s in (1, 2))
    mapping, X = mixture_map(source, target), make_samples(10, 3)
    A = bures_map(source.full_covariances()[0], target.full_covariances()[0])
    expected = target.means + (X - source.means) @ A
    assert_close(mean_map(mapping, X), expected)
    assert_close(random_map(mapping, X, uniforms(10)), expected)


@pytest.mark.parametrize("method", ["mean", "random"])
def test_components_far_from_each_other_have_affine_maps_of_their_own(name, method, make_mixture):
    # the origin of the maps is at none of the means
    source, target = (make_mixture(name, 3, 2, seed=s) for s in (1, 2))
    far = 1e3 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]], dtype=F64)
    source, target = (
        source._replace(means=source.means + far),
        target._replace(weights=source.weights, means=target.means + far),
    )
    mapping = mixture_map(source, target)
    for k in range(3):
        X = source.means[k] + torch.tensor([[0.5, -1.0], [-0.3, 0.2]], dtype=F64)
        A = bures_map(source.full_covariances()[k], target.full_covariances()[k])
        expected = target.means[k] + (X - source.means[k]) @ A
        found = mean_map(mapping, X) if method == "mean" else random_map(mapping, X, uniforms(2))
        assert_close(found, expected, rtol=1e-9, atol=1e-9)


# --- peers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [t.name for t in ELEMENTARY_TYPES])
def test_mean_map_is_that_of_pot(name, other, make_mixture, make_samples):
    source, target = make_mixture(name, 3, 2, seed=1), make_mixture(other, 4, 2, seed=2)
    X = 2 * make_samples(20, 2)
    expected = ot.gmm.gmm_ot_apply_map(X.numpy(), *for_pot(source, target), method="bary")
    found = mean_map(mixture_map(source, target), X)
    assert_close(found, torch.from_numpy(np.real(expected)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("d, K", [(2, 5), (6, 3)])
def test_the_mean_map_is_the_mean_of_the_affine_maps(name, d, K, make_mixture, make_samples):
    # with more components than features, and with fewer, it is computed in another order
    mapping = mixture_map(make_mixture(name, K, d, seed=1), make_mixture(name, 4, d, seed=2))
    X = make_samples(30, d)
    resp = log_responsibilities(mapping.source, X).exp()
    images = (X - mapping.origin) @ mapping.affine[..., :-1].mT + mapping.affine[:, None, :, -1]
    expected = torch.einsum("pn,p,pnd->nd", resp[mapping.component], mapping.share, images)
    assert_close(mean_map(mapping, X), expected)


def on_the_line(*means):
    """A mixture of unit variances and equal weights, in one dimension."""
    K = len(means)
    return GaussianMixtureParams(
        torch.full((K,), 1 / K, dtype=F64),
        torch.tensor(means, dtype=F64)[:, None],
        torch.ones(K, 1, 1, dtype=F64),
    )


@pytest.mark.parametrize("lost", [[1], [2], [1, 2], [0, 1, 2]])
def test_a_component_that_the_plan_does_not_move_goes_to_the_nearest_target(lost):
    source, target = on_the_line(0.0, 40.0, 90.0), on_the_line(-3.0, 43.0, 97.0)
    plan = transport_plan(source, target)
    coupling = plan.coupling.clone()
    coupling[lost] = 0
    mapping = mixture_map(source, target, plan._replace(coupling=coupling))
    assert mapping.partner.tolist() == [0, 1, 2]  # none to the first target but the first
    for move in (mean_map, lambda *a: random_map(*a, uniforms(3))):
        assert_close(move(mapping, source.means), target.means)
    assert (coupling[lost] == 0).all()  # the plan itself is left as it is


def test_a_target_that_receives_nothing_has_a_way_back_to_the_nearest_source():
    source, target = on_the_line(0.0, 40.0), on_the_line(500.0, 41.0, -2.0)
    plan = transport_plan(source, target, reg_m=(torch.inf, 1.0))
    coupling = plan.coupling.clone()
    coupling[:, 0] = 0
    back = mixture_map(target, source, transposed(plan._replace(coupling=coupling)))
    assert back.partner[back.component == 0].tolist() == [1]
    assert_close(mean_map(back, target.means[:1]), source.means[1:])


# --- responsibilities --------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("n", [100, 10_000])  # by the definition, and by products
def test_maps_take_the_responsibilities_of_the_source(
    name, n, offset, make_mixture, make_samples, pair
):
    mixture = make_mixture(name, 4, 3)
    mixture = mixture._replace(means=mixture.means + offset)
    X = 2 * make_samples(n, 3) + offset
    mapping = mixture_map(mixture, make_mixture("full", 2, 3)).for_samples(X)
    assert isinstance(mapping.e_step, DefinitionEStep) is (n == 100)
    resp, x = mapping.responsibilities(X)
    assert_close(resp, log_responsibilities(mixture, X).exp(), rtol=1e-9, atol=1e-12)
    assert_close(x, (X - mapping.origin).mT)


def test_narrow_components_far_apart_take_the_definition(make_mixture):
    mixture = make_mixture("full", 3, 2)
    narrow = mixture._replace(means=1e4 * mixture.means, covariances=1e-6 * mixture.covariances)
    X = (narrow.means + 1e-4).repeat(3000, 1)
    mapping = mixture_map(narrow, mixture).for_samples(X)
    assert isinstance(mapping.e_step, DefinitionEStep)
    assert_close(mapping.responsibilities(X)[0], log_responsibilities(narrow, X).exp())


@pytest.mark.parametrize("dtype, tolerance", [(F64, 1e-8), (torch.float32, 2e-2)])
def test_full_covariances_of_many_features_are_whitened(
    dtype, tolerance, make_mixture, make_samples
):
    d = 100  # more quadratic features for each feature than is worth it
    source, target = make_mixture("full", 3, d, spread=0.1), make_mixture("full", 2, d, seed=2)
    X = (source.means.repeat(200, 1) + make_samples(600, d)).to(dtype)
    mapping = mixture_map(source, target)
    fast = mapping.for_samples(X)
    assert type(fast.e_step) is WhiteningEStep
    assert fast.e_step.dtype is dtype
    by_definition = mapping.for_samples(X[:1].double())
    assert type(by_definition.e_step) is DefinitionEStep
    for move in (mean_map, lambda *a: random_map(*a, uniforms(600))):
        found, expected = move(fast, X), move(by_definition, X.double())
        assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_float32_samples_have_responsibilities_in_float32_or_better(make_mixture, make_samples):
    mixture, X = make_mixture("full", 3, 2), make_samples(3000, 2)
    expected = log_responsibilities(mixture, X).exp()
    for scale, dtype in [(1.0, torch.float32), (300.0, F64)]:
        spread = mixture._replace(means=mixture.means * scale)
        samples = (X + mixture.means[0] * (scale - 1)).float()
        mapping = mixture_map(spread, mixture).for_samples(samples)
        assert mapping.e_step.dtype is dtype
        resp, _ = mapping.responsibilities(samples)
        if scale == 1.0:
            assert_close(resp, expected.float(), rtol=1e-3, atol=1e-4)
        assert_close(resp.sum(0), torch.ones_like(resp[0]))


def test_maps_for_the_same_kind_of_samples_are_made_once(pair, make_samples, monkeypatch):
    made = []
    monkeypatch.setattr(
        maps, "fastest_e_step", lambda *args: made.append(1) or fastest_e_step(*args)
    )
    mapping, X = mixture_map(*pair), make_samples(20_000, 2)
    for samples in (X, X[:10_000], X):
        mean_map(mapping.for_samples(samples), samples)
    assert len(made) == 1
    for samples in (X[:10], X[:1], X.float(), X.float()):  # few, and another dtype
        mean_map(mapping.for_samples(samples), samples)
    assert len(made) == 3


# --- labels ------------------------------------------------------------------------------------


def test_labels_are_carried_by_the_shares_of_the_plan(pair, make_samples):
    source, target = pair
    plan = transport_plan(source, target)
    labels, X = torch.tensor([0, 2, 0, 1]), make_samples(20, 2)
    found = carried_labels(mixture_map(source, target, plan), labels, X)
    one_hot = torch.eye(3, dtype=F64)[labels]
    resp = log_responsibilities(source, X).exp()
    expected = resp.mT @ (plan.coupling / source.weights.unsqueeze(1)) @ one_hot
    assert_close(found, expected)
    assert_close(found.sum(1), torch.ones(20, dtype=F64))


# --- invariances -------------------------------------------------------------------------------


def test_a_translation_moves_distances_and_maps_with_it(pair, make_samples):
    source, target = pair
    offset = torch.tensor([1e3, -2e3], dtype=F64)
    moved = [m._replace(means=m.means + offset) for m in pair]
    assert_close(transport_plan(*moved).cost, transport_plan(*pair).cost)
    X = make_samples(10, 2)
    found = mean_map(mixture_map(*moved), X + offset) - offset
    assert_close(found, mean_map(mixture_map(source, target), X), rtol=1e-7, atol=1e-7)


@pytest.mark.usefixtures("random_seed")
def test_random_map_is_the_mean_map_on_average(pair, make_samples):
    mapping, m = mixture_map(*pair), 200
    levels = (torch.arange(m, dtype=F64) + 0.5) / m
    grid = torch.cartesian_prod(levels, levels)
    for x in make_samples(5, 2):
        images = random_map(mapping, x.expand(m * m, -1), grid)
        # Each jump of the map is met by the grid to 1 / m.
        spread = images.amax() - images.amin()
        assert (images.mean(0) - mean_map(mapping, x[None])[0]).abs().max() < 4 * spread / m


def test_random_map_reproduces_the_plan(random_seed):
    source_means = torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 40.0]], dtype=F64)
    target_means = source_means[[1, 2]].flip(1) + 10
    eye = torch.eye(2, dtype=F64)
    source = GaussianMixtureParams(
        torch.tensor([0.5, 0.3, 0.2], dtype=F64), source_means, eye.expand(3, -1, -1)
    )
    target = GaussianMixtureParams(
        torch.tensor([0.6, 0.4], dtype=F64), target_means, 2 * eye.expand(2, -1, -1)
    )
    plan = transport_plan(source, target)
    X, k = draw(source, 20_000, seed=random_seed)
    images = random_map(
        mixture_map(source, target, plan), X, uniforms(len(X), seed=100 + random_seed)
    )
    l = torch.cdist(images, target_means).argmin(1)
    counts = torch.bincount(2 * k + l, minlength=6).numpy()
    expected = 20_000 * plan.coupling.flatten().numpy()
    assert (counts[expected == 0] == 0).all()
    assert (expected > 0).sum() == 4
    assert scipy.stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-6


def test_random_map_reaches_the_law_of_the_target_and_the_mean_map_its_mean(
    name, make_mixture, random_seed
):
    # Components overlap: the moments are right only if shares and responsibilities are.
    source = make_mixture(name, 3, 2, seed=1, spread=1.0)
    target = make_mixture(name, 4, 2, seed=2, spread=1.0)
    n = 40_000
    X, _ = draw(source, n, seed=10 * random_seed)
    mapping = mixture_map(source, target)
    images = random_map(mapping, X, uniforms(n, seed=5 + 10 * random_seed))
    mean, S = mean_and_covariance(target)
    error = (S.diagonal() / n).sqrt()
    assert ((images.mean(0) - mean).abs() < 4 * error).all()
    assert_close(images.mT.cov(), S, rtol=0, atol=0.05 * S.diagonal().max().item())
    expected, _ = draw(target, n, seed=7 + 10 * random_seed)
    for ours, theirs in zip(images.mT, expected.mT, strict=True):
        assert scipy.stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 1e-3
    averaged = mean_map(mapping, X)
    assert ((averaged.mean(0) - mean).abs() < 4 * error).all()
    assert averaged.mT.cov().trace() < images.mT.cov().trace()


# --- edges -------------------------------------------------------------------------------------


def test_a_source_component_without_mass_is_not_mapped(pair, make_samples):
    source, target = pair
    source = source._replace(weights=torch.tensor([0.4, 0.0, 0.6], dtype=F64))
    others = GaussianMixtureParams(*(t[[0, 2]] for t in source))
    costs = [transport_plan(m, target).cost for m in (source, others)]
    assert_close(*costs)
    mapping, expected = mixture_map(source, target), mixture_map(others, target)
    assert set(mapping.component.tolist()) == {0, 2}
    X, u = 3 * make_samples(50, 2), uniforms(50)
    assert_close(mean_map(mapping, X), mean_map(expected, X))
    assert_close(random_map(mapping, X, u), random_map(expected, X, u))


@pytest.mark.parametrize("weight", [1e-12, 1e-15, 1e-18, 1e-25])
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0]])
def test_samples_of_an_almost_empty_component_reach_the_target(weight, order):
    # EM leaves weights of a few epsilons over n, which a plan may round away.
    eye = torch.eye(2, dtype=F64)
    source = GaussianMixtureParams(
        torch.tensor([weight, 0.4, 0.6], dtype=F64)[order],
        torch.tensor([[50.0, 50.0], [0.0, 0.0], [3.0, 3.0]], dtype=F64)[order],
        eye.expand(3, -1, -1),
    )
    target = GaussianMixtureParams(
        torch.tensor([0.3, 0.7], dtype=F64),
        torch.tensor([[-99.0, -100.0], [-100.0, -93.0]], dtype=F64),
        eye.expand(2, -1, -1),
    )
    X = source.means[[order.index(0)]]
    mapping = mixture_map(source, target)
    for image in (mean_map(mapping, X), random_map(mapping, X, uniforms(1))):
        assert torch.cdist(image, target.means).min() < 10


@pytest.mark.parametrize("size", [1e3, 1e8, 1e160])
def test_far_samples_are_mapped_by_the_component_that_owns_them(size, pair):
    mapping = mixture_map(*pair)
    X = size * torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=F64)
    images = random_map(mapping, X, torch.zeros(2, 2, dtype=F64))
    for found in (images, mean_map(mapping, X)):
        assert torch.isfinite(found).all()
        assert (found.abs() < 1e2 * size).all()


def test_maps_for_float32_are_right_where_their_origin_is_rounded(pair):
    # to 5e-4, at ten thousand; the samples themselves are told exactly, and so are images near zero
    source = pair[0]._replace(means=pair[0].means + 1e4 + 0.1)
    mapping, X = mixture_map(source, pair[1]), (source.means + 0.5).float()
    assert (mapping.origin.float().double() - mapping.origin).abs().max() > 1e-5
    single = mapping.for_samples(X)
    assert single.origin.dtype == torch.float32
    for move in (mean_map, lambda *a: random_map(*a, uniforms(len(X)))):
        assert_close(move(single, X).double(), move(mapping, X.double()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("level", [0.0, 1 - 2**-53])
def test_random_map_takes_uniforms_at_their_ends(level, pair, dtype, make_samples):
    # in float32 the largest uniform number is one, and so is the sum of the responsibilities
    X = make_samples(20, 2).to(dtype)
    mapping = mixture_map(*pair).for_samples(X)
    images = random_map(mapping, X, torch.full((20, 2), level, dtype=F64)).double()
    X = X.double()
    A, offsets = mapping.affine[..., :-1], mapping.affine[..., -1]
    affine = (X - mapping.origin) @ A + offsets.unsqueeze(1)
    tolerance = 1e-12 if dtype == F64 else 1e-5
    assert (images - affine).norm(dim=2).amin(0).max() < tolerance


def test_target_components_of_deficient_rank_receive_samples_on_their_line(pair):
    source = pair[0]
    S = torch.ones(1, 2, 2, dtype=F64)
    target = GaussianMixtureParams(torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), S)
    X, _ = draw(source, 100)
    images = random_map(mixture_map(source, target), X, uniforms(100))
    assert_close(images[:, 0], images[:, 1], rtol=1e-6, atol=1e-6)


def test_source_covariances_that_are_not_positive_are_refused(pair):
    source, target = pair
    with pytest.raises(ValueError, match="source covariances must be positive definite to tell"):
        mixture_map(source._replace(covariances=0 * source.covariances), target)


def test_maps_are_prepared_in_float64_and_applied_in_float32(pair, make_samples):
    mapping, X = mixture_map(*pair), make_samples(50, 2)
    single = mapping.for_samples(X.float())
    found = mean_map(single, X.float())
    assert found.dtype == torch.float32
    assert_close(found.double(), mean_map(mapping, X), rtol=1e-4, atol=1e-4)
    assert random_map(single, X.float(), uniforms(50).float()).dtype == torch.float32


def test_maps_of_an_exact_plan_are_few_and_shares_sum_to_one(pair):
    mapping = mixture_map(*pair)
    assert len(mapping.share) <= 3 + 4 - 1
    sums = torch.zeros(3, dtype=F64).index_add_(0, mapping.component, mapping.share)
    assert_close(sums, torch.ones(3, dtype=F64))


@pytest.mark.parametrize("d", [2, 100])  # by features, and whitened
def test_samples_in_float32_far_away_do_not_round_the_mixture(d, make_mixture, make_samples):
    offset = torch.full((d,), 1e6 + 0.3, dtype=F64)
    mixture = make_mixture("full", 3, d).translated(offset)
    X = (mixture.means.repeat(500, 1) + make_samples(1500, d)).float()
    resp, _ = mixture_map(mixture, mixture).for_samples(X).responsibilities(X)
    expected = log_responsibilities(mixture, X.double()).exp()
    assert_close(resp.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def low_rank_pair(make_mixture, monkeypatch):
    """Two mixtures of low rank, whose maps are taken by factors for any number of features."""
    monkeypatch.setattr(low_rank, "MAX_DENSE_FEATURES", 0)
    monkeypatch.setattr(low_rank, "MAX_DENSE_SHARE", 0)
    return make_mixture("lowrank", 2, 6), make_mixture("lowrank", 3, 6, seed=1)


def test_maps_between_low_ranks_are_those_of_matrices(low_rank_pair, make_samples):
    X, uniforms = 3 * make_samples(30, 6), torch.rand(30, 2, dtype=F64)
    for target in (low_rank_pair[1], low_rank_pair[1].canonical()):
        pair = low_rank_pair[0], target
        full = [m._replace(covariances=m.full_covariances(), covariance_type=FULL) for m in pair]
        found, expected = mixture_map(*pair), mixture_map(*full)
        assert isinstance(found, FactoredMap)
        for rows in (X, X.float()):
            ours, theirs = found.for_samples(rows), expected.for_samples(rows)
            assert_close(mean_map(ours, rows), mean_map(theirs, rows))
            drawn = random_map(ours, rows, uniforms), random_map(theirs, rows, uniforms)
            assert_close(*drawn)
        assert_close(cost_matrix(*pair), cost_matrix(*full))
        diagonal = target._replace(covariances=target.variances(), covariance_type=DIAG)
        assert_close(cost_matrix(pair[0], diagonal), cost_matrix(full[0], diagonal))
