"""The loss between patches of pictures at several scales."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from skgmmot.nn import MixtureWassersteinLoss, MultiscalePatchLoss
from skgmmot.nn.patches import patches

EXACT = {"gradient": "implicit", "max_iter": 500, "tol": 1e-12}


def picture(*shape, seed=0):
    """A random picture whose neighbouring pixels are alike."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return (noise + noise.roll(1, -1) + noise.roll(1, -2)) / 3


def test_patches_are_the_squares_of_a_picture_made_smaller():
    image = torch.arange(24.0).reshape(1, 4, 6)
    found = patches(image, 2, 2)
    smaller = image.reshape(1, 2, 2, 3, 2).mean((2, 4))
    assert_close(found, torch.stack([smaller[:, :, :2], smaller[:, :, 1:]]))


def test_it_is_the_weighted_sum_of_the_losses_of_all_patches_at_each_scale():
    target, image = picture(3, 12, 12), picture(3, 10, 14, seed=1)
    options = {"n_components": 2, "random_state": 0}
    loss = MultiscalePatchLoss(target, (1, 2), 2, (0.5, 3.0), **options)
    expected = 0.0
    for factor, weight in ((1, 0.5), (2, 3.0)):
        X, Y = (patches(p, factor, 2).flatten(1) for p in (image, target))
        own = {"fixed_weights": True, "gradient": "one_step", "max_iter": 1, "reg_covar": 1e-4}
        expected += weight * MixtureWassersteinLoss(Y, **options, **own)(X)
    assert_close(loss(image), expected)
    loss.reset()
    assert_close(
        sum(w * v for w, v in zip((0.5, 3.0), loss.by_scale(image), strict=True)), expected
    )


def test_it_is_zero_for_the_target_itself_and_positive_for_another():
    target = picture(1, 12, 12)
    loss = MultiscalePatchLoss(target, (1, 2), 2, n_components=1)
    assert float(loss(target)) < 1e-9 < float(loss(picture(1, 12, 12, seed=1)))


def test_its_gradient_is_that_of_finite_differences():
    loss = MultiscalePatchLoss(picture(1, 9, 9), (1, 2), 2, n_components=1, **EXACT)
    image = picture(1, 8, 8, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image), image)
    change = picture(1, 8, 8, seed=2) - 0.5
    h = 1e-5
    with torch.no_grad():
        slope = (loss(image + h * change) - loss(image - h * change)) / (2 * h)
    assert_close((gradient * change).sum(), slope, rtol=1e-5, atol=1e-9)


def test_features_are_those_of_a_network_and_descent_lowers_the_loss():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Flatten()
    ).double()
    loss = MultiscalePatchLoss(
        picture(3, 12, 12),
        (1,),
        4,
        features=network,
        n_components=2,
        reg_covar=1e-6,
        random_state=0,
    )
    image = picture(3, 12, 12, seed=1).requires_grad_()
    optimiser = torch.optim.Adam([image], lr=0.02)
    values = []
    for _ in range(15):
        optimiser.zero_grad()
        value = loss(image)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]


def test_patches_of_a_feature_map_are_those_of_a_network_applied_to_each_patch():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh()).double()
    target, image = picture(3, 10, 12), picture(3, 12, 10, seed=1).requires_grad_()
    options = {"n_components": 2, "random_state": 0}
    mapped = MultiscalePatchLoss(target, (1, 2), 1, feature_map=network, **options)
    flat = torch.nn.Sequential(network, torch.nn.Flatten())
    unfolded = MultiscalePatchLoss(target, (1, 2), 3, features=flat, **options)
    found, expected = mapped(image), unfolded(image)
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(loss, image)[0] for loss in (found, expected)))


def test_patches_of_a_map_may_have_a_size_and_features_of_their_own():
    target, image = picture(1, 10, 10), picture(1, 12, 10, seed=1)
    options = {"n_components": 2, "random_state": 0, "features": lambda p: p.flatten(1)[:, :5]}
    shifted = MultiscalePatchLoss(target - 0.5, (1, 2), 3, **options)
    mapped = MultiscalePatchLoss(target, (1, 2), 3, feature_map=lambda p: p - 0.5, **options)
    assert_close(mapped(image), shifted(image - 0.5))


def test_unbalanced_mass_costs_no_more():
    target, image = picture(3, 12, 12), picture(3, 12, 12, seed=1)
    balanced, unbalanced = (
        MultiscalePatchLoss(target, (1,), 2, reg_m=reg_m, random_state=0)(image)
        for reg_m in (None, 0.1)
    )
    assert 0 < unbalanced < balanced


def test_arrays_and_float32_pictures_keep_their_dtype():
    target = np.asarray(picture(3, 12, 12), dtype=np.float32)
    loss = MultiscalePatchLoss(target, (1, 2), 2)
    assert loss(picture(3, 12, 12, seed=1).float()).dtype == torch.float32
    assert set(loss.state_dict()) >= {"losses.0.target_means", "losses.1.target_means"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(12, 12)}, r"target must be a tensor of shape \(C, height, width\)"),
        ({"target": picture(3, 7, 12)}, "at least 8 rows and columns"),
        ({"target": picture(3, 12, 12) * torch.nan}, "NaN"),
        ({"scales": ()}, "scales must be a sequence"),
        ({"scales": (1, 0)}, "a scale must be a positive integer, got 0"),
        ({"scales": 2}, "scales must be a sequence"),
        ({"patch_size": 1.5}, "patch_size must be a positive integer"),
        ({"weights": (1.0,)}, "one non-negative number for each of 2 scales"),
        ({"weights": (1.0, -1.0)}, "not all zero"),
        ({"weights": 1.0}, "one non-negative number"),
        ({"features": lambda p: p}, "features must return a tensor of shape"),
        ({"feature_map": lambda p: p[0]}, r"feature_map must return .* got \(3, 12, 12\)"),
        ({"feature_map": torch.nn.Flatten()}, r"feature_map must return .* got \(1, 432\)"),
        ({"feature_map": lambda p: None}, "feature_map must return .* got NoneType"),
        ({"feature_map": lambda p: p[..., :3]}, r"patch_size .* got 4 for maps of \(12, 3\)"),
        ({"feature_map": lambda p: p, "scales": (13,)}, "at least 13 rows and columns"),
    ],
)
def test_what_is_no_picture_scale_weight_or_feature_is_refused(change, message):
    given = {"target": picture(3, 12, 12), "scales": (1, 2), "patch_size": 4} | change
    with pytest.raises(ValueError, match=message):
        MultiscalePatchLoss(given.pop("target"), **given)


def test_a_picture_of_other_channels_and_unknown_options_are_refused():
    loss = MultiscalePatchLoss(picture(3, 12, 12), (1,), 2)
    with pytest.raises(ValueError, match="the 3 channels of the target, got 12"):
        loss(picture(12, 12, 3))
    with pytest.raises(ValueError, match="picture must be a tensor"):
        loss(np.zeros((3, 12, 12)))
    with pytest.raises(TypeError, match="n_component"):
        MultiscalePatchLoss(picture(3, 16, 16), n_component=3)
    for name in ("features", "feature_map"):
        with pytest.raises(TypeError, match=f"{name} must be a function .* got int"):
            MultiscalePatchLoss(picture(3, 16, 16), **{name: 3})


@pytest.mark.parametrize("target", [None, [["a"]], object()])
def test_a_target_that_is_no_array_of_numbers_is_refused_by_name(target):
    with pytest.raises((TypeError, ValueError), match="an array must hold numbers, got"):
        MultiscalePatchLoss(target)
