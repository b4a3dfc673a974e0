"""Samples assigned to components: k-means, k-means++, random samples and responsibilities.

The random numbers are scikit-learn's, drawn in the same order, so that an equal ``random_state``
gives an equal start. On the CPU k-means is scikit-learn's, too; on other devices it is that of
`skgmmot.fitting.kmeans`, which is the same but for rounding.

A start assigns samples to components; its weights, means and covariances are then the moments of
that assignment, block by block.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from sklearn import config_context
from sklearn.cluster import KMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits
from torch import Tensor

from skgmmot._inputs.arrays import NUMPY, ArrayKind
from skgmmot.estimators.starts.user_function import called
from skgmmot.fitting import kmeans
from skgmmot.fitting.em.constraint import Constraint
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import counted_mass, m_step, shifts
from skgmmot.gaussian.covariance.registry import CovarianceType
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.blocks import block_length, origin
from skgmmot.numerics.threads import in_forked_process

#: Yields ``(rows, components, responsibilities (k, b))`` block by block, the same at every call:
#: how some samples belong to k of the components (to none of them where k is 0).
Assignment = Callable[[], Iterator[tuple[slice | Tensor, slice, Tensor]]]

#: Most samples at once.
BLOCK = 2**14
#: Assignments of up to so many responsibilities are one block: cutting them would take longer.
HELD_AT_ONCE = 2**12

#: Rounding that is accepted in the mean that k-means subtracts, in epsilons of the largest sample,
#: and in squared distances, as a share of the samples' variance.
MEAN_ERROR, DISTANCE_ERROR = 1000, 1e-6


def assign(
    name: str | Callable,
    em: EM,
    n_components: int,
    rng: np.random.RandomState,
    kind: ArrayKind = NUMPY,
    X: Tensor | None = None,
) -> Assignment:
    """Assign samples to components by the start of that name, or by the user's own.

    Parameters
    ----------
    name : {'kmeans', 'k-means++', 'random', 'random_from_data'} or callable
        The start.
    em : EM
        The samples, their weights and their origin.
    n_components : int
        K.
    rng : RandomState
        Advanced as scikit-learn's fit would.
    kind : ArrayKind, default=NUMPY
        The kind of array that a callable gets.
    X : Tensor of shape (n, d), default=None
        The samples as the user passed them; None is as they are in ``em``.

    Returns
    -------
    callable
        The responsibilities, block by block.
    """
    if not callable(name):
        return ASSIGNMENTS[name](em, n_components, rng)
    found = called(name, em.X if X is None else X, n_components, rng, kind)
    if found.ndim == 1:
        return of_labels(torch.from_numpy(found).to(em.X.device), n_components, em.X)
    return of_responsibilities(found.to(em.X.device), em.X)


def rows_at_once(X: Tensor, n_components: int = 1) -> int:
    """How many samples make a block, of the size of a cache if each is centred at all components.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    n_components : int, default=1
        How many components samples of a block may belong to.

    Returns
    -------
    int
        The largest number of rows.
    """
    return min(BLOCK, block_length(X.device, n_components * X.shape[1]))


def _by_kmeans(em: EM, n_components: int, rng) -> Assignment:
    """The clusters of k-means."""
    return of_labels(kmeans_labels(em, n_components, rng), n_components, em.X)


def kmeans_labels(em: EM, n_components: int, rng) -> Tensor:
    """The cluster of each sample ``(n,)``."""
    on_host = em.X.device.type == "cpu"
    X = _near_origin(em, centred_by_mean(em)) if on_host else em.X - em.origin
    return kmeans_clusters(X, em.sample_weight, n_components, 1, rng, overwrite=X is not em.X)


def _by_kmeans_plusplus(em: EM, n_components: int, rng) -> Assignment:
    """Single samples, far from each other."""
    if em.X.device.type != "cpu":
        return _single(kmeans.seeds(em.X - em.origin, n_components, rng, em.sample_weight), em)
    X = _near_origin(em, _distances_keep_digits(em)).numpy()
    options = {"sample_weight": _weights_of(em), "random_state": rng}
    with config_context(assume_finite=True):  # the samples have been checked
        chosen = kmeans_plusplus(X, n_components, **options)[1]
    return _single(torch.from_numpy(chosen), em)


def _by_random_samples(em: EM, n_components: int, rng) -> Assignment:
    """Single samples, drawn by their weights."""
    a = _weights_of(em)
    p = None if a is None else a.astype(np.float64) / a.sum(dtype=np.float64)
    chosen = rng.choice(len(em.X), size=n_components, replace=False, p=p)
    return _single(torch.from_numpy(chosen).to(em.X.device), em)


def _weights_of(em: EM) -> np.ndarray | None:
    """The samples' weights for scikit-learn."""
    return None if em.sample_weight is None else em.sample_weight.cpu().numpy()


def _single(chosen: Tensor, em: EM) -> Assignment:
    """Each component one sample."""
    labels = torch.full((len(em.X),), -1, device=chosen.device)
    labels.scatter_(0, chosen, torch.arange(len(chosen), device=chosen.device))
    return of_labels(labels, len(chosen), em.X)


def _near_origin(em: EM, safe: bool) -> Tensor:
    """The samples for scikit-learn: as they are where that is safe, else about their origin.

    Ties, which rounded data are full of, break otherwise for other roundings: only samples as they
    are give scikit-learn's own start.
    """
    return em.X if safe else em.X - em.origin


def centred_by_mean(em: EM) -> bool:
    """Whether scikit-learn's k-means, which subtracts the mean itself, adds it up well enough."""
    if em.X.dtype == torch.float64:
        return True
    X = em.X.numpy()
    largest = np.maximum(X.max(axis=0), -X.min(axis=0))
    error = np.abs(X.mean(axis=0) - origin(em.X, None).numpy())
    return bool((error <= MEAN_ERROR * np.finfo(X.dtype).eps * largest).all())


def _distances_keep_digits(em: EM) -> bool:
    """Whether squared distances, as differences of squares in float64, keep enough digits."""
    spread, length = 0.0, rows_at_once(em.X)
    for i in range(0, len(em.X), length):
        x, a = em.rows(slice(i, i + length))
        squares = x.double().square().sum(1)
        spread += float(squares.sum() if a is None else squares @ a.double())
    offset = float(em.origin.double().square().sum()) * em.total
    return offset * torch.finfo(torch.float64).eps <= DISTANCE_ERROR * spread


def kmeans_clusters(
    X: Tensor,
    sample_weight: Tensor | None,
    n_clusters: int,
    n_init: int,
    rng,
    *,
    overwrite: bool = False,
) -> Tensor:
    """The labels of k-means: on the CPU scikit-learn's, with its very bits.

    Samples that may be overwritten are not copied.
    """
    if X.device.type != "cpu":
        return kmeans.kmeans(X, n_clusters, rng, sample_weight, n_init=n_init).labels
    estimator = KMeans(n_clusters, n_init=n_init, random_state=rng, copy_x=not overwrite)
    a = None if sample_weight is None else sample_weight.numpy()
    # in a forked process OpenMP waits for threads that were not taken along
    alone = in_forked_process()
    with (
        threadpool_limits(1, user_api="openmp") if alone else nullcontext(),
        config_context(assume_finite=True),  # the samples have been checked
    ):
        return torch.from_numpy(estimator.fit(X.numpy(), sample_weight=a).labels_)


def of_labels(labels: Tensor, n_components: int, X: Tensor) -> Assignment:
    """Each component its samples; those of label -1 belong to none."""
    if len(labels) * n_components < HELD_AT_ONCE:
        numbers = torch.arange(n_components, device=X.device).unsqueeze(1)
        held = [(slice(None), slice(None), (labels == numbers).to(X.dtype))]
        nobody = (labels < 0).nonzero().flatten()
        if len(nobody):
            held.append((nobody, slice(0, 0), X.new_ones(0, len(nobody))))
        return lambda: iter(held)
    counts = torch.bincount(labels + 1, minlength=n_components + 1)
    groups = labels.argsort(stable=True).split(counts.tolist())

    def blocks():
        for k, group in enumerate(groups, start=-1):
            components = slice(max(k, 0), k + 1)
            for rows in group.split(rows_at_once(X)):
                yield rows, components, X.new_ones(components.stop - components.start, len(rows))

    return blocks


def of_responsibilities(resp: Tensor, X: Tensor) -> Assignment:
    """Responsibilities ``(n, K)`` as they are."""
    length = rows_at_once(X, resp.shape[1])

    def blocks():
        for i in range(0, len(resp), length):
            yield slice(i, i + length), slice(None), resp[i : i + length].T

    return blocks


def by_chance(em: EM, n_components: int, rng) -> Assignment:
    """Uniform responsibilities, normalised; drawn again at every pass instead of stored."""
    n, before, length = len(em.X), rng.get_state(), rows_at_once(em.X, n_components)

    def blocks():
        rng.set_state(before)
        for start in range(0, n, length):
            drawn = rng.uniform(size=(min(length, n - start), n_components)).astype(np.float64)
            resp = torch.from_numpy(drawn.T).to(em.X)
            yield slice(start, start + length), slice(None), resp / resp.sum(0)

    return blocks


def start(
    assignment: Assignment, em: EM, covariance_type: CovarianceType, n_components: int
) -> GaussianMixtureParams:
    """Take the moments of an assignment: the start's mixture, about the samples' origin.

    As in scikit-learn, masses carry ten epsilons and weights are masses over the number of
    samples, so that the weights of a start from single samples do not sum to one.
    """
    d = em.X.shape[1]
    device, K = em.X.device, n_components
    options = {"dtype": torch.float64, "device": device}
    base = covariance_type.base

    def blocks():
        """Samples, their weights or None, their components and weighted responsibilities."""
        for rows, components, resp in assignment():
            if len(resp) or base.shared:  # only a shared covariance counts what belongs to nobody
                x, a = em.rows(rows)
                yield x, a, components, resp.double() if a is None else resp * a.double()

    mass, shift = torch.zeros(K, **options), torch.zeros(K, d, **options)
    for x, _, components, resp in blocks():
        mass[components].add_(resp.sum(-1))
        shift[components].add_(resp @ x)
    mass, alive = counted_mass(mass)
    means = shifts(mass, shift, alive)
    scatter = torch.zeros(base.shape(K, d), **options)
    unassigned = torch.zeros(d if base.shared else 0, d, **options)
    for x, a, components, resp in blocks():
        part = base.scatter(x - means[components].unsqueeze(1), resp)
        scatter[slice(None) if base.shared else components].add_(part)
        if base.shared and not len(resp):
            unassigned += (x if a is None else x * a.double().unsqueeze(1)).mT @ x
    if em.constraint.prior is not None:  # single samples have covariances, too
        about = GaussianMixtureParams(mass, means, scatter, covariance_type.reduced(K, d))
        found = Statistics(mass, torch.zeros_like(means), scatter, mass.new_zeros(()))
        return m_step(about, found, em.reg_covar, Constraint(prior=em.constraint.prior))
    each = mass if alive is None or covariance_type.shared else torch.where(alive, mass, 1.0)
    covariances = covariance_type.start(each, scatter, unassigned, em.reg_covar)
    for _ in range(covariance_type.start_iterations):
        kind, scatter = covariance_type.at(covariances), torch.zeros_like(scatter)
        for x, _, components, resp in blocks():
            part = kind.of(components).scatter(x - means[components].unsqueeze(1), resp)
            scatter[components].add_(part)
        covariances = kind.estimate(each, torch.zeros_like(means), scatter, em.reg_covar)
    if alive is not None:  # what is assigned nothing is wide: so it can come back
        zero = torch.zeros_like(means)
        about_origin = base.move_scatter(scatter, mass, zero, means)
        total = (mass.sum(0, keepdim=True), zero[:1], about_origin.sum(0, keepdim=True))
        covariances = covariance_type.where(
            alive, covariances, covariance_type.estimate(*total, em.reg_covar)
        )
    return GaussianMixtureParams(mass / em.total, means, covariances, covariance_type.reduced(K, d))


#: Assignments by name.
ASSIGNMENTS = {
    "kmeans": _by_kmeans,
    "k-means++": _by_kmeans_plusplus,
    "random": by_chance,
    "random_from_data": _by_random_samples,
}
