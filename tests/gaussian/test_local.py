"""Sums over cells of samples, without components that are far from them."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian import local
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.evaluators import DefinitionEStep, FeatureEStep
from skgmmot.gaussian.local import LocalSums, cells, local_sums
from skgmmot.gaussian.mixture import GaussianMixtureParams

F64 = torch.float64


def narrow(name, K, d, n, width=0.01):
    """A mixture of many narrow components, and samples of it."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(K, d, dtype=F64, generator=generator)
    covariances = width**2 * torch.ones(COVARIANCE_TYPES[name].shape(K, d), dtype=F64)
    if name in ("full", "tied"):
        covariances = covariances * torch.eye(d, dtype=F64)
    X = means.repeat(-(-n // K), 1)[:n]
    X = X + width * torch.randn(n, d, dtype=F64, generator=generator)
    weights = torch.full((K,), 1 / K, dtype=F64)
    return GaussianMixtureParams(weights, means, covariances, COVARIANCE_TYPES[name]), X


@pytest.mark.parametrize("name", ["full", "diag", "spherical"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [0.002, 0.05, 1.0])
def test_local_sums_are_those_of_all_components(name, weighted, width):
    mixture, X = narrow(name, 70, 2, 1000, width)
    step = DefinitionEStep(mixture._replace(means=mixture.means - X.mean(0)), X.mean(0))
    samples = InMemory(X, torch.linspace(0.0, 2.0, len(X), dtype=F64) if weighted else None)
    found, expected = (samples.sum(of) for of in (LocalSums(step), step))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=1e-12, atol=1e-13 * float(other.abs().max()))


def test_few_components_are_near_a_cell_if_they_are_narrow():
    mixture, X = narrow("full", 100, 2, 8000, 0.002)
    sums = LocalSums(DefinitionEStep(mixture))
    near = sums._near(X, cells(X, local.CELL_SIZE))
    assert near.any(0).all()
    assert near.double().mean() < 0.6


def test_only_many_components_in_few_dimensions_are_summed_locally():
    mixture, X = narrow("diag", 70, 2, 10)
    step = DefinitionEStep(mixture)
    assert isinstance(local_sums(step), LocalSums)
    few = DefinitionEStep(narrow("diag", 10, 2, 10)[0])
    wide = DefinitionEStep(narrow("diag", 70, 5, 10)[0])
    tied = DefinitionEStep(narrow("tied", 70, 2, 10)[0])
    products = FeatureEStep(mixture, X.mean(0))
    for other in (few, wide, tied, products):
        assert local_sums(other) is other


def test_cells_hold_each_point_once_and_are_small():
    X = narrow("full", 5, 3, 1001)[1]
    found = cells(X, 100)
    assert torch.cat(found).sort().values.tolist() == list(range(1001))
    assert max(map(len, found)) <= 100
    extents = torch.stack([X[i].amax(0) - X[i].amin(0) for i in found])
    assert extents.prod(1).mean() < (X.amax(0) - X.amin(0)).prod() / 8
    assert len(cells(X[:1].expand(300, 3), 100)) == 4  # equal points are cut, too


def test_cells_are_cut_along_the_feature_of_the_largest_range(make_samples):
    x = make_samples(400, 2) * torch.tensor([0.1, 10.0]) + torch.tensor([1000.0, 0.0])
    ranges = torch.stack([x[index].amax(0) - x[index].amin(0) for index in cells(x, 50)])
    whole = x.amax(0) - x.amin(0)
    assert (ranges[:, 1] < whole[1] / 2).all() and (ranges[:, 0] > whole[0] / 4).all()


def test_a_component_far_narrower_than_another_is_near_at_ten_deviations():
    weights, means = torch.full((2,), 0.5, dtype=F64), torch.zeros(2, 3, dtype=F64)
    variances = torch.tensor([[1e-7], [1.0]], dtype=F64).square()
    step = DefinitionEStep(GaussianMixtureParams(weights, means, variances, "spherical"))
    x = torch.tensor([[1e-6, 0.0, 0.0], [2e-6, 0.0, 0.0]], dtype=F64)
    rows = [torch.tensor([0]), torch.tensor([1])]
    # log-densities differ by log(1e21) - 50 = -2 and by log(1e21) - 200 = -152
    assert LocalSums(step)._near(x, rows).tolist() == [[True, True], [False, True]]
