"""Values of tensors and a covariance type, and pytrees of torch."""

import copy
import pickle

import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, DIAG, ELEMENTARY_TYPES, FULL
from skgmmot.gaussian.log_density import log_density
from skgmmot.gaussian.mixture import GaussianMixtureParams

K, d = 3, 2


@pytest.fixture(params=[t.name for t in ELEMENTARY_TYPES])
def theta(request, make_mixture):
    """A mixture of each covariance type."""
    return make_mixture(request.param, K, d)


# --- a value -------------------------------------------------------------------------------------


def test_a_mixture_is_three_tensors_and_their_type(theta, request):
    weights, means, covariances = theta
    assert len(theta) == 3
    assert theta[1] is means
    assert theta[1:] == (means, covariances)
    kind = COVARIANCE_TYPES[request.node.callspec.params["theta"]]
    assert GaussianMixtureParams(weights, means, covariances).covariance_type is kind
    assert theta.to(dtype=torch.float32).covariance_type is kind
    assert repr(theta).endswith(f"covariance_type={kind!r})")


def test_a_mixture_cannot_be_changed(theta):
    with pytest.raises(AttributeError, match="cannot assign to field 'means'"):
        theta.means = theta.means + 1
    moved = theta._replace(means=theta.means + 1)
    assert moved.weights is theta.weights
    assert moved.covariance_type is theta.covariance_type


def test_copies_and_files_keep_the_type(theta):
    for other in (copy.copy(theta), copy.deepcopy(theta), pickle.loads(pickle.dumps(theta))):
        assert_close(tuple(other), tuple(theta))
        assert other.covariance_type == theta.covariance_type


def test_functions_of_several_mixtures_are_taken_tensor_by_tensor(theta):
    assert_close(tuple(theta.map(torch.sub, theta)), tuple(theta.map(torch.zeros_like)))
    with pytest.raises(ValueError, match="shorter"):
        theta.map(torch.sub, tuple(theta)[:2])


# --- a pytree ------------------------------------------------------------------------------------


def test_the_type_is_part_of_the_structure(theta):
    leaves, structure = tree_flatten(theta)
    assert all(a is b for a, b in zip(leaves, theta, strict=True))
    assert tree_flatten(copy.deepcopy(theta))[1] == structure
    other = FULL if theta.covariance_type is not FULL else DIAG
    assert tree_flatten(theta._replace(covariance_type=other))[1] != structure


def test_transformations_of_torch_walk_a_mixture(theta, make_samples):
    X = make_samples(5, d)

    def mean(theta):
        return log_density(theta, X).mean()

    leaves = theta.map(lambda t: t.clone().requires_grad_())
    expected = torch.autograd.grad(mean(leaves), tuple(leaves))
    slope = torch.func.grad(mean)(theta)
    assert isinstance(slope, GaussianMixtureParams)
    assert slope.covariance_type is theta.covariance_type
    assert_close(tuple(slope), expected)

    def norm(theta):
        return sum(t.square().sum() for t in theta)

    several = theta.map(lambda t: torch.stack([t, 2 * t]))
    assert_close(torch.func.vmap(norm)(several), norm(theta) * torch.tensor([1.0, 4.0]).to(X))
    jacobian = torch.func.jacrev(lambda theta: theta.full_covariances())(theta)
    assert jacobian.covariances.shape == (K, d, d, *theta.covariances.shape)
