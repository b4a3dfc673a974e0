"""Any mixture and any samples have a finite, right score, or are refused by name."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from promises.gaussian_reference import log_density
from promises.inputs import REFUSED, answered, arrays, assert_finite, drawn, mostly, samples
from promises.mixture_inputs import (
    ENTROPIES,
    FEATURES,
    PENALTIES,
    TYPES,
    mixtures,
    plain_mixtures,
    reference_matrices,
)
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline

from skgmmot import DifferentiableGaussianMixture, StudentMixture
from skgmmot.metrics import (
    SCORERS,
    aic_scorer,
    bic_scorer,
    get_scorer,
    make_mixture_wasserstein_scorer,
)


@st.composite
def estimators(draw, d):
    """What may be scored: estimators, pipelines of them, mixtures, and what is none of these."""
    mixture = draw(mixtures(d))
    fitted = DifferentiableGaussianMixture(draw(mostly(2, 1)), random_state=0)
    X = np.random.default_rng(0).normal(size=(20, d))
    kinds = {
        "mixture": lambda: mixture,
        "fitted": lambda: fitted.fit(X),
        "pipeline": lambda: make_pipeline("passthrough", fitted).fit(X),
        "in pipelines": lambda: make_pipeline(make_pipeline(fitted)).fit(X),
        "student": lambda: StudentMixture(1, random_state=0).fit(X),
        "not fitted": lambda: fitted,
        "class": lambda: DifferentiableGaussianMixture,
        "number": lambda: 3.0,
    }
    return kinds[draw(mostly(*kinds))]()


def n_parameters(K, d, name):
    """The free parameters of a mixture."""
    of_covariances = {"full": K * d * (d + 1) // 2, "tied": d * (d + 1) // 2, "diag": K * d}
    return K - 1 + K * d + of_covariances.get(name, K)


@given(st.data())
def test_scorers_by_name(data):
    d = data.draw(FEATURES)
    names = (*SCORERS, "r2", "neg_log_loss", "none", None, 3, "BIC", len)
    name = data.draw(st.sampled_from(names))
    scorer = answered(get_scorer, name)
    assert (scorer is REFUSED) == (name in ("none", None, 3, "BIC"))
    if name in SCORERS:
        estimator, X = data.draw(estimators(d)), data.draw(arrays(samples(d=st.just(d))))
        if isinstance(estimator, GaussianMixture) and name in ("bic", "aic"):
            return  # one without precisions, which scikit-learn's criteria read
        score = answered(scorer, estimator, X, data.draw(mostly(None, [0])))
        if score is not REFUSED:  # densities may be zero, and so criteria infinite
            assert isinstance(score, float) and not math.isnan(score)
            assert name in ("bic", "aic") or -math.inf < score <= 0


@given(st.data())
def test_information_criteria(data):
    d = data.draw(FEATURES)
    mixture, X = data.draw(plain_mixtures(d, absurd=False)), data.draw(samples(d=st.just(d)))
    found = answered(bic_scorer, mixture, X), answered(aic_scorer, mixture, X)
    if REFUSED in found:
        return
    assert not np.isnan(found).any()
    matrices, precision = reference_matrices(mixture)
    if precision < 1e-3:
        total = float(sum(log_density(mixture[0], mixture[1], matrices, X)))
        p = n_parameters(len(mixture[0]), d, mixture[3])
        expected = 2 * total - p * math.log(len(X)), 2 * total - 2 * p
        assert np.allclose(found, expected, rtol=precision, atol=precision)


@given(st.data())
def test_scorers_with_a_reference(data):
    d = data.draw(FEATURES)
    template = {
        "covariance_type": st.sampled_from(TYPES),
        "reg_covar": st.sampled_from([0.0, 1e-300, 1.0, 1e300]),
        "max_iter": st.sampled_from([1, 5, 100]),
    }
    reference = DifferentiableGaussianMixture(
        data.draw(mostly(2, 1, 0)), random_state=0, **drawn(data.draw, template)
    )
    reference = data.draw(mostly(None, reference, reference, reference, "mixture", object()))
    options = {"reg": ENTROPIES, "reg_m": PENALTIES, "squared": st.booleans()}
    options = drawn(data.draw, options)
    scorer = answered(make_mixture_wasserstein_scorer, reference, **options)
    if scorer is REFUSED:
        return
    estimator, X = data.draw(estimators(d)), data.draw(arrays(samples(d=st.just(d))))
    score = answered(scorer, estimator, X)
    assert_finite(score)
    assert score is REFUSED or score <= 0
