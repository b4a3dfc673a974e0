"""Fit a mixture to samples by descent on a sliced Wasserstein distance.

All parameters move, in coordinates where every value is a mixture: log-weights, means, and roots
``B`` of the covariances ``B B^T + reg_covar I``. Transport between Gaussians is quadratic in a root
(and not in its logarithm), so that components that have become too thin widen again. The weights
stay as they are until there is no progress without them: while components still spread over the
samples, one that is far from its share would lose its weight instead of moving.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from skgmmot.functional.covariance import CovarianceType
from skgmmot.functional.directions import ascend, directions
from skgmmot.functional.fixed_point import Solution
from skgmmot.functional.minimise import EPOCH, minimise, rmsprop
from skgmmot.functional.mixture import GaussianMixtureParams
from skgmmot.functional.sliced import (
    SortedSamples,
    slice_samples,
    sliced_wasserstein,
    slices,
    wasserstein_on_lines,
)

#: Nodes a component during a fit, whose steps need no exact gradient.
N_NODES = 24
#: Numbers that the samples on the fixed directions may take; more samples are thinned out.
FIXED_SIZE = 2**23
#: Directions of a step where there are many: those drawn take turns. A fit ends as near as with all
#: of them in each step, in half the time.
PER_STEP = 10
#: Steps uphill of a direction that seeks the largest distance.
N_ASCENT = 10


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
    n_projections : int, default=50
        Directions drawn at once, and as many fixed ones.
    projections : {'quasi', 'random', 'orthogonal', 'max'}, default='quasi'
        How directions are chosen; 'max' turns quasi ones to where distances are larger.
    batch_size : int, default=None
        Samples of a step; None is all of them.
    reg_covar : float, default=1e-6
        Added to the variances.
    generator : torch.Generator, default=None
        Source of random numbers, on the CPU.

    Notes
    -----
    Directions are drawn anew every ten steps: between, nothing is sorted, and a step takes every
    fifth of fifty. For batches they are drawn every step, which takes them all.
    """

    def __init__(
        self,
        X: Tensor,
        kind: CovarianceType,
        sample_weight: Tensor | None = None,
        *,
        p: float = 2.0,
        n_projections: int = 50,
        projections: str = "quasi",
        batch_size: int | None = None,
        reg_covar: float = 1e-6,
        generator: torch.Generator | None = None,
    ):
        self.X, self.sample_weight = X, sample_weight
        self.kind, self.reg_covar = kind, reg_covar
        self.p, self.n_projections, self.projections = p, n_projections, projections
        self.batch_size, self.generator = batch_size, generator
        self.fixed = self._slice("quasi", *self._batch(FIXED_SIZE // n_projections))
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
        return GaussianMixtureParams(torch.softmax(log_weights, dim=0), means, covariances)

    # --- distances -----------------------------------------------------------------------------

    def loss(self, mixture: GaussianMixtureParams) -> Tensor:
        """``mean W_p^p`` along the directions of this step."""
        if self.age % (1 if self.batch_size else EPOCH) == 0:
            self.current = self._slice(self.projections, *self._batch(self.batch_size), mixture)
        theta, samples = self.current
        n_turns = 1 if self.batch_size else min(EPOCH, max(1, len(theta) // PER_STEP))
        turn = slice(self.age % n_turns, None, n_turns)
        self.age += 1
        return self._mean(mixture, theta[turn], samples.rows(turn))

    def distance(self, mixture: GaussianMixtureParams) -> float:
        """``(mean W_p^p)^(1 / p)`` along the fixed directions."""
        return float(self._mean(mixture, *self.fixed).clamp(min=0)) ** (1 / self.p)

    def _mean(self, mixture, theta, samples: SortedSamples) -> Tensor:
        return wasserstein_on_lines(
            slices(mixture, theta), samples, p=self.p, n_nodes=N_NODES
        ).mean()

    def _batch(self, size: int | None) -> tuple[Tensor, Tensor | None]:
        """Some of the samples with their weights, or all."""
        if size is None or size >= len(self.X):
            return self.X, self.sample_weight
        chosen = torch.randperm(len(self.X), generator=self.generator)[:size].to(self.X.device)
        a = self.sample_weight
        return self.X[chosen], None if a is None else a[chosen]

    def _slice(self, name, X, a, mixture=None) -> tuple[Tensor, SortedSamples]:
        """Choose directions and sort the samples on them."""
        seeks = name == "max"
        theta = directions(
            "quasi" if seeks else name, self.n_projections, X.shape[1], generator=self.generator
        ).to(X.device)
        if seeks:
            theta, _ = ascend(
                lambda t: sliced_wasserstein(mixture.detach(), X, t, p=self.p, sample_weight=a),
                theta,
                n_steps=N_ASCENT,
            )
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
        When to stop, as in `skgmmot.functional.minimise.minimise`.
    learning_rate : float, default=0.05
        Length of the first steps, in units of the samples.
    optimizer, callback : callable
        As in `skgmmot.functional.minimise.minimise`.

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
        callback=None if callback is None else lambda s: callback(decoded(s)),
    )
    return decoded(solution)
