"""Stepwise EM of an estimator: the first block is a fit, each further one a step."""

import math
import warnings
from typing import NamedTuple, Self

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from skgmmot._inputs import arrays, places
from skgmmot._types import Samples, fit_context
from skgmmot.estimators.classes import CLASSES
from skgmmot.estimators.mixtures._base import OF_NOISE, seen_weight, whole_fit
from skgmmot.estimators.mixtures._fit import FittedMixture, check_enough
from skgmmot.estimators.starts import earlier
from skgmmot.fitting.em.e_steps import E_STEPS
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.stepwise import implied_statistics, step_size, stepwise_step
from skgmmot.fitting.samples import in_memory
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics

#: What `partial_fit` leaves and a fit removes.
STATE = ("_running", "n_steps_")
MIXTURE = ("weights", "means", "covariances")
#: What a fit leaves that says nothing about blocks.
OF_A_FIT = ("lower_bounds_", "entropic_ot_gap_", "solution_", "error_")
LOST = (
    "n_components must be at most the number of clusters in the latest blocks, got components that "
    "have lost their samples: {} of {}. They have weight zero and are never predicted. Call fit "
    "with fewer components, or continue with larger blocks."
)


class Block(NamedTuple):
    """A validated block."""

    X: Tensor
    """Samples ``(b, d)``."""
    sample_weight: Tensor | None
    """Their weights ``(b,)``, of which the largest is one."""
    kind: arrays.ArrayKind
    """The kind of array that they came in."""
    weight: float
    """The sum of their weights as they were given; their number if there are none."""


class Running(NamedTuple):
    """What is kept from one block to the next, in float64: attributes are rounded to the data."""

    theta: GaussianMixtureParams
    """The mixture about the origin."""
    statistics: Statistics
    """The running sums, of weight one."""
    origin: Tensor
    """The mean of the first block ``(d,)``."""

    def packed(self) -> dict:
        """As arrays and a name, which any way of saving an estimator takes."""
        tensors = {"origin": self.origin, **self.statistics._asdict()}
        tensors |= dict(zip(MIXTURE, self.theta, strict=True))
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        return {"type": self.theta.covariance_type.name, **arrays}

    @classmethod
    def unpacked(cls, kept: dict, covariance_type, device) -> "Running":
        """From what was packed, its covariance type and a device."""
        tensors = {
            name: torch.from_numpy(np.array(array)).to(device)
            for name, array in kept.items()
            if name != "type"
        }
        weights, means, covariances = (tensors.pop(name) for name in MIXTURE)
        theta = GaussianMixtureParams(weights, means, covariances, covariance_type)
        origin = tensors.pop("origin")
        return cls(theta, Statistics(**tensors), origin)


def _can_go_by_blocks(estimator):
    """Whether it has `partial_fit`; says why where it has none."""
    e_step = E_STEPS.get(estimator.e_step)  # an unknown name is refused with the parameters
    if e_step is not None and e_step.balanced:
        raise AttributeError(
            f"partial_fit needs e_step='posterior', got {estimator.e_step!r}, whose plan is one of "
            "all samples at once. Set e_step='posterior', or call fit with all samples."
        )
    if estimator.labels != "ignore":
        raise AttributeError(
            f"partial_fit needs labels='ignore', got {estimator.labels!r}: blocks have no classes "
            "yet. Call fit with all samples, or set labels='ignore'."
        )
    if estimator.noise != "none":
        raise AttributeError(
            "partial_fit needs noise='none', got some, whose box is that of all samples. Call fit, "
            "which takes blocks, too."
        )
    return True


class FittedByBlocks(FittedMixture):
    """Base of the estimators that also learn a mixture block by block."""

    @available_if(_can_go_by_blocks)
    def partial_fit(
        self, X: Samples, y: Samples | None = None, sample_weight: Samples | None = None
    ) -> Self:
        r"""Update the mixture with a block of samples, by stepwise EM.

        The first call fits its block, as `fit` does. Each later call is one pass over its block:
        the sums of the E-step are averaged with those of earlier blocks, which need not be kept,
        and the M-step computes the next mixture from the average,

        .. math:: S_{t+1} = (1 - \eta_t) S_t + \eta_t \bar s(\text{block}_t; \theta_t), \qquad
            \theta_{t+1} = \operatorname{M-step}(S_{t+1}), \qquad
            \frac{\eta_t}{1 - \eta_t} = \frac{W_t}{\bar W_t}
            \frac{(t + 2)^{-\alpha}}{1 - (t + 2)^{-\alpha}},

        where :math:`\bar s` are the sums divided by the block's weight :math:`W_t`, the number of
        its samples or the sum of ``sample_weight``, :math:`\bar W_t` is the mean weight of the
        blocks before it, and :math:`\alpha` is ``partial_fit_decay``. For blocks of equal weight
        the step is :math:`(t + 2)^{-\alpha}`; a block of half the weight counts half as much.

        Parameters
        ----------
        X : array-like, Tensor, memory map or dask collection (n_samples, n_features), or callable
            The next block: at first at least two samples and ``n_components`` of them, then any
            number. Of a function that returns an iterator of blocks, a memory-mapped file of more
            than 1 GiB, or a dask array or data frame, each block is one step, all in one pass.
        y : None
            Ignored.
        sample_weight : array-like or Tensor of shape (n_samples,), default=None
            Non-negative weights. They also count against those of other blocks. For a function
            or a collection of dask, as in `fit`.

        Returns
        -------
        DifferentiableGaussianMixture
            The updated estimator.

        Raises
        ------
        ValueError
            If a parameter, ``X`` or ``sample_weight`` is invalid, has other features than earlier
            blocks or requires a gradient, or if a covariance collapses; the estimator is then left
            as it was.
        TypeError
            If ``X`` or a block is not an array of numbers.
        AttributeError
            If ``e_step='sinkhorn'`` or there is noise, which need all samples at once.

        Warns
        -----
        ConvergenceWarning
            If components have no samples left.
        UserWarning
            As `fit`, from the first block.

        See Also
        --------
        fit : Fits all samples at once, without earlier ones.

        Notes
        -----
        After `fit` it continues from the fitted mixture, whose samples count as one block: from its
        components alone, if that had noise or classes and the parameters now say none. Means
        and covariances that are set by hand between two calls count as well, and then stand for all
        earlier blocks. Sums are in float64 for samples of any dtype, and a model that is saved
        between two blocks continues to the same bits.

        One pass reaches the likelihood of `fit` where blocks hold thousands of samples in random
        order. The order matters: blocks that are sorted, by time or by class, are forgotten as
        others follow, the average spanning about the last :math:`2 t^\alpha` of them.

        References
        ----------
        .. [1] Cappe and Moulines 2009, the online EM algorithm.

        Examples
        --------
        >>> import numpy as np
        >>> from skgmmot import DifferentiableGaussianMixture
        >>> rng = np.random.default_rng(0)
        >>> mixture = DifferentiableGaussianMixture(n_components=2, random_state=0)
        >>> for _ in range(20):
        ...     block = rng.normal(size=(1000, 1)) + 6 * rng.integers(2, size=(1000, 1))
        ...     mixture = mixture.partial_fit(block)
        >>> np.sort(mixture.means_[:, 0]).round(1)
        array([0., 6.])
        >>> mixture.n_samples_seen_, mixture.n_steps_
        (20000, 20)
        """
        return self._partial_fit(X, sample_weight)

    @fit_context(prefer_skip_nested_validation=True)
    def _partial_fit(self, X, sample_weight):
        if not self._is_likeliest():
            raise ValueError(
                "prior, fixed_means and fixed_covariances must be unset, and fixed_weights be no "
                "mask, for partial_fit, which averages sums of the likelihood; got some of them. "
                "Call fit, which takes blocks, too."
            )
        if self._covariance().base.sketched:
            raise ValueError(
                "covariance_type must have sums that do not depend on the mixture for partial_fit, "
                f"which averages them over time, got {self.covariance_type!r}. Call fit, which "
                "takes blocks, too."
            )
        with whole_fit(self) as (fitted, _):
            n_taken = 0
            for block in fitted._blocks(X, sample_weight):
                check_constant(block)
                learn = further_block if hasattr(fitted, "means_") else first_block
                if block.weight > 0 or learn is first_block:  # which says what it lacks
                    learn(fitted, block)
                n_taken += 1
            arrays.refuse_zero_weights(n_taken)
        return self

    def _blocks(self, X, sample_weight):
        """Validate and yield blocks, one after the other: the samples given, or all their parts."""
        first = not hasattr(self, "means_")
        reader = places.reader_of(self, X, sample_weight, reset=first)
        if reader is None:
            X, a, kind = super()._validated(X, sample_weight, first=first)
            yield Block(X, a, kind, seen_weight(self, X, sample_weight))
            return
        for X, a in reader():
            weight = seen_weight(self, X, a)
            if weight > 0:
                a = None if a is None else (a / a.max()).to(X.dtype)
                yield Block(X, a, reader.kind, weight)


def check_constant(block: Block) -> None:
    """Refuse samples or weights that require a gradient, and weights of an infinite sum."""
    if not math.isfinite(block.weight):
        raise ValueError(
            f"sample_weight must have a finite sum, got {block.weight}. Divide the weights of all "
            "blocks by one number."
        )
    for name, tensor in (("X", block.X), ("sample_weight", block.sample_weight)):
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name} must not require a gradient in partial_fit, got a tensor that does: the "
                f"mixture also depends on blocks that are gone. Pass {name}.detach(), or call fit "
                "with all samples."
            )


def first_block(estimator, block: Block) -> None:
    """Fit the first block, and keep the sums that the fit's last M-step read the mixture off."""
    X, a = block.X, block.sample_weight
    check_enough(len(X) if a is None else int((a > 0).sum()), estimator.n_components)
    fit = estimator._fit_to(X, a, block.kind)
    solution = fit.solve(False)
    fit.show(solution)
    em, theta = fit.em, solution.value
    with em.at_work():
        statistics = per_weight(em.statistics(solution.previous), em.total)
    moved = solution.previous.means - theta.means
    statistics = statistics.recentred(moved, theta.covariance_type.base)
    estimator.n_samples_seen_ = block.weight
    _keep(estimator, Running(theta, statistics, em.origin.double()), n_steps=1)
    for text in fit.remarks(solution):
        warnings.warn(text, ConvergenceWarning, stacklevel=5)


def further_block(estimator, block: Block) -> None:
    """Take a step of stepwise EM."""
    e, X = estimator, block.X
    _check_components(e, X.shape[1])
    _leave_noise_and_classes(e)
    running = _unedited(e, X.device) or _from_attributes(e, X)
    n_steps, seen = getattr(e, "n_steps_", 1), getattr(e, "n_samples_seen_", block.weight)
    eta = step_size(n_steps, e.partial_fit_decay, block.weight / (seen / n_steps))
    new, old = _block_statistics(e, running, X, block.sample_weight), running.statistics
    if not math.isfinite(old.log_likelihood):  # the mixture was set by hand
        old = old._replace(log_likelihood=new.log_likelihood)
    theta, statistics = stepwise_step(
        running.theta, old, new, eta, e.reg_covar, fixed_weights=e.fixed_weights
    )
    dtype = torch.promote_types(arrays.as_tensor(e.means_).dtype, X.dtype)
    e._set_parameters(theta.translated(running.origin), dtype, block.kind)
    e.n_features_in_ = X.shape[1]
    e.n_samples_seen_ = seen + block.weight
    e.n_iter_ = getattr(e, "n_iter_", 0) + 1
    _keep(e, Running(theta, statistics, running.origin), n_steps + 1)
    lost = [t.weights.tolist().count(0.0) for t in (running.theta, theta)]
    if lost[1] > lost[0]:
        warnings.warn(LOST.format(lost[1], e.n_components), ConvergenceWarning, stacklevel=5)


def _leave_noise_and_classes(estimator) -> None:
    """Go on from the components alone: blocks have neither noise nor classes, as parameters say."""
    fitted = vars(estimator)
    others = [name for name in (*OF_NOISE, *CLASSES) if name in fitted]
    for name in others:
        del fitted[name]
    if others:  # the bound is that of another likelihood
        fitted.pop("lower_bound_", None)


def per_weight(statistics: Statistics, total: float) -> Statistics:
    """Sums divided by the weight of their samples."""
    return Statistics(*(t / total for t in statistics))


def _keep(estimator, running: Running, n_steps: int) -> None:
    """Set the attributes of a mixture between blocks."""
    for name in OF_A_FIT:
        vars(estimator).pop(name, None)
    estimator._running, estimator.n_steps_ = running.packed(), n_steps
    estimator.converged_ = False
    estimator.lower_bound_ = np.float64(running.statistics.log_likelihood)


def _block_statistics(estimator, running: Running, X, sample_weight) -> Statistics:
    """The E-step's sums over a block, of weight one."""
    # in the dtype of the samples, which may be another than that of the first block
    origin = running.origin.to(X.dtype)
    theta = running.theta.translated(running.origin - origin.double())
    incomplete = arrays.takes_missing(estimator) and bool(torch.isnan(X).any())
    samples = in_memory(X, sample_weight, incomplete=incomplete)
    em = EM(samples, origin, estimator.reg_covar)
    with em.at_work():
        return per_weight(em.statistics(theta), em.total)


def _check_components(estimator, n_features: int) -> None:
    """Refuse a block that is not of the mixture so far."""
    K, d = np.shape(estimator.means_)
    if estimator.n_components != K:
        raise ValueError(
            f"n_components must be {K}, as in the blocks so far, got {estimator.n_components}. Set "
            "it back, or call fit to start anew."
        )
    if n_features != d:
        raise ValueError(
            f"X must have the {d} feature(s) of means_, got {n_features}. Pass the features of the "
            "mixture."
        )


def _unedited(estimator, device) -> Running | None:
    """What the last block left, unless the mixture was set by hand since then."""
    kept = vars(estimator).get("_running")
    shown = estimator._params().detach()
    now = estimator._covariance().reduced(*shown.means.shape)
    if kept is None or kept["type"] != now.name:
        return None
    running = Running.unpacked(kept, now, device)
    theta = running.theta.translated(running.origin)
    theta = theta.to(dtype=shown.means.dtype, device=shown.means.device)
    return running if all(map(torch.equal, shown, theta)) else None


def _from_attributes(estimator, X: Tensor) -> Running:
    """The same from a mixture that was fitted at once, or set by hand."""
    theta = earlier.earlier_mixture(estimator, X.shape[1], X.device)
    covariance_type = theta.covariance_type.reduced(*theta.means.shape)
    theta = theta._replace(
        weights=theta.weights / theta.weights.sum(), covariance_type=covariance_type
    )
    origin = (theta.weights @ theta.means).to(X.dtype).double()
    statistics = implied_statistics(theta, estimator.reg_covar)
    log_likelihood = torch.full_like(
        statistics.log_likelihood, getattr(estimator, "lower_bound_", math.nan)
    )
    statistics = statistics._replace(log_likelihood=log_likelihood)
    return Running(theta.translated(-origin), statistics, origin)
