"""Any input of a layer or a loss gives a finite result, or a named error."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from promises.inputs import (
    LAYOUTS,
    REFUSED,
    answered,
    arrays,
    assert_finite,
    drawn,
    mostly,
    sample_weights,
    samples,
    seeds,
    spoiled,
)
from promises.mixture_inputs import ENTROPIES, FEATURES, PENALTIES, mixtures

from skgmmot.nn import EMLayer, MixtureWassersteinLoss, MultiscalePatchLoss

#: Options of an EM layer, absurd ones among them.
OPTIONS = {
    "covariance_type": mostly("tied", "diag", "spherical", "lowrank", "round"),
    "gradient": mostly("one_step", "automatic", "natural", "none"),
    "gradient_tol": mostly(1e-12, 1.0, 0.0, math.nan),
    "tol": mostly(1.0, 0.0, math.inf, -1.0),
    "max_iter": mostly(1, 5, 0, -1, 2.5, True),
    "reg_covar": mostly(0.0, 1e-300, 1e-30, 1.0, 1e300, -1.0, math.nan),
    "fixed_weights": st.booleans(),
    "init_params": mostly("k-means++", "random", "random_from_data", "sometimes"),
    "rank": mostly(1, 2, 0, 5),
}


@st.composite
def batches(draw, d):
    """A batch of samples and weights of them, mostly as tensors."""
    X = draw(spoiled(draw(samples(d=st.just(d)))))
    a = draw(mostly(None, "weights"))
    a = None if a is None else draw(sample_weights(len(X)))
    if not draw(mostly(*[True] * 8, False)):
        return draw(arrays(st.just(X))), a
    X = torch.tensor(X, dtype=draw(mostly(torch.float64, torch.float32)))
    return X.requires_grad_(draw(mostly(True, False))), a


def check_slope(value, X):
    """The gradient in a batch has no NaN."""
    if value is not REFUSED and getattr(value, "requires_grad", False) and X.requires_grad:
        slope = answered(torch.autograd.grad, value, X, retain_graph=True, allow_unused=True)
        assert slope is REFUSED or slope[0] is None or not slope[0].isnan().any()


@given(st.data())
def test_layers(data):
    d = data.draw(FEATURES)
    options = drawn(data.draw, OPTIONS)
    layer = answered(EMLayer, data.draw(mostly(2, 1, 3, 0, "2")), random_state=0, **options)
    if layer is REFUSED:
        return
    for _ in range(data.draw(mostly(1, 2))):
        X, a = data.draw(batches(d))
        before = layer.mixture
        found = answered(layer, X, a)
        if found is REFUSED:  # keeps what it had
            assert (layer.mixture is None) == (before is None)
            continue
        assert_finite(*found)
        assert abs(float(found.weights.detach().sum()) - 1) < 1e-5
        check_slope(found.means.double().sum(), X)


@given(st.data())
def test_losses_of_batches(data):
    d = data.draw(FEATURES)
    options = drawn(data.draw, OPTIONS | {"reg": ENTROPIES, "reg_m": PENALTIES})
    target = data.draw(st.one_of(mixtures(d), arrays(samples(d=st.just(d)))))
    K, root = data.draw(mostly(2, 1, None, 0)), data.draw(st.booleans())
    loss = answered(MixtureWassersteinLoss, target, K, random_state=0, root=root, **options)
    if loss is REFUSED:
        return
    for _ in range(data.draw(mostly(1, 2))):
        X, a = data.draw(batches(d))
        value = answered(loss, X, a)
        assert_finite(value)
        assert value is REFUSED or float(value.detach()) >= 0
        check_slope(value, X)


@st.composite
def pictures(draw, channels):
    """A picture of so many channels, plain or absurd, in some form."""
    h, w = draw(st.integers(4, 9)), draw(st.integers(4, 9))
    rng = np.random.default_rng(draw(seeds))
    picture = {
        "noise": rng.random((channels, h, w)),
        "even": np.full((channels, h, w), rng.random()),
        "steps": np.broadcast_to(rng.integers(0, 2, (channels, 1, w)), (channels, h, w)) * 1.0,
        "tiny": rng.random((channels, h, w)) * 1e-200,
        "huge": rng.random((channels, h, w)) * 1e200,
        "bytes": rng.integers(0, 256, (channels, h, w)).astype(np.uint8),
    }[draw(mostly("noise", "even", "steps", "tiny", "huge", "bytes"))]
    if picture.dtype == float:
        picture = draw(spoiled(picture))
    form = draw(mostly("tensor", "float32", "array", "list", "plane", "channels last", "none"))
    return {
        "tensor": lambda: torch.tensor(picture),
        "float32": lambda: torch.tensor(picture).float(),
        "array": lambda: np.asarray(picture),
        "list": picture.tolist,
        "plane": lambda: torch.tensor(picture[0]),
        "channels last": lambda: torch.tensor(picture).permute(1, 2, 0),
        "none": lambda: None,
    }[form]()


@given(st.data())
def test_losses_of_pictures(data):
    channels = data.draw(st.integers(1, 3))
    options = {
        "weights": mostly(None, [1.0], [0.0], [1.0, 2.0], "1"),
        "n_components": mostly(1, 2, 0),
        "reg": ENTROPIES,
        "reg_m": PENALTIES,
        "features": st.sampled_from([lambda X: X.mean((2, 3)), lambda X: X, lambda X: None, 3]),
        "feature_map": st.sampled_from([lambda X: X[:, :1] ** 2, lambda X: X[0], lambda X: None]),
    }
    scales, size = data.draw(mostly((1,), (1, 2), (0,), 1)), data.draw(mostly(2, 1, 3, 0, 1.5))
    loss = answered(
        MultiscalePatchLoss,
        data.draw(pictures(channels)),
        scales,
        size,
        random_state=0,
        **drawn(data.draw, options),
    )
    if loss is REFUSED:
        return
    picture = data.draw(pictures(channels))
    if isinstance(picture, torch.Tensor) and picture.is_floating_point():
        picture.requires_grad_()
    value = answered(loss, picture)
    assert_finite(value)
    if value is not REFUSED:
        check_slope(value, picture)
    answered(loss, data.draw(st.sampled_from([*LAYOUTS.values()]))(np.ones((4, 4))))
