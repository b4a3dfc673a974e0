"""Any input of a map of samples, a flow, a reduction or an interval is answered or refused."""

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
    classes,
    drawn,
    mostly,
    sample_weights,
    samples,
)
from promises.mixture_inputs import (
    ENTROPIES,
    FEATURES,
    PENALTIES,
    TYPES,
    good_mixtures,
    mixtures,
    number,
    plain_mixtures,
)

import skgmmot.functional as F
from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureFlow,
    OTMap,
    interpolate,
    ot_map,
    reduce,
)
from skgmmot.metrics import (
    mixture_wasserstein_interval,
    stability_bounds,
)

TIMES = mostly(0.5, 0.0, 1.0, 1e-300, 2.0, math.nan, "1", None)
COUNTS = mostly(2, 1, 3, 40, 0, -1, 1.5, "2", None, True)


@st.composite
def map_options(draw):
    """Options of a map, absurd ones among them."""
    template = {
        "covariance_type": st.sampled_from(TYPES),
        "reg_covar": st.sampled_from([0.0, 1e-300, 1.0, 1e300]),
        "max_iter": st.sampled_from([1, 5, 100]),
    }
    options = {
        "strategy": mostly("random", "sometimes"),
        "mixture": st.builds(
            lambda given: DifferentiableGaussianMixture(random_state=0, **given),
            st.fixed_dictionaries({}, optional=template),
        ),
        "class_wise": mostly(True, 1),
        "reg": ENTROPIES,
        "reg_m": PENALTIES,
        "shrinkage": mostly(None, 0.0, 0.5, 1.0, 2.0, "much"),
        "device": mostly("cpu", None, "nowhere"),
    }
    return {"n_components": draw(COUNTS), "random_state": 0} | drawn(draw, options)


@given(st.data())
def test_maps_of_samples(data):
    d = data.draw(FEATURES)
    X = data.draw(samples(d=st.just(d)))
    n, other = len(X), st.just(d + data.draw(mostly(0, 0, 0, 0, 1)))
    X, target = (
        data.draw(arrays(st.just(X))),
        data.draw(st.one_of(arrays(samples(d=other)), mixtures(d), st.none())),
    )
    options = data.draw(map_options())
    y = data.draw(classes(n)) if options.get("class_wise") else None
    a = data.draw(mostly(None, "weights"))
    a = None if a is None else data.draw(sample_weights(n))
    model = answered(OTMap, target, **options)
    if model is REFUSED or answered(model.fit, X, y, a) is REFUSED:
        return
    assert_finite(model.plan_, model.distance_, model.error_)
    assert model.distance_ >= 0 and model.error_ >= 0
    for x in (X, data.draw(arrays(samples(d=st.just(d))))):
        moved = answered(model.transform, x)
        assert_finite(moved, answered(model.inverse_transform, x), answered(model.score, x))
        if options.get("class_wise"):
            proba = answered(model.predict_proba, x)
            assert_finite(proba)
            assert proba is REFUSED or np.abs(np.asarray(proba).sum(1) - 1).max() < 1e-5
            assert proba is REFUSED or answered(model.predict, x) is not REFUSED


@given(st.data())
def test_maps_in_one_call(data):
    d = data.draw(FEATURES)
    ends = [data.draw(st.one_of(arrays(samples(d=st.just(d))), mixtures(d))) for _ in range(2)]
    model = answered(ot_map, *ends, **data.draw(map_options()))
    if model is not REFUSED:
        assert_finite(model.plan_, model.distance_)
        assert_finite(answered(model.transform, data.draw(arrays(samples(d=st.just(d))))))


@given(st.data())
def test_flows(data):
    d, reg = data.draw(FEATURES), data.draw(ENTROPIES)
    pair = [data.draw(mixtures(d)) for _ in range(2)]
    found = answered(interpolate, *pair, data.draw(TIMES), reg=reg)
    flow = answered(MixtureFlow, *pair, reg=reg)
    if flow is REFUSED:
        assert found is REFUSED
        return
    assert_finite(flow.plan)
    for mixture in (found, answered(flow.mixture, data.draw(TIMES))):
        if mixture is not REFUSED:
            assert_finite(mixture.weights_, mixture.means_, mixture.covariances_)
            assert abs(number(mixture.weights_.sum()) - 1) < 1e-5
    X = data.draw(arrays(samples(d=st.just(d))))
    t, times = data.draw(TIMES), data.draw(mostly([0.0, 1.0], [1.0, 0.5], [0.0, 2.0], [], 0.5))
    assert_finite(answered(flow.velocity, t, X), answered(flow.drift, t, X))
    assert_finite(answered(flow.transport, X, times, n_steps=data.draw(mostly(2, 0, 1.5))))
    assert_finite(answered(flow.paths, times, data.draw(COUNTS), random_state=0))


@given(st.data())
def test_reductions(data):
    d, K = data.draw(FEATURES), data.draw(COUNTS)
    mixture, n_init = data.draw(mixtures(d)), data.draw(mostly(1, 2, 0, "1"))
    options = {"n_init": n_init, "random_state": 0, "return_error": True}
    found = answered(reduce, mixture, K, **options)
    if found is not REFUSED:
        reduced, error = found
        assert_finite(reduced.weights_, reduced.means_, reduced.covariances_, error)
        assert error >= 0 and len(reduced.weights_) <= max(
            K, len(mixture[0]) if isinstance(mixture, tuple) else K
        )


@given(st.data())
def test_intervals(data):
    d = data.draw(FEATURES)
    X, Y = (data.draw(samples(d=st.just(d))) for _ in range(2))
    fits = [answered(DifferentiableGaussianMixture(random_state=0).fit, S) for S in (X, Y)]
    if REFUSED in fits or data.draw(mostly(False, False, True)):
        fits = data.draw(good_mixtures(d, n=2))
    options = {
        "method": mostly("parametric", "guess"),
        "level": mostly(0.5, 1.0, math.nan, "high"),
        "reg_covar": mostly(0.0, 1e-300, 1.0, -1.0, math.nan),
    }
    X, Y = (data.draw(arrays(st.just(S))) for S in (X, Y))
    found = answered(
        mixture_wasserstein_interval,
        *fits,
        X,
        Y,
        n_resamples=data.draw(mostly(20, 1, "20")),
        random_state=0,
        **drawn(data.draw, options),
    )
    if found is not REFUSED:
        assert_finite(found.value, found.low, found.high, found.error)
        assert 0 <= found.low <= found.high and found.error >= 0 and found.bound >= 0


@given(st.data())
def test_bounds_of_stability(data):
    d = data.draw(FEATURES)
    pair = [data.draw(mixtures(d)) for _ in range(2)]
    n = data.draw(mostly(100, (50, 1000), 1, 0, 2.5, None, (1,), (10, "a"), pair, pair[:1]))
    found = answered(stability_bounds, *pair, n)
    if found is not REFUSED:
        assert_finite(found.source, found.target, found.distance)
        assert min(found[:3]) >= 0


@given(st.data())
def test_functions_of_tensors(data):
    d, K = data.draw(FEATURES), data.draw(COUNTS)
    models = [
        answered(DifferentiableGaussianMixture.from_parameters, *mixture)
        for mixture in (data.draw(plain_mixtures(d, absurd=False)) for _ in range(2))
    ]
    if REFUSED in models:  # these functions validate little
        return
    pair, reg = [model._params() for model in models], data.draw(ENTROPIES)
    reduced = answered(F.reduce, pair[0], K, torch.Generator(), return_error=True)
    if reduced is not REFUSED:
        assert_finite(*reduced[0], reduced[1])
    plan = answered(F.transport_plan, *pair, reg=reg)
    if plan is not REFUSED:
        assert_finite(*plan, plan.error)
    assert_finite(answered(F.cost_matrix, *pair), answered(F.debiased_cost, *pair, reg=reg))
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    middle = answered(F.exact_barycenter, pair, weights, return_error=True)
    if middle is not REFUSED:
        assert_finite(*middle[0], middle[1])
    name = data.draw(mostly("quasi", "random", "orthogonal", "none"))
    assert_finite(answered(F.directions, name, K, d))
