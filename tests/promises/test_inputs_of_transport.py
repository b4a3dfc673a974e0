"""Any input of a metric, a map or an average gives a finite, right result, or a named error."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from promises.inputs import (
    REFUSED,
    answered,
    arrays,
    assert_finite,
    mostly,
    sample_weights,
    samples,
)
from promises.mixture_inputs import (
    ENTROPIES,
    FEATURES,
    FORMS,
    INF,
    PENALTIES,
    good_mixtures,
    mixtures,
    number,
    pairs,
    plain_mixtures,
)

from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureBarycenter,
    OTMap,
    PairwiseMW2,
    interpolate,
    reduce,
    semidiscrete_distance,
    semidiscrete_plan,
)
from skgmmot.metrics import (
    MixtureFrechetDistance,
    MixtureWasserstein,
    bures_wasserstein_distance,
    frechet_distance,
    mixture_wasserstein_distance,
    mixture_wasserstein_scorer,
    pairwise_mixture_wasserstein,
    sliced_mixture_wasserstein,
    sliced_wasserstein_distance,
    sliced_wasserstein_scorer,
)
from skgmmot.nn import MixtureWassersteinLoss

# --- distances and plans -------------------------------------------------------------------------


@given(pairs(), ENTROPIES, PENALTIES, st.booleans(), st.booleans(), st.booleans())
def test_distances_between_mixtures(pair, reg, reg_m, squared, debiased, with_error):
    options = {"reg": reg, "reg_m": reg_m, "squared": squared, "debiased": debiased}
    found = answered(mixture_wasserstein_distance, *pair, **options, return_error=with_error)
    assert_finite(found)
    if found is REFUSED:
        return
    value, error = found if with_error else (found, 0.0)
    assert number(error) >= 0 and (debiased or number(value) >= 0)
    if pair[0] is pair[1] and reg == 0 and reg_m is None:
        assert number(value) == 0
    if not reg and reg_m is None:
        other = answered(mixture_wasserstein_distance, *pair[::-1], **options)
        assert number(other) == number(value)


@given(st.data())
def test_distances_in_other_units(data):
    d = data.draw(FEATURES)
    pair = [data.draw(plain_mixtures(d, absurd=False)) for _ in range(2)]
    reg, lam = data.draw(st.sampled_from([0.0, 0.1])), data.draw(st.sampled_from([INF, 1.0]))
    unit = 2.0 ** data.draw(st.sampled_from([-20, 20, 100]))

    def distance(unit):
        with np.errstate(all="ignore"):
            scaled = [(a, m * unit, S * unit**2, name) for a, m, S, name in pair]
        options = {"reg": reg * unit**2, "reg_m": lam * unit**2}
        return answered(mixture_wasserstein_distance, *scaled, **options)

    found = distance(1.0), distance(unit)
    if REFUSED not in found and 1e-120 < found[0] < 1e120:
        size = max(np.abs(m).max() + np.abs(S).max() ** 0.5 for _, m, S, _ in pair)
        tolerance = 1e-7 * found[0] + 1e-12 * size
        assert abs(found[1] / unit - found[0]) <= tolerance, found


@given(pairs(), ENTROPIES, PENALTIES)
def test_plans_between_mixtures(pair, reg, reg_m):
    metric = answered(MixtureWasserstein, reg, reg_m)
    if metric is REFUSED:
        return
    P, cost = answered(metric.plan, *pair), answered(metric.cost, *pair)
    assert_finite(P, cost)
    if P is not REFUSED and reg_m is None:
        P = np.asarray(P.detach() if isinstance(P, torch.Tensor) else P, dtype=float)
        assert (P >= 0).all() and abs(P.sum() - 1) < 1e-5


@given(st.data())
def test_gradients_of_distances(data):
    d = data.draw(FEATURES)
    pair = [data.draw(plain_mixtures(d, absurd=False)) for _ in range(2)]
    pair = [FORMS["gradient"](mixture) for mixture in pair]
    options = {"reg": data.draw(ENTROPIES), "squared": data.draw(st.booleans())}
    value = answered(mixture_wasserstein_distance, *pair, **options)
    if value is not REFUSED:
        leaves = [part for mixture in pair for part in mixture[:3]]
        slopes = answered(torch.autograd.grad, value, leaves, allow_unused=True)
        for slope in slopes:
            assert slope is None or not slope.isnan().any(), slopes


@given(st.data())
def test_pairwise_distances(data):
    d = data.draw(FEATURES)
    some = [data.draw(mixtures(d)) for _ in range(data.draw(st.integers(0, 3)))]
    some += data.draw(good_mixtures(d, n=data.draw(st.integers(0, 3))))
    options = {"reg": data.draw(ENTROPIES), "reg_m": data.draw(PENALTIES)}
    D = answered(pairwise_mixture_wasserstein, some, **options)
    assert_finite(D)
    if D is not REFUSED:
        D = D.detach().numpy() if isinstance(D, torch.Tensor) else D
        assert D.shape == (len(some), len(some)) and (D >= 0).all()
    model = answered(PairwiseMW2, **options)
    if model is not REFUSED:
        assert_finite(answered(model.fit_transform, some))


@given(st.data())
def test_distances_between_gaussians(data):
    d, sides = data.draw(FEATURES), []
    for _ in range(2):
        _, m, S, name = data.draw(plain_mixtures(d))
        sides.append((m[0], S if name == "tied" else S[0]))
        if data.draw(mostly(False, False, False, True)):
            sides[-1] = tuple(torch.tensor(t) for t in sides[-1])
    squared = data.draw(st.booleans())
    found = answered(bures_wasserstein_distance, *sides, squared=squared, return_error=True)
    assert_finite(found)
    assert found is REFUSED or (found[0] >= 0 and found[1] >= 0)


@given(st.data())
def test_distances_between_samples(data):
    X, Y = data.draw(arrays()), data.draw(arrays())
    for metric in (frechet_distance, sliced_wasserstein_distance):
        found = answered(metric, X, Y if data.draw(mostly(True, False)) else X, return_error=True)
        # between equal samples beyond the range of squares, zero is right and its error unknown
        assert_finite(found if found is REFUSED else found[0])
        assert found is REFUSED or (number(found[0]) >= 0 and found[1] >= 0)


@given(st.data())
def test_sliced_distances(data):
    d = data.draw(FEATURES)
    source, X = data.draw(mixtures(d)), data.draw(samples(d=st.just(d)))
    weights = data.draw(mostly(None, "weights"))
    weights = None if weights is None else data.draw(sample_weights(len(X)))
    options = {
        "p": data.draw(mostly(2.0, 1.0, 3.0, 0.5, math.nan, INF, "2")),
        "n_projections": data.draw(mostly(5, 1, 0, -1, 2.5)),
        "projections": data.draw(mostly("quasi", "random", "orthogonal")),
        "exact": data.draw(st.booleans()),
    }
    found = answered(
        sliced_wasserstein_distance, source, data.draw(arrays(st.just(X))), weights, **options
    )
    assert_finite(found)
    slicing = data.draw(mostly("msw", "dsmw", "none"))
    found = answered(sliced_mixture_wasserstein, source, data.draw(mixtures(d)), slicing=slicing)
    assert_finite(found)
    assert found is REFUSED or number(found) >= 0


# --- maps, averages, densities and points --------------------------------------------------------


@given(st.data())
def test_maps(data):
    d = data.draw(FEATURES)
    source, target = data.draw(mixtures(d)), data.draw(mixtures(d))
    options = {
        "strategy": data.draw(mostly("mean", "random", "sometimes")),
        "reg": data.draw(ENTROPIES),
        "reg_m": data.draw(PENALTIES),
        "random_state": 0,
    }
    model = answered(OTMap, target, **options)
    if model is REFUSED or answered(model.fit, source) is REFUSED:
        return
    X = data.draw(arrays(samples(d=st.just(d))))
    moved = answered(model.transform, X)
    assert_finite(moved, answered(model.inverse_transform, X))
    assert moved is REFUSED or np.shape(moved) == np.shape(X)


@given(st.data())
def test_averages(data):
    d = data.draw(FEATURES)
    some = data.draw(good_mixtures(d, n=data.draw(st.integers(1, 3))))
    some += [data.draw(mixtures(d))] * data.draw(mostly(0, 1))
    K = data.draw(mostly(2, 1, 0, 3, 40, "2"))
    options = {"solver": data.draw(mostly("auto", "exact")), "n_init": 1, "random_state": 0}
    model = answered(MixtureBarycenter, K, **options)
    weights = data.draw(mostly(None, "weights"))
    weights = None if weights is None else data.draw(sample_weights(len(some)))
    found = [model] if answered(model.fit, some, sample_weight=weights) is not REFUSED else []
    found.append(answered(reduce, some[0], K, random_state=0))
    if len(some) > 1:
        t = data.draw(mostly(0.5, 0.0, 1.0, 1e-300, 2.0, math.nan, "1"))
        found.append(answered(interpolate, *some[:2], t))
    for each in found:
        if each is not REFUSED:
            assert_finite(each.weights_, each.means_, each.covariances_)
            assert abs(number(each.weights_.sum()) - 1) < 1e-5


@given(st.data())
def test_semidiscrete_plans(data):
    d = data.draw(FEATURES)
    density, points = data.draw(mixtures(d)), data.draw(samples(n=st.integers(1, 6), d=st.just(d)))
    weights = data.draw(mostly(None, "weights"))
    weights = None if weights is None else data.draw(sample_weights(len(points)))
    options = {"n_nodes": data.draw(mostly(32, 1, 0)), "mass": data.draw(mostly(1.0, 0.5, 0, 2))}
    points = data.draw(arrays(st.just(points)))
    found = answered(semidiscrete_distance, density, points, weights, **options, return_error=True)
    assert_finite(found)
    plan = answered(semidiscrete_plan, density, points, weights, **options)
    if plan is not REFUSED:
        assert_finite(plan.masses, plan.cost, plan.error)


# --- scorers, streams of features and losses -----------------------------------------------------


@given(st.data())
def test_scorers(data):
    d = data.draw(FEATURES)
    model = answered(DifferentiableGaussianMixture.from_parameters, *data.draw(plain_mixtures(d)))
    if model is REFUSED:
        return
    X = data.draw(arrays(samples(d=st.just(d))))
    for scorer in (mixture_wasserstein_scorer, sliced_wasserstein_scorer):
        assert_finite(answered(scorer, model, X))


@given(st.data())
def test_distances_of_streams_of_features(data):
    d = data.draw(FEATURES)
    reference = data.draw(mostly(None, "mixture"))
    reference = None if reference is None else data.draw(mixtures(d))
    metric = answered(MixtureFrechetDistance, reference)
    if metric is REFUSED:
        return
    for real in (True, False):
        for _ in range(data.draw(mostly(1, 2))):
            answered(metric.update, data.draw(arrays(samples(d=st.just(d)))), real)
    found = answered(metric.compute)
    assert_finite(found)
    assert found is REFUSED or found >= 0


@given(st.data())
def test_losses(data):
    d = data.draw(FEATURES)
    options = {"reg": data.draw(ENTROPIES), "n_components": data.draw(mostly(2, 1, None, 0))}
    loss = answered(MixtureWassersteinLoss, data.draw(mixtures(d)), random_state=0, **options)
    if loss is REFUSED:
        return
    X = torch.tensor(data.draw(samples(d=st.just(d))), requires_grad=True)
    value = answered(loss, X)
    assert_finite(value)
    if value is not REFUSED and value.requires_grad:
        (slope,) = answered(torch.autograd.grad, value, X)
        assert not slope.isnan().any()
