"""Where EM starts: k-means, k-means++, random responsibilities, random samples, Sinkhorn-EM.

The random numbers are scikit-learn's, drawn in the same order, so that an equal ``random_state``
gives an equal start. On the CPU k-means is scikit-learn's, too; on other devices it is that of
`skgmmot.fitting.kmeans`, which is the same but for rounding.

A start assigns samples to components; its weights, means and covariances are then the moments of
that assignment, block by block.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from numbers import Integral

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.utils import check_random_state
from sklearn.utils.random import sample_without_replacement
from threadpoolctl import threadpool_limits
from torch import Tensor

from skgmmot._inputs.arrays import NUMPY, ArrayKind, as_tensor, check_range
from skgmmot.estimators.mixtures._callable_start import called
from skgmmot.fitting import kmeans
from skgmmot.fitting.em.constraint import FREE, Constraint, check_fixed_weights, constraint_of
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.sinkhorn import SinkhornEM, untilted
from skgmmot.fitting.em.step import counted_mass, m_step, shifts
from skgmmot.fitting.labels import Labelling, clusters, masses, single_samples
from skgmmot.fitting.robust.noise import check_noise
from skgmmot.fitting.samples import InMemory
from skgmmot.fitting.stream import OutOfCore, start_rows
from skgmmot.gaussian.choice import definition_e_step
from skgmmot.gaussian.covariance.registry import CovarianceType
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture, select
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS, map_rows, origin
from skgmmot.numerics.fixed_point import iterate
from skgmmot.numerics.threads import in_forked_process

#: Yields ``(rows, components, responsibilities (k, b))`` block by block, the same at every call:
#: how some samples belong to k of the components (to none of them where k is 0).
Assignment = Callable[[], Iterator[tuple[slice | Tensor, slice, Tensor]]]

BLOCK = 2**14
#: Assignments of up to so many responsibilities are one block: cutting them would take longer.
HELD_AT_ONCE = 2**12

#: Rounding that is accepted in the mean that k-means subtracts, in epsilons of the largest sample,
#: and in squared distances, as a share of the samples' variance.
MEAN_ERROR, DISTANCE_ERROR = 1000, 1e-6
#: Share of a feature's variance from which ``reg_covar`` is warned of.
NOTICED = 0.1
#: Sinkhorn starts: runs of k-means, share of the data's covariance that components begin with, and
#: when they end.
CENTRES_INIT, SMALL, BALANCED_TOL, BALANCED_ITER = 3, 0.01, 1e-4, 300


#: Generators that are not in use: making one takes fifty times longer than seeding it.
_IDLE: list[np.random.RandomState] = []


@contextmanager
def random_numbers(random_state):
    """Give the generator of a ``random_state`` to a block; an integer seeds it anew."""
    if not isinstance(random_state, Integral):
        yield check_random_state(random_state)
        return
    try:
        rng = _IDLE.pop()
    except IndexError:
        rng = np.random.RandomState()
    rng.seed(random_state)
    try:
        yield rng
    finally:
        _IDLE.append(rng)


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
        return _labelled(torch.from_numpy(found).to(em.X.device), n_components, em.X)
    return _divided(found.to(em.X.device))


def _by_kmeans(em: EM, n_components: int, rng) -> Assignment:
    """The clusters of k-means."""
    return _labelled(_labels_by_kmeans(em, n_components, rng), n_components, em.X)


def _labels_by_kmeans(em: EM, n_components: int, rng) -> Tensor:
    """The cluster of each sample ``(n,)``."""
    on_host = em.X.device.type == "cpu"
    X = _near_origin(em, _centred_by_mean(em)) if on_host else em.X - em.origin
    return _clusters(X, em.sample_weight, n_components, 1, rng)


def _by_kmeans_plusplus(em: EM, n_components: int, rng) -> Assignment:
    """Single samples, far from each other."""
    if em.X.device.type != "cpu":
        return _single(kmeans.seeds(em.X - em.origin, n_components, rng, em.sample_weight), em)
    X = _near_origin(em, _distances_keep_digits(em)).numpy()
    options = {"sample_weight": _weights_of(em), "random_state": rng}
    return _single(torch.from_numpy(kmeans_plusplus(X, n_components, **options)[1]), em)


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
    return _labelled(labels, len(chosen), em.X)


def _near_origin(em: EM, safe: bool) -> Tensor:
    """The samples for scikit-learn: as they are where that is safe, else about their origin.

    Ties, which rounded data are full of, break otherwise for other roundings: only samples as they
    are give scikit-learn's own start.
    """
    return em.X if safe else em.X - em.origin


def _centred_by_mean(em: EM) -> bool:
    """Whether scikit-learn's k-means, which subtracts the mean itself, adds it up well enough."""
    if em.X.dtype == torch.float64:
        return True
    X = em.X.numpy()
    largest = np.maximum(X.max(axis=0), -X.min(axis=0))
    error = np.abs(X.mean(axis=0) - origin(em.X, None).numpy())
    return bool((error <= MEAN_ERROR * np.finfo(X.dtype).eps * largest).all())


def _distances_keep_digits(em: EM) -> bool:
    """Whether squared distances, as differences of squares in float64, keep enough digits."""
    spread = 0.0
    for i in range(0, len(em.X), BLOCK):
        x, a = em.rows(slice(i, i + BLOCK))
        squares = x.double().square().sum(1)
        spread += float(squares.sum() if a is None else squares @ a.double())
    offset = float(em.origin.double().square().sum()) * em.total
    return offset * torch.finfo(torch.float64).eps <= DISTANCE_ERROR * spread


def _clusters(X: Tensor, sample_weight: Tensor | None, n_clusters: int, n_init: int, rng) -> Tensor:
    """The labels of k-means: on the CPU scikit-learn's, with its very bits."""
    if X.device.type != "cpu":
        return kmeans.kmeans(X, n_clusters, rng, sample_weight, n_init=n_init).labels
    estimator = KMeans(n_clusters, n_init=n_init, random_state=rng)
    a = None if sample_weight is None else sample_weight.numpy()
    # in a forked process OpenMP waits for threads that were not taken along
    alone = in_forked_process()
    with threadpool_limits(1, user_api="openmp") if alone else nullcontext():
        return torch.from_numpy(estimator.fit(X.numpy(), sample_weight=a).labels_)


def _labelled(labels: Tensor, n_components: int, X: Tensor) -> Assignment:
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
            for rows in group.split(BLOCK):
                yield rows, components, X.new_ones(components.stop - components.start, len(rows))

    return blocks


def _divided(resp: Tensor) -> Assignment:
    """Responsibilities ``(n, K)`` as they are."""

    def blocks():
        for i in range(0, len(resp), BLOCK):
            yield slice(i, i + BLOCK), slice(None), resp[i : i + BLOCK].T

    return blocks


def _by_chance(em: EM, n_components: int, rng) -> Assignment:
    """Uniform responsibilities, normalised; drawn again at every pass instead of stored."""
    n, before = len(em.X), rng.get_state()

    def blocks():
        rng.set_state(before)
        for start in range(0, n, BLOCK):
            drawn = rng.uniform(size=(min(BLOCK, n - start), n_components)).astype(np.float64)
            resp = torch.from_numpy(drawn.T).to(em.X)
            yield slice(start, start + BLOCK), slice(None), resp / resp.sum(0)

    return blocks


def assign_labelled(
    name: str | Callable,
    em: EM,
    labelling: Labelling,
    rng: np.random.RandomState,
    run: int = 0,
    kind: ArrayKind = NUMPY,
) -> Assignment:
    """Assign samples, of which some classes are known, to components that are possible for them.

    Parameters
    ----------
    name : {'kmeans', 'k-means++', 'random', 'random_from_data'} or callable
        The start. ``'kmeans'`` begins with the means of the classes in the first run, and without
        them in others, which would be the first one again. Components that are found without the
        classes, or by a callable, are put in the order that fits the classes best.
    em : EM
        The samples, their weights and their origin.
    labelling : Labelling
        The classes.
    rng : RandomState
        Source of random numbers.
    run : int, default=0
        How many starts there were before.
    kind : ArrayKind, default=NUMPY
        The kind of array that a callable gets.

    Returns
    -------
    callable
        The responsibilities, block by block.
    """
    K = labelling.n_components
    if callable(name):
        found = called(name, em.X, K, rng, kind)
        found = torch.from_numpy(found) if found.ndim == 1 else found
        return _in_order_of_classes(found.to(em.X.device), em, labelling)
    if name == "kmeans" and run > 0:
        return _in_order_of_classes(_labels_by_kmeans(em, K, rng), em, labelling)
    if name == "random":
        return _restricted(_by_chance(em, K, rng), labelling)
    X = em.X - em.origin
    if name == "kmeans":
        return _labelled(clusters(labelling, X, em.sample_weight, rng), K, em.X)
    far = name == "k-means++"
    chosen = single_samples(labelling, X, em.sample_weight, rng, far=far)
    labels = torch.full_like(labelling.codes, -1)
    labels[chosen] = torch.arange(K, device=labels.device)
    for c, components in enumerate(labelling.components):
        if len(components) == 1:
            labels[labelling.rows(c)] = components[0]
    return _labelled(labels, K, em.X)


def _in_order_of_classes(found: Tensor, em: EM, labelling: Labelling) -> Assignment:
    """Labels ``(n,)`` or responsibilities ``(n, K)`` of components in any order."""
    if found.ndim == 1:
        found = torch.nn.functional.one_hot(found.long(), labelling.n_components).double()
    order = labelling.order(masses(labelling, found.mT, em.sample_weight))
    return _restricted(_divided(found[:, order]), labelling)


def _restricted(assignment: Assignment, labelling: Labelling) -> Assignment:
    """Responsibilities of all components, shared among those that are possible."""

    def blocks():
        for rows, components, resp in assignment():
            yield rows, components, labelling.restricted(resp, rows)

    return blocks


def _in_classes(
    found: GaussianMixtureParams, em: EM, labelling: Labelling
) -> GaussianMixtureParams:
    """Components in the order that fits the classes of the samples best."""
    step = em.fastest(found)

    def resp(block):
        return step.responsibilities(block)[0].mT

    of_all = map_rows(resp, step.row_size, em.X, min_rows=step.min_rows).mT
    return select(found, labelling.order(masses(labelling, of_all, em.sample_weight)))


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
    """
    plain = EM(em.samples, em.origin, em.reg_covar)
    labels = torch.zeros(len(em.X), dtype=torch.int64, device=em.X.device)
    everything = start(_labelled(labels, 1, em.X), plain, covariance_type, 1)
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


def _centres(em, everything, covariance_type, n_components, rng) -> Tensor:
    """Centres of k-means, where distances are those of the Gaussian of all samples."""
    whitening = everything.prepare()
    X = (em.X - em.origin).double().unsqueeze(0)
    X = whitening.covariance_type.apply(X, whitening.factors).squeeze(0)
    labels = _clusters(X, em.sample_weight, n_components, CENTRES_INIT, rng)
    return start(_labelled(labels, n_components, em.X), em, covariance_type, n_components).means


#: Assignments by name, and starts that are more than the moments of one.
ASSIGNMENTS = {
    "kmeans": _by_kmeans,
    "k-means++": _by_kmeans_plusplus,
    "random": _by_chance,
    "random_from_data": _by_random_samples,
}
FITTED = {"sinkhorn": balanced}
STARTS = {*ASSIGNMENTS, *FITTED}


# --- the starts of an estimator ------------------------------------------------------------------


def warn_of_units(estimator, variances: Tensor, about: Tensor) -> None:
    """Warn where ``reg_covar`` drowns a feature of samples, whose mean, in their dtype, is given.

    Features that are constant but for their rounding do not count; a covariance type of one
    variance for all features has their mean to compare with.
    """
    variances = variances.cpu().numpy()
    if estimator.reg_covar <= NOTICED * variances.min():
        return
    rounding = max(8 * torch.finfo(about.dtype).eps, 1e-12) * about.double().abs().cpu().numpy()
    variances = variances[variances > rounding**2]
    if not len(variances):
        return
    pooled = estimator._covariance().base.pooled(len(about)) > 1
    smallest = float(variances.mean() if pooled else variances.min())
    if estimator.reg_covar > NOTICED * smallest:
        warnings.warn(
            "reg_covar must be small against the variances of the features, got "
            f"{estimator.reg_covar:.2g} for a variance of {smallest:.2g}. Rescale "
            f"X, for example with StandardScaler, or set reg_covar={1e-6 * smallest:.0e}, up to "
            f"{1e-2 * smallest:.0e} where components have few samples for so many features.",
            stacklevel=8,
        )


def variances(X: Tensor, sample_weight: Tensor | None, about: Tensor) -> Tensor:
    """The variance of each feature, in float64."""
    if sample_weight is None:
        sums, total = ((x - about).double().square().sum(0) for x in X.split(BLOCK)), len(X)
    else:
        blocks = zip(X.split(BLOCK), sample_weight.double().split(BLOCK), strict=True)
        sums = (a @ (x - about).double().square() for x, a in blocks)
        total = sample_weight.sum(dtype=torch.float64)
    return functools.reduce(torch.add, sums) / total


def earlier_mixture(estimator, d: int, device) -> GaussianMixtureParams:
    """The mixture of the estimator's own last fit, in float64."""
    expected = (estimator.n_components, d)
    if np.shape(estimator.means_) != expected:
        raise ValueError(
            f"warm_start needs a fit of shape (n_components, n_features) = {expected}, got one "
            f"of shape {np.shape(estimator.means_)}. Set warm_start=False to start anew."
        )
    options = {"dtype": torch.float64, "device": device}
    params, covariance_type = estimator._params(**options).detach(), estimator._covariance()
    try:
        params.prepare()
    except ValueError as error:
        if not hasattr(estimator, "precisions_cholesky_"):
            raise ValueError(
                "warm_start needs positive definite covariances_, got one that is singular. Add to "
                "its diagonal, or set warm_start=False to start anew."
            ) from error
        # thin covariances may be singular once they are rounded to float32; their factors are not
        factors = (
            estimator._tensors("precisions_cholesky_", covariance_type.base)[2]
            .to(**options)
            .detach()
        )
        covariances = covariance_type.base.from_precisions(covariance_type.base.precisions(factors))
        covariances = covariance_type.from_base(covariances, params.weights, params.means.shape[1])
        params = params._replace(covariances=covariances)
    return params


def earlier_fit(estimator, em: EM) -> GaussianMixtureParams:
    """The same about the samples' origin, where EM can go on from it."""
    params = earlier_mixture(estimator, len(em.origin), em.origin.device)
    return _revived(params.translated(-em.origin.double()), em)


def _revived(theta: GaussianMixtureParams, em: EM) -> GaussianMixtureParams:
    """The mixture with one sample's weight for components without any, where that is of use.

    The likelihood grows with a weight that is zero if the mean of ``g_k / p`` exceeds one.
    """
    empty = theta.weights == 0
    if not empty.any():
        return theta
    mixture = theta.prepare()
    (ratio,) = em.samples.sum(_DensityRatio(mixture, em.origin, em.samples.incomplete))
    weights = torch.where(empty & (ratio > em.total), 1 / em.samples.n_samples, theta.weights)
    return theta._replace(weights=weights / weights.sum())


class _DensityRatio:
    """``g_k / p``, over a block."""

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, mixture: PreparedMixture, origin: Tensor, incomplete: bool):
        self.row_size, options = mixture.row_size, {"incomplete": incomplete}
        unweighted = mixture._replace(log_weights=torch.zeros_like(mixture.log_weights))
        self.step = definition_e_step(mixture, origin, **options)
        self.unweighted = definition_e_step(unweighted, origin, **options)

    def block(self, X, sample_weight, buffers):
        ratio = (self.unweighted.log_joint(X) - self.step.log_density(X)).exp()
        return ((ratio if sample_weight is None else ratio * sample_weight).sum(1),)


def given(estimator, em: EM, *, uniform: bool = False) -> tuple:
    """The validated initial weights, means (about the origin) and covariances, or None.

    ``uniform`` stands for weights that are not given.
    """
    shape = (estimator.n_components, len(em.origin))
    to = {"dtype": torch.float64, "device": em.origin.device}
    weights, means, covariances = None, None, None
    if uniform:
        weights = torch.full((estimator.n_components,), 1 / estimator.n_components, **to)
    if estimator.weights_init is not None:
        weights = check_weights(estimator.weights_init, estimator.n_components).to(**to)
    if estimator.means_init is not None:
        means = check_shape(estimator.means_init, shape, "means").to(**to)
        check_range(means.to(em.origin.dtype), "means_init")
        means = means - em.origin.double()
    if estimator.precisions_init is not None:
        covariances = check_precisions(
            estimator.precisions_init, estimator._covariance(), *shape
        ).to(**to)
    return weights, means, covariances


def one_start(
    estimator,
    em: EM,
    given: tuple,
    rng,
    run: int,
    kind: ArrayKind = NUMPY,
    grouped: EM | None = None,
    labelling: Labelling | None = None,
) -> GaussianMixtureParams:
    """One start: what is given, and for the rest the moments of an assignment, or Sinkhorn-EM.

    The assignment may be of the same samples in other coordinates, ``grouped``. A callable start
    gets them in the user's kind of array. Where classes are known, components begin with theirs.
    """
    name = estimator.init_params
    fitted = None if callable(name) else FITTED.get(name)
    if fitted is not None:
        # another run from given means and covariances would be the first one again
        given = given if run == 0 else (given[0], None, None)
        size = estimator._covariance(), estimator.n_components
        if labelling is None:
            return fitted(em, given, *size, rng)
        plain = EM(InMemory(em.X, em.sample_weight), em.origin, em.reg_covar, em.constraint)
        found = fitted(plain, given, *size, rng)
        return found if given[1] is not None else _in_classes(found, plain, labelling)
    if all(part is not None for part in given):
        covariance_type = estimator._covariance().reduced(*given[1].shape)
        return GaussianMixtureParams(*given, covariance_type)
    if labelling is None:
        assignment = assign(name, grouped or em, estimator.n_components, rng, kind)
    else:
        assignment = assign_labelled(name, em, labelling, rng, run, kind)
    found = start(assignment, em, estimator._covariance(), estimator.n_components)
    if em.constraint.means is not None and labelling is None:
        found = _in_order_of(given[1], found)
    if estimator.max_iter == 0:
        # Nothing normalises the weights of a start later: do it now.
        found = found._replace(weights=found.weights / found.weights.sum())
    parts = (f if g is None else g for f, g in zip(found, given, strict=True))
    return GaussianMixtureParams(*parts, found.covariance_type)


def _in_order_of(means: Tensor, found: GaussianMixtureParams) -> GaussianMixtureParams:
    """Components in the order of given means, each near its own."""
    distances = torch.cdist(means, found.means).cpu().numpy()
    return select(found, torch.from_numpy(linear_sum_assignment(distances)[1]).to(means.device))


# --- what stays ----------------------------------------------------------------------------------


def fixed(estimator, n_features: int, device: torch.device) -> Constraint:
    """What of the mixture stays, without values."""
    K, noise = estimator.n_components, check_noise(estimator.noise)
    names = ("weights", "means", "covariances")
    masks = {name: getattr(estimator, f"fixed_{name}") for name in names}
    if all(mask is False for mask in masks.values()) and (noise is None or not noise.fixed_weight):
        return FREE
    covariance_type = estimator._covariance().reduced(K, n_features)
    found = constraint_of(covariance_type, K, **masks, device=device)
    if noise is None:
        return found
    if found.weights is not None and not noise.fixed_weight:
        raise ValueError(
            "fixed_weights must be False beside noise whose weight is fitted, got "
            f"{estimator.fixed_weights!r}: the components share what noise leaves. Fix that, too, "
            "by UniformNoise(weight=..., fixed_weight=True)."
        )
    if not noise.fixed_weight:
        return found
    of_components = torch.zeros(K, dtype=torch.bool, device=device)
    if found.weights is not None:
        of_components = found.weights
    own = of_components.new_ones(1)
    return replace(found, weights=torch.cat([of_components, own]))


def check_held(estimator, em: EM, given: tuple, warm: bool) -> Tensor | None:
    """Refuse to hold what is not given; return the means that are held, about zero."""
    constraint = of_components(em.constraint, estimator.n_components)
    masks = (constraint.weights, constraint.means, constraint.covariances)
    names = (("weights", "weights"), ("means", "means"), ("covariances", "precisions"))
    for mask, value, (fixed, initial) in zip(masks, given, names, strict=True):
        if mask is not None and value is None and not warm:
            raise ValueError(
                f"{initial}_init must be given where fixed_{fixed} holds some of it, got None. "
                "Pass the values that stay, and where the others start."
            )
    if given[0] is not None:
        check_fixed_weights(constraint, given[0])
    if constraint.means is None:
        return None
    means = estimator.means_ if given[1] is None else estimator.means_init
    return as_tensor(means).detach().to(dtype=torch.float64, device=em.samples.device)


def of_components(constraint: Constraint, n_components: int) -> Constraint:
    """The same without what it says of the weight of noise."""
    if constraint.weights is None or len(constraint.weights) == n_components:
        return constraint
    weights = constraint.weights[:n_components]
    return replace(constraint, weights=weights if weights.any() else None)


def held(theta: GaussianMixtureParams, given: tuple, em: EM) -> GaussianMixtureParams:
    """A start with what is given where that stays."""
    if not em.constraint.fixes:
        return theta
    parts = (t if g is None else g for t, g in zip(theta, given, strict=True))
    return em.constraint.keep(theta, GaussianMixtureParams(*parts, theta.covariance_type))


def sample_of(samples: OutOfCore, n_components: int, rng) -> InMemory:
    """Samples to start from, in memory: all if they are not many, else some drawn uniformly.

    Those of weight zero are not drawn, and the others keep their weights.
    """
    n, facts = start_rows(samples.facts, n_components), samples.facts
    if facts.n_samples <= n:
        return InMemory(*samples.take())
    n_positive = facts.n_positive
    drawn = sample_without_replacement(n_positive, min(n, n_positive), random_state=rng)
    return InMemory(*samples.take(np.sort(drawn)))


# --- starts given by the user (the texts are scikit-learn's: programs match them) -----------------


def check_shape(array, shape: tuple[int, ...], name: str) -> Tensor:
    """Validate the shape and finiteness of a given start."""
    tensor = as_tensor(array)
    if tensor.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got "
            f"{tuple(tensor.shape)}. Match n_components and the features of X."
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(
            f"The parameter '{name}' must be finite, got NaN or infinity. Replace those entries."
        )
    return tensor.detach()


def check_weights(weights, n_components: int) -> Tensor:
    """Validate ``weights_init``."""
    weights = check_shape(weights, (n_components,), "weights")
    low, high = float(weights.min()), float(weights.max())
    if low < 0 or high > 1:
        # (scikit-learn's text, whose two values stand the other way round)
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{low:.5f}, min value {high:.5f}"
        )
    if abs(1 - float(weights.sum())) > (1e-6 if weights.dtype == torch.float32 else 1e-8):
        raise ValueError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{float(weights.sum()):.5f}. Divide by the sum."
        )
    return weights


def check_precisions(precisions, covariance_type: CovarianceType, *shape: int) -> Tensor:
    """Validate ``precisions_init`` and return the covariances, in storage."""
    base = covariance_type.base
    if not base.elementary:
        raise ValueError(
            f"precisions_init must be None with covariance_type={base.name!r}, whose precisions "
            f"are not stored, got a {type(precisions).__name__}. Start from "
            "DifferentiableGaussianMixture.from_parameters with warm_start=True."
        )
    precisions = check_shape(precisions, base.public_shape(*shape), f"{base.name} precision")
    precisions = base.from_public(precisions)
    requirement = base.not_precisions(precisions)
    if requirement:
        low, high = float(precisions.min()), float(precisions.max())
        raise ValueError(
            f"'{base.name} precision' should be {requirement}, got entries from {low:.3g} to "
            f"{high:.3g}. Pass inverse covariances."
        )
    covariances, (K, d) = base.from_precisions(precisions.double()), shape
    return covariance_type.from_base(covariances, covariances.new_full((K,), 1 / K), d)
