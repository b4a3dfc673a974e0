"""Starts by Sinkhorn-EM, whose components have equal shares of the samples."""

import numpy as np
import torch
from sklearn.utils.random import sample_without_replacement
from torch import Tensor

from skgmmot.estimators.starts.assignments import kmeans_clusters, of_labels, start
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.sinkhorn import SinkhornEM, untilted
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.registry import CovarianceType
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.fixed_point import iterate

#: Runs of k-means, share of the data's covariance that components begin with, and when they end.
CENTRES_INIT, SMALL, BALANCED_TOL, BALANCED_ITER = 3, 0.01, 1e-4, 300
#: Samples that a start looks at, in all or for each component if that is more: others are as well
#: explained by it, and an iteration that is balanced takes many passes.
MOST_ROWS, MOST_ROWS_EACH = 2**15, 256


def balanced(
    em: EM,
    given: tuple,
    covariance_type: CovarianceType,
    n_components: int,
    rng: np.random.RandomState,
) -> GaussianMixtureParams:
    """Run Sinkhorn-EM from what is given or, for the rest, from k-means in the data's own metric.

    Components of equal weight begin as small copies of the data's own shape, and distances are
    those of that shape too: features' scales do not matter, nor their directions if covariances
    are full or tied. As each component must take its share of the samples, they spread over all.
    Of more samples than are needed for that, some are drawn.
    """
    em = _some_samples(em, max(MOST_ROWS, MOST_ROWS_EACH * n_components), rng)
    plain = EM(em.samples, em.origin, em.reg_covar)
    labels = torch.zeros(len(em.X), dtype=torch.int64, device=em.X.device)
    everything = start(of_labels(labels, 1, em.X), plain, covariance_type, 1)
    weights, means, covariances = given
    if weights is None:
        weights = everything.weights.new_full((n_components,), 1 / n_components)
    if means is None:
        means = _centres(plain, everything, covariance_type, n_components, rng)
    if covariances is None:
        K, d = n_components, em.X.shape[1]
        covariances = covariance_type.scaled(
            everything.covariances.expand(covariance_type.shape(K, d)), SMALL
        )
    covariance_type = covariance_type.reduced(*means.shape)
    theta0 = untilted(GaussianMixtureParams(weights, means, covariances, covariance_type))
    found = iterate(SinkhornEM(em), theta0, tol=BALANCED_TOL, max_iter=BALANCED_ITER)
    return found.value.mixture()


def _some_samples(em: EM, n_samples: int, rng) -> EM:
    """The iteration over no more than so many samples of positive weight, drawn uniformly."""
    a = em.sample_weight
    positive = None if a is None else (a > 0).nonzero().flatten()
    n = len(em.X if a is None else positive)
    if n <= n_samples or em.samples.incomplete:
        return em
    drawn = np.sort(sample_without_replacement(n, n_samples, random_state=rng))
    rows = torch.from_numpy(drawn).to(em.X.device)
    rows = rows if a is None else positive[rows]
    samples = InMemory(em.X[rows], None if a is None else a[rows])
    return EM(samples, em.origin, em.reg_covar, em.constraint)


def _centres(em, everything, covariance_type, n_components, rng) -> Tensor:
    """Centres of k-means, where distances are those of the Gaussian of all samples."""
    whitening = everything.prepare()
    X = (em.X - em.origin).double().unsqueeze(0)
    X = whitening.covariance_type.apply(X, whitening.factors).squeeze(0)
    labels = kmeans_clusters(X, em.sample_weight, n_components, CENTRES_INIT, rng, overwrite=True)
    return start(of_labels(labels, n_components, em.X), em, covariance_type, n_components).means
