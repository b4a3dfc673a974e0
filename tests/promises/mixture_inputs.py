"""Generated mixtures, plain and absurd, in all forms in which mixtures are taken."""

import math

import numpy as np
import torch
from hypothesis import strategies as st
from promises.inputs import EXPONENTS, mostly, seeds
from sklearn.mixture import GaussianMixture

from skgmmot.functional import GaussianMixtureParams

INF = math.inf
TYPES = ("full", "tied", "diag", "spherical")
COMPONENTS, FEATURES = st.integers(1, 5), st.integers(1, 3)
SCALES = (1e-300, 1e-100, 1e-30, 1e-9, 1e-3, 1e3, 1e9, 1e30, 1e100, 1e300)
PENALTIES = st.one_of(
    st.sampled_from([None, INF, 1.0, (1.0, INF), (INF, 0.1), (0.5, 2.0)]),
    st.sampled_from([*SCALES, (1e-300, 1e300), (INF, 1e-100), 0.0, -1.0, math.nan, "1", (1.0,)]),
)
ENTROPIES = mostly(0.0, 0.1, 1.0, *SCALES, math.nan, INF, -1.0, "1", None)


def _weights(rng, K, name):
    """Weights of sum one, most of the time."""
    a = rng.dirichlet(np.ones(K))
    return {
        "plain": a,
        "equal": np.full(K, 1 / K),
        "some zero": np.where(np.arange(K) == 0, 1.0, 0.0),
        "tiny": (b := a * 10.0 ** rng.uniform(-300, 0, size=K)) / b.sum(),
        "huge": a * 1e300,
        "all zero": np.zeros(K),
        "negative": -a,
        "nan": a * math.nan,
    }[name]


def _covariances(rng, K, d, name, look):
    """Covariances (K, d, d): well conditioned, of low rank, zero, or none."""
    B = rng.normal(size=(K, d, d))
    if look == "thin":
        B *= 10.0 ** rng.uniform(-8, 0, size=(K, 1, d))
    S = B @ B.swapaxes(1, 2)
    if look == "of rank one":
        S = B[:, :, :1] * B[:, None, :, 0]
    if look in ("zero", "negative"):
        S = S * (0.0 if look == "zero" else -1.0)
    variances = np.einsum("kii->ki", S)
    full = {"full": S, "tied": S[0], "diag": variances, "spherical": variances[:, 0]}
    return full[name]


@st.composite
def plain_mixtures(draw, d, absurd=True):
    """Weights, means, covariances and the covariance type of a mixture in float64."""
    K, name, rng = (
        draw(COMPONENTS),
        draw(st.sampled_from(TYPES)),
        np.random.default_rng(draw(seeds)),
    )
    bad = ("huge", "all zero", "negative", "nan") if absurd else ()
    a = _weights(rng, K, draw(mostly("plain", "equal", "some zero", "tiny", *bad)))
    look = draw(mostly("good", "thin", "of rank one", "zero", *(["negative"] if absurd else [])))
    S, m = _covariances(rng, K, d, name, look), rng.normal(size=(K, d))
    m = m if draw(st.booleans()) else np.broadcast_to(m[0], m.shape).copy()
    offset = draw(mostly(0.0, 1.0, 1e4, 1e9))
    with np.errstate(over="ignore", under="ignore"):
        scale = 10.0 ** draw(mostly(0, *EXPONENTS))
        m, S = (m + offset) * scale, S * scale * scale
    if absurd and draw(mostly(*[False] * 8, True)):
        m.flat[0] = draw(st.sampled_from([math.nan, INF]))
    return a, m, S, name


def _estimator(mixture):
    """A mixture as scikit-learn's estimator."""
    weights, means, covariances, name = mixture
    model = GaussianMixture(len(weights), covariance_type=name)
    model.weights_, model.means_, model.covariances_ = weights, means, covariances
    return model


def _float32(mixture):
    with np.errstate(all="ignore"):
        return (*(t.astype(np.float32) for t in mixture[:3]), mixture[3])


FORMS = {
    "tuple": lambda mixture: mixture,
    "lists": lambda mixture: (*(t.tolist() for t in mixture[:3]), mixture[3]),
    "tensors": lambda mixture: (*map(torch.tensor, mixture[:3]), mixture[3]),
    "params": lambda mixture: GaussianMixtureParams(*map(torch.tensor, mixture[:3]), mixture[3]),
    "float32": _float32,
    "without type": lambda mixture: mixture[:3],
    "estimator": _estimator,
    "gradient": lambda mixture: (
        *(torch.tensor(t, requires_grad=True) for t in mixture[:3]),
        mixture[3],
    ),
    "none": lambda mixture: None,
    "long": lambda mixture: (*mixture, 1, 2),
    "wrong type": lambda mixture: (*mixture[:3], "round"),
    "no means": lambda mixture: (mixture[0], None, *mixture[2:]),
    "short weights": lambda mixture: (mixture[0][1:], *mixture[1:]),
}
GOOD_FORMS = ("tuple", "lists", "tensors", "params", "estimator", "without type")


@st.composite
def mixtures(draw, d):
    """A mixture in some form, in now and then another dimension."""
    mixture = draw(plain_mixtures(d + draw(mostly(0, 0, 0, 0, 1))))
    return FORMS[draw(mostly("tuple", *list(FORMS)[1:]))](mixture)


@st.composite
def good_mixtures(draw, d, n=1):
    """Mixtures that are ones, in the same dimension."""
    return [
        FORMS[draw(mostly("tuple", *GOOD_FORMS))](draw(plain_mixtures(d, absurd=False)))
        for _ in range(n)
    ]


@st.composite
def pairs(draw):
    """Two mixtures of any kind, now and then the same one twice."""
    d = draw(FEATURES)
    source = draw(mixtures(d))
    return source, source if draw(mostly(False, False, True)) else draw(mixtures(d))


def reference_matrices(mixture):
    """Covariances (K, d, d), and to what relative error float64 knows log-densities by them."""
    weights, means, S, name = mixture
    K, d = means.shape
    if name == "tied":
        S = np.broadcast_to(S, (K, d, d))
    elif name != "full":
        S = np.where(np.eye(d), np.reshape(S, (K, -1, 1)), 0.0)
    largest = abs(S).max(axis=(1, 2))
    if not ((largest > 1e-290) & (largest < INF)).all():
        return S, INF
    values = np.linalg.eigvalsh(S / largest[:, None, None])[weights > 0]
    condition = (values[:, -1] / np.maximum(values[:, 0], 1e-300)).max()
    return S, 1e-12 + 100 * np.finfo(float).eps * condition


def number(value):
    """A number as a float."""
    return float(value.detach() if isinstance(value, torch.Tensor) else value)
