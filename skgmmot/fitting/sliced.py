"""Fit a mixture to samples by descent on a sliced Wasserstein distance.

All parameters move, in coordinates in which samples vary alike in every direction (`Whitening`) and
where every value is a mixture: log-weights, means, and roots
``B`` of the covariances ``B B^T + reg_covar I``. Transport between Gaussians is quadratic in a root
(and not in its logarithm), so that components that have become too thin widen again. The weights
stay as they are until there is no progress without them: while components still spread over the
samples, one that is far from its share would lose its weight instead of moving.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.registry import CovarianceType
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.minimise import EPOCH, N_HALVINGS, lbfgs, minimise, rmsprop
from skgmmot.transport.sliced.directions import ascend, directions
from skgmmot.transport.sliced.distance import (
    SortedSamples,
    slice_samples,
    sliced_wasserstein,
    slices,
    wasserstein_on_lines,
)

#: Nodes a component during a fit, whose steps need no exact gradient.
N_NODES = 24
#: Numbers that the samples on the directions of one kind may take: more samples are thinned out.
SIZE = 2**23
#: Directions of a step where there are many: those drawn take turns. A fit ends as near as with all
#: of them in each step, in half the time.
PER_STEP = 10
#: Directions drawn at most where their number is not given: steps take turns with as many.
DRAWN = EPOCH * PER_STEP
#: Steps uphill of a direction that seeks the largest distance.
N_ASCENT = 10
#: Directions: 25 for each feature up to 300, then ten. So many lines see a covariance.
PER_FEATURE, MANY, PER_FURTHER = 25, 300, 10
#: Shares of the features' variances: where a feature is constant, and what is added for directions
#: in which samples hardly vary.
CONSTANT, RIDGE = 1e-12, 1e-3
#: Seed of the directions that fits are compared by, the same for all of them.
HELD_OUT_SEED = 2018
#: Steps of `refine_sliced` at most.
MAX_REFINEMENTS = 100


def _enough_directions(n_features: int) -> int:
    """Return a number of directions that is enough for so many features."""
    return max(min(PER_FEATURE * n_features, MANY), PER_FURTHER * n_features)


class Whitening:
    """Coordinates ``z`` in which samples vary alike in every direction: ``x = o + s L z``.

    Parameters
    ----------
    kind : CovarianceType
        That of the mixtures to fit; ``L L^T`` is of this type.
    second : Tensor
        Second moment of the samples about the origin, in its storage, in those units.
    origin : Tensor of shape (d,)
        The origin ``o``.
    scale : float
        The unit ``s``: the root of the mean variance of the features.

    Notes
    -----
    Transport is measured along lines of the samples' own space, in units of the scale; only steps
    are taken in ``z``. Where features differ in scale, or are nearly dependent, a step of one
    length is then neither too long for some directions nor too short for others.
    """

    def __init__(self, kind: CovarianceType, second: Tensor, origin: Tensor, scale: float):
        self.kind, self.origin, self.scale = kind, origin, scale
        self.d = len(origin)
        second = second.double()
        variances = kind.diagonals(second).expand(1, self.d)
        ridge = torch.where(variances > CONSTANT, RIDGE * variances, 1.0)
        second = kind.symmetric(second + kind.nearest(ridge, ridge.new_ones(1)))
        self.factor, self.inverse = kind.factor(second), kind.precision_factor(second)

    def rows(self, X: Tensor) -> Tensor:
        """Samples in ``z``, in float64."""
        centred = (X - self.origin).double() / self.scale
        return self.kind.apply(centred.unsqueeze(0), self.inverse).squeeze(0)

    def lines(self, theta: Tensor) -> Tensor:
        """Directions ``(L, d)`` of the samples' space as directions of ``z``, of other lengths."""
        return self.kind.apply(theta.unsqueeze(0).to(self.factor), self.factor).squeeze(0)

    def whiten(self, theta: GaussianMixtureParams) -> GaussianMixtureParams:
        """A mixture about the origin, in ``z``."""
        return self._carried(theta, self.inverse, 1 / self.scale)

    def unwhiten(self, theta: GaussianMixtureParams) -> GaussianMixtureParams:
        """The inverse of `whiten`."""
        return self._carried(theta, self.kind.transpose(self.factor), self.scale)

    def log_det(self) -> float:
        """The logarithm of the volume of a unit of ``z``."""
        return float(self.kind.log_det(self.factor, self.d)) + self.d * math.log(self.scale)

    def _carried(self, theta, factors, scale):
        means = self.kind.apply(theta.means.unsqueeze(0), factors).squeeze(0) * scale
        covariances = self.kind.congruence(theta.covariances, factors) * scale**2
        return theta._replace(means=means, covariances=self.kind.symmetric(covariances))


class SlicedObjective:
    """The sliced distance of a mixture to samples: one for descent, and a fixed one to judge it by.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    kind : CovarianceType
        That of the mixtures to fit.
    sample_weight : Tensor of shape (n,), default=None
        Weights of the samples; None is equal ones.
    p : float, default=2.0
        Exponent of the distance.
    n_projections : int, default=None
        Number of fixed directions, and of those drawn at once; None is 25 for each feature up to
        300, then ten for each, of which no more than 100 are drawn or judged by at once.
    projections : {'quasi', 'random', 'orthogonal', 'max'}, default='quasi'
        How directions are chosen; 'max' turns quasi ones to where distances are larger.
    batch_size : int, default=None
        Samples of a step; None is all of them.
    reg_covar : float, default=1e-6
        Added to the variances.
    generator : torch.Generator, default=None
        Source of random numbers, on the CPU.
    lines : callable, default=None
        Maps unit vectors to directions in the coordinates of ``X``, such as `Whitening.lines`; None
        is the identity.

    Notes
    -----
    Directions are drawn anew every ten steps: between, nothing is sorted, and a step takes every
    fifth of fifty. For batches they are drawn every step, which takes them all. No step sees the
    fixed directions, nor those by which fits are compared. Where samples on all directions drawn
    would be more than ``2**23`` numbers (64 MiB), as many as that allows are drawn with them.
    """

    def __init__(
        self,
        X: Tensor,
        kind: CovarianceType,
        sample_weight: Tensor | None = None,
        *,
        p: float = 2.0,
        n_projections: int | None = None,
        projections: str = "quasi",
        batch_size: int | None = None,
        reg_covar: float = 1e-6,
        generator: torch.Generator | None = None,
        lines: Callable[[Tensor], Tensor] | None = None,
    ):
        self.X, self.sample_weight = X, sample_weight
        self.kind, self.reg_covar = kind, reg_covar
        enough = _enough_directions(X.shape[1])
        if X.shape[1] == 1:  # all directions are one
            enough = n_projections = 1
        self.n_projections = n_projections or enough
        self.n_drawn = n_projections or min(enough, DRAWN)
        self.p, self.projections = p, projections
        self.batch_size, self.generator = batch_size, generator
        self.lines = lines or (lambda theta: theta.to(X))
        # lines to judge by, and others to compare ends by, the same for every run
        self.fixed = self._chosen(generator)
        self.held_out = self._chosen(torch.Generator().manual_seed(HELD_OUT_SEED))
        self.current, self.age = None, 0

    # --- coordinates ---------------------------------------------------------------------------

    def to_point(self, mixture: GaussianMixtureParams) -> tuple[Tensor, ...]:
        """A mixture in free coordinates."""
        tiny = torch.finfo(mixture.weights.dtype).tiny
        log_weights = mixture.weights.clamp(min=tiny).log()
        return log_weights, mixture.means, self.kind.root(mixture.covariances)

    def to_mixture(self, point: tuple[Tensor, ...]) -> GaussianMixtureParams:
        """The inverse of `to_point`, up to ``reg_covar``; differentiable."""
        log_weights, means, roots = point
        covariances = self.kind.from_root(roots, self.reg_covar)
        weights = torch.softmax(log_weights, dim=0)
        return GaussianMixtureParams(weights, means, covariances, self.kind)

    # --- distances -----------------------------------------------------------------------------

    def loss(self, mixture: GaussianMixtureParams) -> Tensor:
        """``mean W_p^p`` along the directions of this step."""
        if self.age % (1 if self.batch_size else EPOCH) == 0:
            self.current = None  # not two of them at once
            size = min(self.batch_size or SIZE, max(1, SIZE // self.n_drawn))
            self.current = self._slice(*self._batch(size, self.generator), mixture)
        theta, samples = self.current
        n_turns = 1 if self.batch_size else min(EPOCH, max(1, len(theta) // PER_STEP))
        turn = slice(self.age % n_turns, None, n_turns)
        self.age += 1
        return self._mean(mixture, theta[turn], samples.rows(turn))

    def distance(self, mixture: GaussianMixtureParams) -> float:
        """``(mean W_p^p)^(1 / p)`` along the fixed directions, or some of many."""
        theta, samples = self.fixed
        every = slice(None, None, math.ceil(self.n_projections / self.n_drawn))
        return self._distance(mixture, (theta[every], samples.rows(every)))

    def held_out_distance(self, mixture: GaussianMixtureParams) -> float:
        """The same along other directions, that nothing was fitted to."""
        return self._distance(mixture, self.held_out)

    def fixed_loss(self, mixture: GaussianMixtureParams) -> Tensor:
        """``mean W_p^p`` along the fixed directions."""
        return self._mean(mixture, *self.fixed)

    def _distance(self, mixture, chosen) -> float:
        return float(self._mean(mixture, *chosen).clamp(min=0)) ** (1 / self.p)

    def _chosen(self, generator) -> tuple[Tensor, SortedSamples]:
        """Directions that stay, and samples on them."""
        n = self.n_projections
        X, a = self._batch(max(1, SIZE // n), generator)
        theta = self.lines(directions("quasi", n, X.shape[1], generator=generator).to(X))
        return theta, slice_samples(X, theta, a)

    def _mean(self, mixture, theta, samples: SortedSamples) -> Tensor:
        return wasserstein_on_lines(
            slices(mixture, theta), samples, p=self.p, n_nodes=N_NODES
        ).mean()

    def _batch(self, size: int, generator) -> tuple[Tensor, Tensor | None]:
        """Some of the samples, or all with their weights.

        Samples are drawn by weight, one from each of as many equal shares of the total, and then
        count alike: a heavy one is never left out.
        """
        if size >= len(self.X):
            return self.X, self.sample_weight
        if self.sample_weight is None:
            chosen = torch.randperm(len(self.X), generator=generator)[:size]
            return self.X[chosen.to(self.X.device)], None
        levels = self.sample_weight.double().cumsum(0)
        u = torch.arange(size) + torch.rand(size, dtype=torch.float64, generator=generator)
        chosen = torch.searchsorted(levels, u.to(levels) * (levels[-1] / size), right=True)
        return self.X[chosen.clamp(max=len(self.X) - 1)], None

    def _slice(self, X, a, mixture) -> tuple[Tensor, SortedSamples]:
        """Draw directions and sort the samples on them."""
        seeks = self.projections == "max"
        name = "quasi" if seeks else self.projections
        theta = directions(name, self.n_drawn, X.shape[1], generator=self.generator).to(X)
        if seeks:
            mixture = mixture.detach()

            def cost(theta):
                return sliced_wasserstein(mixture, X, self.lines(theta), p=self.p, sample_weight=a)

            theta, _ = ascend(cost, theta, n_steps=N_ASCENT)
        theta = self.lines(theta)
        return theta, slice_samples(X, theta, a)


def fit_sliced(
    objective: SlicedObjective,
    theta0: GaussianMixtureParams,
    *,
    hold_weights: bool = True,
    tol: float = 1e-2,
    max_iter: int = 1000,
    learning_rate: float = 0.05,
    optimizer: Callable = rmsprop,
    n_halvings: int = N_HALVINGS,
    callback: Callable[[Solution], None] | None = None,
) -> Solution:
    """Fit a mixture by descent on the sliced distance.

    Parameters
    ----------
    objective : SlicedObjective
        The distance to the samples.
    theta0 : GaussianMixtureParams
        Where to start.
    hold_weights : bool, default=True
        Whether the weights stay as they are until there is no progress without them; False is for
        starts near the end.
    tol, max_iter : float, int
        When to stop, as in `skgmmot.numerics.minimise.minimise`.
    learning_rate : float, default=0.05
        Length of the first steps, in units of the samples.
    optimizer, n_halvings, callback : callable, int, callable
        As in `skgmmot.numerics.minimise.minimise`.

    Returns
    -------
    Solution
        ``value`` is the mixture of least distance along the fixed directions, ``objectives`` that
        distance after each epoch.
    """

    def decoded(solution: Solution) -> Solution:
        return solution._replace(value=objective.to_mixture(solution.value), previous=theta0)

    solution = minimise(
        lambda point: objective.loss(objective.to_mixture(point)),
        objective.to_point(theta0),
        tol=tol,
        max_iter=max_iter,
        learning_rate=learning_rate,
        optimizer=optimizer,
        objective=lambda point: objective.distance(objective.to_mixture(point)),
        late=(0,) if hold_weights else (),
        n_halvings=n_halvings,
        callback=None if callback is None else lambda s: callback(decoded(s)),
    )
    return decoded(solution)


def refine_sliced(
    objective: SlicedObjective, theta0: GaussianMixtureParams, *, tol: float = 1e-2
) -> Solution:
    """Descend to the nearest minimum of the sliced distance, by a quasi-Newton method.

    L-BFGS along the fixed directions, all of them in each step and with all parameters, for as long
    as the distance falls along those that no step sees.

    Parameters
    ----------
    objective : SlicedObjective
        The distance to the samples.
    theta0 : GaussianMixtureParams
        Where to start.
    tol : float, default=1e-2
        Ten steps make progress if they lower the distance by more than this share.

    Returns
    -------
    Solution
        ``value`` is the mixture, ``objective`` its `SlicedObjective.held_out_distance`, never above
        that of the start, which is returned if no step lowers it.
    """
    solution = minimise(
        lambda point: objective.fixed_loss(objective.to_mixture(point)),
        objective.to_point(theta0),
        tol=tol,
        max_iter=MAX_REFINEMENTS,
        learning_rate=1.0,
        optimizer=lbfgs,
        objective=lambda point: objective.held_out_distance(objective.to_mixture(point)),
        n_halvings=0,
    )
    found = solution._replace(value=objective.to_mixture(solution.value), previous=theta0)
    before = objective.held_out_distance(theta0)
    if found.objective < before:
        return found
    return found._replace(value=theta0, objective=before)
