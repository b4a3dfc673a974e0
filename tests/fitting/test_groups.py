"""Groups of samples that see a part of a mixture: their sums, and views of views."""

import pytest
import torch
from torch.testing import assert_close

from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.groups import WHOLE, Grouped, Possible
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.log_density import log_joint
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import moments

F64 = torch.float64
#: What each third of the samples sees.
VIEWS = (Possible((1,)), WHOLE, Possible((3, 0)))
MASK = torch.tensor([[0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]], dtype=torch.bool)


def thirds(n, views=VIEWS):
    """Every third sample in a group."""
    return [(torch.arange(i, n, 3), view) for i, view in enumerate(views)]


def by_definition(theta, X, a, possible):
    """Sums of responsibilities that are zero where a component is not possible ``(K, n)``."""
    joint = log_joint(theta.prepare(), X).masked_fill(~possible, -torch.inf)
    log_p = torch.logsumexp(joint, 0)
    found = moments(theta, X, (joint - log_p).exp() * a)
    return found._replace(log_likelihood=(a * log_p).sum())


@pytest.mark.parametrize("n", [60, 6000])  # by the definition, and by products
def test_impossible_components_have_no_share_of_a_sample(covariance_type, n, make_mixture):
    theta, X = make_mixture(covariance_type, 4, 3), torch.randn(n, 3, dtype=F64) + 1
    a = torch.rand(n, dtype=F64)
    origin = torch.full((3,), 0.5, dtype=F64)
    found = EM(Grouped(X, a, thirds(n)), origin, 0.0).statistics(theta.translated(-origin))
    expected = by_definition(theta, X, a, MASK[torch.arange(n) % 3].T)
    assert_close(tuple(found), tuple(expected), rtol=1e-9, atol=1e-9)


def test_a_group_that_sees_everything_has_the_bits_of_plain_samples(make_mixture):
    theta, X, origin = make_mixture("full", 4, 3), torch.randn(3000, 3), torch.zeros(3)
    plain = EM(InMemory(X), origin, 1e-6)(theta)
    found = EM(Grouped(X, None, [(torch.arange(3000), WHOLE)]), origin, 1e-6)(theta)
    assert found[1] == plain[1]
    assert all(map(torch.equal, found[0], plain[0]))


def test_the_order_of_the_threads_changes_no_bit(make_mixture):
    theta, X = make_mixture("full", 4, 3), torch.randn(30000, 3, dtype=F64)
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            with EM(Grouped(X, None, thirds(len(X))), X.mean(0), 0.0).at_work() as em:
                assert all(part.em.samples.pool is em.samples.pool for part in em.parts)
                found.append(em.statistics(theta))
            assert not any(part.em.samples.pool for part in em.parts)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def test_groups_have_their_own_fingerprint():
    X = torch.randn(9, 2)
    marks = [
        Grouped(X, None, groups).fingerprint()
        for groups in (thirds(9), thirds(9), thirds(9, VIEWS[::-1]))
    ]
    assert marks[0] == marks[1] != marks[2]
    assert marks[0] != InMemory(X).fingerprint()


def test_groups_have_no_e_step_in_common(make_mixture):
    em = EM(Grouped(torch.randn(9, 3), None, thirds(9)), torch.zeros(3), 0.0)
    with pytest.raises(ValueError, match="evaluated group by group"):
        em.fastest(make_mixture("full", 4, 3))


def test_float32_samples_keep_the_digits_of_float32(make_mixture):
    theta, X = make_mixture("full", 4, 3), torch.randn(6000, 3) + 1
    origin = torch.full((3,), 0.5)
    about = GaussianMixtureParams(theta.weights, theta.means - 0.5, theta.covariances)
    em = EM(Grouped(X, None, thirds(6000)), origin, 0.0)
    exact = em.in_float64().statistics(about)
    assert em.parts[1].em.dtype == torch.float32
    assert_close(tuple(em.statistics(about)), tuple(exact), rtol=1e-4, atol=1e-2)
