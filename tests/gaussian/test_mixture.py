"""Densities, responsibilities and samples of mixtures."""

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES, FULL
from skgmmot.gaussian.log_density import (
    log_density,
    log_joint,
)
from skgmmot.gaussian.mixture import GaussianMixtureParams, join, select, with_mass

K, d = 3, 2


def test_full_covariances_are_one_matrix_a_component(theta):
    full = theta.full_covariances()
    assert full.shape == (K, d, d)
    densities = [scipy.stats.multivariate_normal(*p) for p in zip(theta.means, full, strict=True)]
    X = theta.means + 1
    joint = torch.stack([torch.from_numpy(p.logpdf(X.numpy())) for p in densities])
    assert_close(log_joint(theta.prepare(), X), joint + theta.weights.log().unsqueeze(1))


def test_prepared_noise_has_the_last_weight(theta):
    prepared = theta.with_noise(0.25, -4.0).prepare()
    assert_close(prepared.log_weights, (0.75 * theta.weights).log())
    assert_close(prepared.noise, prepared.noise.new_tensor(0.25).log() - 4)


# --- its type --------------------------------------------------------------------------------


def test_covariances_of_no_type_are_refused():
    w, m = torch.ones(3) / 3, torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"3 components in 4 dimensions .* got \(3, 10, 4\)"):
        GaussianMixtureParams(w, m, torch.ones(3, 10, 4))


def test_a_given_type_is_taken_as_it_is():
    single = GaussianMixtureParams(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], FULL)
    assert single.covariance_type is FULL
    batch = single.map(lambda t: t.expand(5, *t.shape))
    assert batch.means.shape == (5, 1, 2)
    assert batch.covariance_type is FULL


def test_a_type_may_be_given_by_its_name():
    w, m, S = torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]
    assert GaussianMixtureParams(w, m, S, "full").covariance_type is FULL
    for wrong in ("round", 3):
        with pytest.raises(ValueError, match=rf"covariance_type must be one of .* got {wrong!r}"):
            GaussianMixtureParams(w, m, S, wrong)


# --- joined and selected -------------------------------------------------------------------------


@pytest.mark.parametrize("other", [t.name for t in ELEMENTARY_TYPES])
@pytest.mark.parametrize("name", [t.name for t in ELEMENTARY_TYPES])
def test_joined_mixtures_have_the_mean_of_their_densities(name, other, make_mixture, make_samples):
    parts = [make_mixture(name, 2, 3, seed=1), make_mixture(other, 3, 3, seed=2)]
    weights, X = torch.tensor([0.3, 0.7], dtype=torch.float64), make_samples(20, 3)
    joined = join(parts, weights)
    densities = torch.stack([log_density(part, X).exp() for part in parts])
    assert_close(log_density(joined, X).exp(), weights @ densities)
    kinds = {name, other}
    expected = "full" if kinds & {"full", "tied"} else "diag" if len(kinds) == 2 else name
    assert joined.covariance_type.name == expected


@pytest.mark.parametrize("name", [t.name for t in ELEMENTARY_TYPES])
def test_components_without_weight_are_dropped_from_the_same_distribution(
    name, make_mixture, make_samples
):
    weights = torch.tensor([0.4, 0.0, 0.6], dtype=torch.float64)
    mixture, X = make_mixture(name, 3, 2)._replace(weights=weights), make_samples(20, 2)
    kept = with_mass(mixture)
    assert len(kept.weights) == 2
    assert_close(log_density(kept, X), log_density(mixture, X))
    assert_close(tuple(kept), tuple(select(mixture, [0, 2])))


def test_joined_low_ranks_are_of_the_larger(make_mixture):
    one, other = make_mixture("lowrank", 2, 3), make_mixture("diag", 2, 3, seed=1)
    both = join([one, other], torch.ones(2, dtype=torch.float64) / 2)
    assert both.covariance_type == one.covariance_type
    expected = torch.cat([one.full_covariances(), other.full_covariances()])
    assert_close(both.full_covariances(), expected)
