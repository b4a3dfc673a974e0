"""Fit a mixture to samples by minimising a sliced Wasserstein distance.

All parameters are optimised in unconstrained coordinates of whitened samples (`Whitening`):
log-weights, means, and roots ``B`` of the covariances ``B B^T + reg_covar I``. Transport between
Gaussians is quadratic in a root (and not in its logarithm), so that components that have become too
thin widen again. The weights are held fixed until there is no progress without them: at the start,
a component far from its samples would lose its weight instead of moving there.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.registry import CovarianceType
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import matched_samples
from skgmmot.numerics.fixed_point import Journal, Solution
from skgmmot.numerics.minimise import EPOCH, N_HALVINGS, lbfgs, minimise, rmsprop
from skgmmot.transport.sliced.directions import ascend, directions
from skgmmot.transport.sliced.distance import (
    SortedSamples,
    sliced_wasserstein,
    wasserstein_on_lines,
)
from skgmmot.transport.sliced.slices import slice_samples, slices

#: Nodes of a component alone during a fit, fewer than the default: steps need no exact gradients.
N_NODES = 24
#: Largest number of projected samples that are kept (64 MiB in float64); beyond, samples are drawn.
MAX_PROJECTED = 2**23
#: Directions of one step. Steps use the drawn directions in turn, which takes half the time of all
#: directions in every step and ends as near to the minimum.
STEP_DIRECTIONS = 10
#: Largest number of directions that are drawn at once, unless their number is given: as many as the
#: steps of an epoch use.
MAX_DRAWN = EPOCH * STEP_DIRECTIONS
#: Ascent steps of directions for the max-sliced distance.
N_ASCENT = 10
#: Default number of directions: 25 for each feature up to 300 in all, or ten for each feature if
#: that is more. So many determine a covariance.
PER_FEATURE, ENOUGH_DIRECTIONS, MIN_PER_FEATURE = 25, 300, 10
#: Relative variance below which a feature is constant.
CONSTANT_VARIANCE = 1e-12
#: Relative variance that is added in whitening, for directions in which samples hardly vary.
WHITENING_RIDGE = 1e-3
#: Seed of the held-out directions, the same for all fits, so that these can be compared.
HELD_OUT_SEED = 2018
#: Largest number of steps of `refine_sliced` over all directions, and the steps after which it
#: measures the distance over the held-out ones: few, as it fits noise of the fixed ones soon.
MAX_REFINEMENTS, REFINE_EPOCH = 100, 5
#: Share of the fixed directions over which `refine_sliced` takes its first steps.
ROUGH_SHARE = 1 / 3
#: A mixture whose distance is up to so many times that of samples with its moments explains the
#: samples: what a fit to them gains beyond is lost on others.
NEAR = 1.3
#: How much farther than hopeless a refinement is given up at its first look: the steps until the
#: next one hardly ever gain so much.
SECOND_FIVE = 1.2
#: Share by which a refinement lowers the distance at least: less may be rounding, and that of
#: other units, or of another release, would decide otherwise.
LEAST_GAIN = 1e-7


def _default_n_directions(n_features: int) -> int:
    """The default number of directions for a number of features."""
    return max(min(PER_FEATURE * n_features, ENOUGH_DIRECTIONS), MIN_PER_FEATURE * n_features)


class Whitening:
    """Whitened coordinates ``z`` of samples ``x = o + s L z``.

    Parameters
    ----------
    covariance_type : CovarianceType
        Covariance type of the mixtures to fit, and of ``L L^T``.
    second : Tensor
        Second moment of the samples about the origin, in units of the scale, in the type's storage.
    origin : Tensor of shape (d,)
        The origin ``o``.
    scale : float
        The unit ``s``: the root of the mean variance of the features.

    Notes
    -----
    Distances are measured in the samples' own space, in units of the scale; only the steps of the
    optimiser are taken in ``z``, where one step length suits all directions, also if features
    differ in scale or are nearly dependent.
    """

    def __init__(
        self, covariance_type: CovarianceType, second: Tensor, origin: Tensor, scale: float
    ):
        self.covariance_type, self.origin, self.scale = covariance_type, origin, scale
        self.d = len(origin)
        second = second.double()
        variances = covariance_type.diagonals(second).expand(1, self.d)
        ridge = torch.where(variances > CONSTANT_VARIANCE, WHITENING_RIDGE * variances, 1.0)
        second = covariance_type.symmetric(
            second + covariance_type.nearest(ridge, ridge.new_ones(1))
        )
        self.factor = covariance_type.factor(second)
        self.inverse = covariance_type.precision_factor(second)

    def rows(self, X: Tensor) -> Tensor:
        """Whitened samples, in float64."""
        centred = (X - self.origin).double() / self.scale
        return self.covariance_type.apply(centred.unsqueeze(0), self.inverse).squeeze(0)

    def lines(self, theta: Tensor) -> Tensor:
        """Map directions ``(L, d)`` to directions of ``z`` with the same scaled projections."""
        rows = theta.unsqueeze(0).to(self.factor)
        return self.covariance_type.apply(rows, self.factor).squeeze(0)

    def whiten(self, theta: GaussianMixtureParams) -> GaussianMixtureParams:
        """Transform a mixture relative to the origin to ``z``."""
        return self._transformed(theta, self.inverse, 1 / self.scale)

    def unwhiten(self, theta: GaussianMixtureParams) -> GaussianMixtureParams:
        """The inverse of `whiten`."""
        return self._transformed(theta, self.covariance_type.transpose(self.factor), self.scale)

    def log_det(self) -> float:
        """The logarithm of the determinant of ``dx / dz``."""
        log_det = float(self.covariance_type.log_det(self.factor, self.d))
        return log_det + self.d * math.log(self.scale)

    def _transformed(self, theta, factors, scale):
        means = self.covariance_type.apply(theta.means.unsqueeze(0), factors).squeeze(0) * scale
        covariances = self.covariance_type.congruence(theta.covariances, factors) * scale**2
        return theta._replace(means=means, covariances=self.covariance_type.symmetric(covariances))


class SlicedObjective:
    """Sliced distances of a mixture to samples: stochastic for steps, and fixed for comparisons.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Samples.
    covariance_type : CovarianceType
        Covariance type of the mixtures to fit.
    sample_weight : Tensor of shape (n,), default=None
        Weights of the samples; None is equal ones.
    p : float, default=2.0
        Exponent of the distance.
    n_projections : int, default=None
        Number of fixed directions, and of those drawn at once; None is 25 for each feature up to
        300 in all, or ten for each if that is more, of which at most 100 are used at once.
    projections : {'quasi', 'random', 'orthogonal', 'max'}, default='quasi'
        How directions are drawn; 'max' optimises quasi ones to larger distances.
    batch_size : int, default=None
        Samples of a step; None is all of them.
    reg_covar : float, default=1e-6
        Added to the variances.
    generator : torch.Generator, default=None
        Source of random numbers, on the CPU.
    lines : callable, default=None
        Maps unit vectors to directions in the coordinates of ``X``, as where samples are whitened;
        None is the identity.

    Notes
    -----
    Directions are drawn every ten steps; in between nothing is sorted, and each step uses a part of
    them in turn. With batches they are drawn in every step, which uses all of them. No step uses
    the fixed or the held-out directions. If the projected samples would be more than ``2**23``
    numbers (64 MiB), a subsample of that size is drawn with the directions. Distances are absolute,
    and so are the steps of `fit_sliced`: standardise the samples.

    References
    ----------
    .. [1] Kolouri, Rohde and Hoffmann 2018, sliced Wasserstein distance for learning Gaussian
       mixture models.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.functional import GaussianMixtureParams, SlicedObjective, fit_sliced
    >>> X = torch.tensor([[-1.2], [-1.0], [0.8], [1.0], [1.2]], dtype=torch.float64)
    >>> start = GaussianMixtureParams(
    ...     torch.tensor([0.5, 0.5]).double(), X[[0, 4]], torch.ones(2, 1).double()
    ... )
    >>> objective = SlicedObjective(X, start.covariance_type)
    >>> end = fit_sliced(objective, start)
    >>> end.objective < objective.distance(start)
    True
    """

    def __init__(
        self,
        X: Tensor,
        covariance_type: CovarianceType,
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
        self.covariance_type, self.reg_covar = covariance_type, reg_covar
        enough = _default_n_directions(X.shape[1])
        if X.shape[1] == 1:  # all directions are one
            enough = n_projections = 1
        self.n_projections = n_projections or enough
        self.n_drawn = n_projections or min(enough, MAX_DRAWN)
        self.p, self.projections = p, projections
        self.batch_size, self.generator = batch_size, generator
        self.lines = lines or (lambda theta: theta.to(X))
        # fixed directions, and held-out ones that are the same for every run
        self.fixed = self._fixed_directions(generator)
        self.held_out = self._fixed_directions(torch.Generator().manual_seed(HELD_OUT_SEED))
        self.current, self.age = None, 0
        self._drawn = None  # the generator's state, and the mixture, when `current` was drawn

    # --- coordinates ---------------------------------------------------------------------------

    def to_point(self, mixture: GaussianMixtureParams) -> tuple[Tensor, ...]:
        """The unconstrained coordinates of a mixture."""
        tiny = torch.finfo(mixture.weights.dtype).tiny
        log_weights = mixture.weights.clamp(min=tiny).log()
        return log_weights, mixture.means, self.covariance_type.root(mixture.covariances)

    def to_mixture(self, point: tuple[Tensor, ...]) -> GaussianMixtureParams:
        """The inverse of `to_point`, up to ``reg_covar``; differentiable."""
        log_weights, means, roots = point
        covariances = self.covariance_type.from_root(roots, self.reg_covar)
        weights = torch.softmax(log_weights, dim=0)
        return GaussianMixtureParams(weights, means, covariances, self.covariance_type)

    # --- distances -----------------------------------------------------------------------------

    def loss(self, mixture: GaussianMixtureParams) -> Tensor:
        """``mean W_p^p`` over the directions of this step."""
        if self.age % self._period == 0:
            self._draw(mixture)
        theta, samples = self.current
        n_turns = 1 if self.batch_size else min(EPOCH, max(1, len(theta) // STEP_DIRECTIONS))
        turn = slice(self.age % n_turns, None, n_turns)
        self.age += 1
        return self._mean(mixture, theta[turn], samples.rows(turn))

    @property
    def _period(self) -> int:
        """Steps between two draws."""
        return 1 if self.batch_size else EPOCH

    def _draw(self, mixture: GaussianMixtureParams) -> None:
        """Draw the directions, and perhaps samples, of the next steps."""
        self.current = None  # free the memory before the next ones are computed
        if self.generator is not None:
            # (a copy: the optimiser moves means in place)
            self._drawn = self.generator.get_state(), mixture.detach().map(Tensor.clone)
        size = min(self.batch_size or MAX_PROJECTED, max(1, MAX_PROJECTED // self.n_drawn))
        self.current = self._slice(*self._batch(size, self.generator), mixture)

    def get_state(self) -> dict:
        """What the next steps draw and take, for `set_state`; for a generator of its own only."""
        midway = self.age % self._period and self._drawn
        return {
            "age": self.age,
            "generator": self.generator.get_state().numpy(),
            "drawn": (self._drawn[0].numpy(), self._drawn[1]) if midway else None,
        }

    def set_state(self, state: dict) -> None:
        """Go on from what `get_state` returned, over the same samples."""
        self.age = state["age"]
        if state["drawn"] is not None:
            before, mixture = state["drawn"]
            self.generator.set_state(torch.from_numpy(before))
            self._draw(mixture)
        self.generator.set_state(torch.from_numpy(state["generator"]))

    def distance(self, mixture: GaussianMixtureParams) -> float:
        """``(mean W_p^p)^(1 / p)`` over the fixed directions, or a part of them if many."""
        theta, samples = self.fixed
        every = slice(None, None, math.ceil(self.n_projections / self.n_drawn))
        return self._distance(mixture, (theta[every], samples.rows(every)))

    def held_out_distance(self, mixture: GaussianMixtureParams) -> float:
        """``(mean W_p^p)^(1 / p)`` over the held-out directions."""
        return self._distance(mixture, self.held_out)

    def explains(self, mixture: GaussianMixtureParams) -> bool:
        """Whether a mixture is as near as it can be known: what is left is noise of the samples.

        That noise is the distance to as many samples of the mixture that have its very moments.
        """
        theta, samples = self.held_out
        some = slice(0, math.ceil(ROUGH_SHARE * len(theta)))
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        size = max(self._n_held_out, len(mixture.weights))
        X, a = matched_samples(mixture.map(Tensor.cpu), size, generator=generator)
        drawn = slice_samples(X.to(self.X), theta[some], a.to(self.X.device))
        noise = self._distance(mixture, (theta[some], drawn))
        return self._distance(mixture, (theta[some], samples.rows(some))) <= NEAR * noise

    @property
    def _most_held(self) -> int:
        """How many samples may be projected on all fixed directions."""
        return max(1, MAX_PROJECTED // self.n_projections)

    @property
    def _n_held_out(self) -> int:
        """How many samples of equal weight those of the held-out directions are worth.

        Copies of a sample are as many; weights of a small sum, such as shares, are relative ones.
        """
        most = self._most_held
        if self.sample_weight is None:
            return min(most, len(self.X))
        a = self.sample_weight.double()
        unit = float(a.max())
        relative = float(a.div(unit).sum() ** 2 / a.div(unit).square().sum())
        return int(min(most, max(relative, float(a.sum()))))

    def fixed_loss(self, mixture: GaussianMixtureParams, share: float = 1.0) -> Tensor:
        """``mean W_p^p`` over the fixed directions, or over the first of them."""
        theta, samples = self.fixed
        first = slice(0, math.ceil(share * len(theta)))
        return self._mean(mixture, theta[first], samples.rows(first))

    def _distance(self, mixture, chosen) -> float:
        return float(self._mean(mixture, *chosen).clamp(min=0)) ** (1 / self.p)

    def _fixed_directions(self, generator) -> tuple[Tensor, SortedSamples]:
        """Draw fixed directions, and project samples on them."""
        X, a = self._batch(self._most_held, generator)
        quasi = directions("quasi", self.n_projections, X.shape[1], generator=generator)
        theta = self.lines(quasi.to(X))
        return theta, slice_samples(X, theta, a)

    def _mean(self, mixture, theta, samples: SortedSamples) -> Tensor:
        return wasserstein_on_lines(
            slices(mixture, theta), samples, p=self.p, n_nodes=N_NODES
        ).mean()

    def _batch(self, size: int, generator) -> tuple[Tensor, Tensor | None]:
        """A subsample without weights, or all samples with their weights.

        Weighted samples are drawn by systematic sampling, one from each of equal shares of the
        total weight, so that heavy samples are always included.
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
    callback: Callable[[Solution], bool | None] | None = None,
    journal: Journal | None = None,
) -> Solution:
    """Fit a mixture by minimising the sliced distance with a first-order optimiser.

    Parameters
    ----------
    objective : SlicedObjective
        The distance to the samples.
    theta0 : GaussianMixtureParams
        Where to start.
    hold_weights : bool, default=True
        Whether the weights are held fixed until there is no progress without them; False is for
        starts near the minimum.
    tol : float, default=0.01
        An epoch of ten steps makes progress if it lowers the least distance so far by more than
        this share of it. After two epochs without, the learning rate is halved; one ends the last
        stage.
    max_iter : int, default=1000
        Largest number of steps.
    learning_rate : float, default=0.05
        Length of the first steps, in units of the samples.
    optimizer : callable
        ``(parameters, learning_rate) -> torch.optim.Optimizer``; RMSprop if none is given.
    n_halvings : int, default=5
        Halvings of the learning rate, after which the descent has converged.
    callback : callable, default=None
        Called with the `Solution` so far after each epoch.
    journal : Journal, default=None
        Where the state after each epoch is kept, and one to go on from is found; that of the
        objective is to be kept beside it. None keeps nothing.

    Returns
    -------
    Solution
        ``value`` is the mixture with the smallest distance over the fixed directions, and
        ``objectives`` that distance after each epoch.
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
        journal=journal,
    )
    return decoded(solution)


def refine_sliced(
    objective: SlicedObjective,
    theta0: GaussianMixtureParams,
    *,
    tol: float = 1e-2,
    hopeless: float = math.inf,
) -> Solution:
    """Refine a mixture to the nearest minimum of the sliced distance by L-BFGS.

    All parameters are optimised over the fixed directions, as long as the distance over the
    held-out directions falls: ten steps over a third of them, then over all.

    Parameters
    ----------
    objective : SlicedObjective
        The distance to the samples.
    theta0 : GaussianMixtureParams
        Where to start.
    tol : float, default=1e-2
        Ten steps make progress if they lower the distance by more than this share.
    hopeless : float, default=inf
        A held-out distance above which it is not worth to go on after the first ten steps, nor
        after five of them if it is larger by a fifth.

    Returns
    -------
    Solution
        ``value`` is the mixture, ``objective`` its `SlicedObjective.held_out_distance`, never above
        that of the start, which is returned if no step lowers it by more than rounding.
    """

    def give_up(solution: Solution) -> bool:
        return solution.objective > SECOND_FIVE * hopeless

    end = _refined(objective, theta0, ROUGH_SHARE, tol=tol, max_iter=EPOCH, callback=give_up)
    before = end.objectives[0]
    if end.objective <= hopeless:
        options = {"max_iter": MAX_REFINEMENTS, "start_value": end.objective}
        fine = _refined(objective, end.value, 1.0, tol=tol, **options)
        end = fine._replace(n_iter=end.n_iter + fine.n_iter)
    if end.objective < (1 - LEAST_GAIN) * before:
        return end._replace(previous=theta0)
    return end._replace(value=theta0, previous=theta0, objective=before)


def _refined(objective, theta0, share, *, tol, **options) -> Solution:
    """The steps of `refine_sliced` over a share of the directions."""
    solution = minimise(
        lambda point: objective.fixed_loss(objective.to_mixture(point), share),
        objective.to_point(theta0),
        tol=tol * REFINE_EPOCH / EPOCH,
        learning_rate=1.0,
        optimizer=lbfgs,
        objective=lambda point: objective.held_out_distance(objective.to_mixture(point)),
        n_halvings=0,
        epoch=REFINE_EPOCH,
        patience=1,
        deterministic=True,
        **options,
    )
    return solution._replace(value=objective.to_mixture(solution.value))
