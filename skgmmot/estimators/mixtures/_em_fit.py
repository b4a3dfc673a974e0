"""Fits by EM of samples in memory, with classes, or elsewhere: starts, runs, attributes."""

import functools
import math
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.labels import classes_of
from skgmmot.estimators._progress import VerboseLog
from skgmmot.estimators.classes import CLASSES
from skgmmot.estimators.mixtures import _checkpoint
from skgmmot.estimators.mixtures._base import OF_NOISE
from skgmmot.estimators.mixtures._fit import Fit
from skgmmot.estimators.mixtures._missing import check_observed, to_start_from
from skgmmot.estimators.mixtures._partial_fit import STATE
from skgmmot.estimators.starts import drawing, earlier, held_parameters, initial_values, units
from skgmmot.fitting.em.e_steps import E_STEPS, Gradient
from skgmmot.fitting.em.entropic import balance_gap_bound
from skgmmot.fitting.em.fit import fit_from_starts, measured
from skgmmot.fitting.em.gradient.movement import STRATEGIES, Request
from skgmmot.fitting.em.prior import check_prior
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.groups import WHOLE, Grouped
from skgmmot.fitting.incomplete import ObservedSums, Together, n_informative, together
from skgmmot.fitting.labels import Labelling, check_weights
from skgmmot.fitting.robust.noise import check_noise, clear_of_noise
from skgmmot.fitting.samples import InMemory
from skgmmot.fitting.stream import bounds
from skgmmot.gaussian.incomplete.e_steps import NO_NOISE
from skgmmot.gaussian.incomplete.patterns import by_pattern
from skgmmot.numerics import blocks
from skgmmot.numerics.runs import Runs
from skgmmot.numerics.threads import InferenceMode

#: Fits of fewer numbers in samples, times components, spend their time around the arithmetic; each
#: pass over them is one block.
SMALL = 2**15
#: Passes that may be spent on how far a fit is from its fixed point.
MAX_CERTIFY = 1000
#: Attributes that only fits with known errors have.
OF_ERRORS = ("solution_", "error_")
#: Largest variance of a feature, and inverse of the smallest one, for a gradient.
MOST_VARIANCE = 1e120
#: Warning of components without samples.
EMPTY = (
    "n_components must be at most the number of clusters that the start finds, got components "
    "without samples: {} of {}. They have weight zero and are never predicted. Use fewer "
    "components, another init_params, or n_init > 1."
)


def _check_unit(variances: Tensor) -> None:
    """Refuse a gradient in units in which squares of variances leave the range of numbers."""
    low, high = (float(v) for v in torch.aminmax(variances))
    if low < 1 / MOST_VARIANCE or high > MOST_VARIANCE:
        raise ValueError(
            f"X must have variances from {1 / MOST_VARIANCE:.0e} to {MOST_VARIANCE:.0e} for a "
            f"gradient, got {low:.1e} to {high:.1e}. Rescale X, or pass X.detach()."
        )


def _check_counts(sample_weight: Tensor | None) -> None:
    """Refuse a gradient for weights which, beside a prior, are next to nothing or everything."""
    total = 1.0 if sample_weight is None else float(sample_weight.sum())
    if not 1 / MOST_VARIANCE < total < MOST_VARIANCE:
        raise ValueError(
            f"sample_weight must have a sum from {1 / MOST_VARIANCE:.0e} to {MOST_VARIANCE:.0e} "
            f"for a gradient with a prior, got {total:.1e}. Rescale the weights, which are counts."
        )


class EMFit(Fit):
    """EM on given samples, and the best run's end on their graph."""

    unit = 1.0  # the weight of a sample that was seen once
    labelling: Labelling | None = None  # no class is known
    incomplete = False  # whether entries are missing

    def __init__(self, estimator, X, sample_weight, kind):
        self._read(estimator, kind, X.shape[1], X.device)
        self.graph = X, sample_weight
        self.gradient = self._gradient(X, sample_weight)
        constants = (X.detach(), None if sample_weight is None else sample_weight.detach())
        if arrays.takes_missing(estimator) and torch.isnan(constants[0]).any():
            self.incomplete = True
            origin, variances = self._of_observed(*constants)
        else:
            origin = blocks.origin(*constants)
            variances = units.variances(*constants, origin)
        if self.gradient is not None:
            _check_unit(variances + estimator.reg_covar)
            _check_counts(constants[1])
        units.warn_of_units(estimator, variances, origin)
        self._begin(self._samples(*constants), origin)

    def _read(self, estimator, kind, n_features, device):
        """Take over what the estimator's parameters ask for, before samples are looked at."""
        self.estimator, self.kind, self.graph = estimator, kind, (None, None)
        self.e_step, self.noise = self._e_step(), check_noise(estimator.noise)
        self.covariance = estimator._covariance()
        if not self.covariance.fits(n_features):
            raise ValueError(
                f"rank must be below the number of features, {n_features}, got {estimator.rank}. "
                "Use a smaller rank, or covariance_type='full'."
            )
        held = self.covariance, self.noise, n_features, device
        self.constraint = held_parameters.fixed(estimator, *held)

    def _check_incomplete(self):
        """Refuse options for which samples have to be complete."""
        if self.e_step.balanced:
            raise ValueError(
                "e_step must be 'posterior' for samples with missing entries, got "
                f"{self.e_step.name!r}, whose plan takes complete samples. Change it, or impute "
                "missing entries first."
            )
        if self.noise is not None:
            raise ValueError(NO_NOISE)

    def _of_observed(self, X, sample_weight):
        """Means and variances of what is observed, where the fit can do without the rest."""
        self._check_incomplete()
        if self.gradient is not None and self.gradient.strategy.follows_data:
            raise ValueError(
                f"gradient must be a derivative where entries are missing, got "
                f"{self.gradient.strategy.name!r}, which moves complete samples. Use "
                "gradient='implicit'."
            )
        pairs, n = together(X, sample_weight), n_informative(X, sample_weight)
        check_observed(self.estimator, pairs, n)
        sums = ObservedSums.of(X, sample_weight)
        return sums.mean.to(X.dtype), sums.squares(X, sample_weight) / sums.total

    def _e_step(self):
        """What the iterations are, and their derivative."""
        return E_STEPS[self.estimator.e_step]

    def _iteration(self, samples, origin):
        """One iteration over the samples."""
        return EM(samples, origin, self.estimator.reg_covar, self._under_prior(samples))

    def _samples(self, X, sample_weight):
        """The samples in memory, as an object that answers with sums over them."""
        if self.incomplete:
            return Grouped(X, sample_weight, [(by_pattern(X), WHOLE)], incomplete=True)
        return InMemory(X, sample_weight)

    @property
    def n_steps(self):
        return self.estimator.max_iter

    def _begin(self, samples, origin):
        """Prepare the iteration over the samples."""
        e, self.origin = self.estimator, origin
        self.held_means = None
        if self.noise is not None:
            self._check_noise()
            self.density, self.box = self.noise.density(*self._bounds(samples), e.reg_covar)
        self.em = self._iteration(samples, origin)
        self.log = VerboseLog(e.verbose, e.verbose_interval)
        self.checkpoint = _checkpoint.of_fit(e, samples, e._is_warm(), longer=True)
        self.runs = Runs(self.log, store=self.checkpoint)

    def _gradient(self, X, sample_weight) -> Gradient | None:
        """How the fit is differentiated; None where no gradient is asked for."""
        if not (X.requires_grad or (sample_weight is not None and sample_weight.requires_grad)):
            return None
        e, strategy = self.estimator, STRATEGIES[self.estimator.gradient]
        K, d = e.n_components, X.shape[1]
        size = K + K * d + math.prod(self.covariance.shape(K, d))
        beside = (sample_weight,)
        of_mixture = self.constraint, e.prior, self.e_step, size, beside
        strategy.check(Request(e.acceleration, *of_mixture, self.noise is not None))
        if e.max_iter == 0 or not torch.is_grad_enabled():
            return None
        return Gradient(strategy, e.gradient_tol)

    def _bounds(self, samples):
        """The box around the samples."""
        return bounds(samples.X, samples.sample_weight)

    def _check_noise(self):
        """Refuse noise where all shares are prescribed."""
        if self.e_step.balanced:
            raise ValueError(
                f"noise must be 'none' with e_step={self.e_step.name!r}, got "
                f"{self.estimator.noise!r}: all shares of the samples are prescribed there. Set "
                "one of the two back."
            )

    def _under_prior(self, samples):
        """What stays, and the prior: on the graph of the samples where a gradient is asked for."""
        e, prior = self.estimator, check_prior(self.estimator.prior)
        if prior is None:
            return self.constraint
        K, graph = e.n_components, None if self.gradient is None else self.graph
        covariance = self.covariance.reduced(K, samples.n_features)
        options = {"on_graph": graph, "unit": self.unit}
        found = self.constraint.under(
            prior, covariance, K, samples, self.origin, e.reg_covar, **options
        )
        return found if self.gradient is not None else found.detach()

    def solve(self, warm):
        """EM from every start."""
        e = self.estimator
        options = {"tol": e.tol, "max_iter": e.max_iter, "acceleration": e.acceleration}
        with self._recording():
            solution, _ = fit_from_starts(
                self.em,
                self._starts(warm),
                self.graph,
                self.e_step,
                self.gradient,
                runs=self.runs,
                certify=MAX_CERTIFY if e.certify else 0,
                **options,
            )
        if self.noise is not None:
            self._check_left(solution.value.component_weights.detach())
        return solution

    def _check_left(self, weights):
        """Refuse a fit in which all samples are noise."""
        left = float(weights.sum()) * self.em.samples.n_samples
        if left < 1:
            raise ValueError(
                f"noise must leave samples to the components, got {left:.2g} of "
                f"{self.em.samples.n_samples}: its log-density {self.density:.4g} is larger than "
                "theirs. Pass UniformNoise with larger bounds, or give means_init and "
                "precisions_init."
            )

    def _recording(self):
        """A context in which small fits without a gradient are faster: autograd is off for good.

        Tensors made within must reach no user and, as in larger fits, no other thread; covariance
        types that are not elementary may need autograd in their M-step, accelerations for the
        derivative of an E-step over groups, and certificates for any.
        """
        e, samples = self.estimator, self.em.samples
        size = samples.n_samples * samples.n_features * e.n_components
        small = size < SMALL and samples.device.type == "cpu"
        constant = self.gradient is None and self.kind is arrays.NUMPY
        derived = e.certify or (e.acceleration is not None and bool(samples.groups))
        off = small and constant and self.covariance.elementary and not derived
        return InferenceMode() if off else nullcontext()

    def _starts(self, warm):
        """Yield the start of each run and the objective that its first change is against."""
        e, em = self.estimator, self.em
        uniform = not warm and (em.constraint.fixes_weights or self.e_step.balanced)
        given = initial_values.given(e, em, uniform=uniform)
        self.held_means = held_parameters.check_held(e, em, given, warm)
        if warm:
            objective = float(getattr(e, "lower_bound_", -math.inf))
            start = functools.partial(earlier.earlier_fit, e, em)
            yield from self.runs.starts(
                1, lambda _: (self._whole(start(), given, warm=True), objective)
            )
            return
        with drawing.random_numbers(e.random_state) as rng:
            rng = self.runs.draw_from("random_state", rng)
            rows = functools.cache(lambda: self._cleared(self._to_start_from(rng)))

            def draw(run):
                em, share = rows()
                start = drawing.one_start(
                    e, em, given, rng, run, self.kind, labelling=self.labelling
                )
                return self._whole(start, given, share), -math.inf

            yield from self.runs.starts(e.n_init, draw)

    def _to_start_from(self, rng) -> EM:
        """The samples in memory that starts are found from."""
        if self.incomplete:
            return to_start_from(self.em, self.em.X, self.em.sample_weight)
        return self.em

    def _checked(self, start, *, warm=False):
        """A start from which the samples have a density."""
        return start

    def _cleared(self, em: EM) -> tuple[EM, float]:
        """Samples to start from without those that look like noise, and the share of these."""
        e = self.estimator
        if self.noise is None:
            return em, 0.0
        clear, share = clear_of_noise(em, e.n_components)
        all_count = callable(e.init_params) or self.labelling is not None
        return em if all_count else clear, share

    def _whole(self, theta, given, share: float | None = None, *, warm=False):
        """A start with noise, if there is any, and with what is given where that stays."""
        if self.noise is None:
            return self._checked(held_parameters.held(theta, given, self.em), warm=warm)
        theta = self._checked(theta, warm=warm)
        if share is None:
            share = float(getattr(self.estimator, "noise_weight_", 0.0))
        if self.noise.weight is not None and (self.noise.fixed_weight or not warm):
            share = self.noise.weight
        share = max(share, 1 / self.em.samples.n_samples)
        theta = theta._replace(weights=theta.weights / theta.weights.sum())
        return held_parameters.held(
            theta.with_noise(share, self.density), (None, *given[1:]), self.em
        )

    def not_converged(self, solution):
        """The warning, and what it means for the gradient."""
        text = super().not_converged(solution)
        if self.gradient is None:
            return text
        return (
            f"{text} The gradient is not that of a fixed point: the last step moved by "
            f"{measured(solution).residual:.1e} in units of the spread."
        )

    def remarks(self, solution):
        """A warning if components have no samples."""
        K = self.estimator.n_components
        n_empty = solution.value.weights[:K].tolist().count(0.0)
        return [EMPTY.format(n_empty, self.estimator.n_components)] if n_empty else []

    def show(self, solution):
        """Set the estimator's attributes, and delete those that only other fits have."""
        e = self.estimator
        for name in (*OF_ERRORS, "entropic_ot_gap_", *CLASSES, *OF_NOISE, *STATE):
            vars(e).pop(name, None)
        value = solution.value.translated(self.origin)
        value = self.constraint.keep_moments(value.canonical(), value)
        if self.held_means is not None:  # no rounding from the way to the origin and back
            value = self.constraint.keep_moments(value, value._replace(means=self.held_means))
        e._set_parameters(value.without_noise(), self.em.samples.dtype, self.kind)
        if self.noise is not None:
            share = value.weights[-1]
            e.noise_weight_ = share if share.requires_grad else np.float64(share)
            e.noise_log_density_, e.noise_bounds_ = self.density, self.box
        e.converged_, e.n_iter_ = solution.converged, solution.n_iter
        e.lower_bound_ = np.float64(solution.objective)
        e.lower_bounds_ = list(solution.objectives)
        known = not math.isnan(solution.distance)
        if self.gradient is not None or known:
            previous = solution.previous.translated(self.origin)
            e.solution_ = solution._replace(value=value.detach(), previous=previous)
        if known:
            e.error_ = solution.distance
        if (gap := self._gap(solution)) is not None:
            e.entropic_ot_gap_ = gap

    def _gap(self, solution):
        """The gap on the samples of the fit, or a bound from its last E-step, which `em` kept."""
        em = self.em
        if self.e_step.balanced:
            return self.estimator._entropic_ot_gap(em.samples, self.origin)
        polished = self.gradient is not None and self.gradient.strategy.at_fixed_point
        theta = solution.value.detach() if polished else solution.previous
        with em.at_work():
            share = em.statistics(theta).mass / em.total
        return balance_gap_bound(theta.weights, share)


class LabelledFit(EMFit):
    """EM on samples in memory, of which some classes are known."""

    def __init__(self, estimator, X, sample_weight, kind, y):
        e = estimator
        if E_STEPS[e.e_step].balanced:
            raise ValueError(
                f"e_step must be 'posterior' for labels='y', got {e.e_step!r}, whose plan gives "
                "every component its weight of all samples. Set one of the two back."
            )
        if X.requires_grad and STRATEGIES[e.gradient].follows_data:
            raise ValueError(
                f"gradient must be a derivative for labels='y', got {e.gradient!r}, which moves "
                "samples from one component to another. Use gradient='implicit'."
            )
        self.classes = classes_of(y, len(X), e.n_components, e.components_of_class)
        codes = torch.from_numpy(self.classes.codes).to(X.device)
        labelling = Labelling(codes, self.classes.components, e.n_components)
        self.labelling = labelling.counted(sample_weight)
        super().__init__(estimator, X, sample_weight, kind)

    def _samples(self, X, sample_weight):
        return self.labelling.grouped(X, sample_weight, incomplete=self.incomplete)

    def _checked(self, start, *, warm=False):
        """Refuse weights of zero for classes that have samples; of an earlier fit, change them."""
        if warm and not self.em.constraint.fixes_weights:
            start = self.labelling.with_weight(start)
        check_weights(self.labelling, start.weights, self.classes.names)
        return start

    def show(self, solution):
        super().show(solution)
        e, (names, components, _, unknown) = self.estimator, self.classes
        e.classes_, e._unknown_class = names, unknown
        e.components_of_class_ = dict(zip(names.tolist(), map(list, components), strict=True))


class OutOfCoreFit(EMFit):
    """EM on samples that are not in memory, from a start that some of them give; no gradients."""

    gradient = None

    def __init__(self, estimator, samples, kind):
        facts, self.unit = samples.facts, 1 / samples.facts.largest_weight
        self._read(estimator, kind, samples.n_features, samples.device)
        if samples.incomplete:
            self._check_incomplete()
            check_observed(estimator, samples.sum(Together(len(facts.sum)))[0])
        units.warn_of_units(estimator, facts.variances, facts.origin)
        self._begin(samples, facts.origin)

    def _bounds(self, samples):
        """The box around the samples, from the pass that found their facts."""
        return samples.facts.low, samples.facts.high

    def _recording(self):
        """Nothing is switched off: the user's code runs within, and may make tensors of its own."""
        return nullcontext()

    def _to_start_from(self, rng):
        em, n_components = self.em, self.estimator.n_components
        found = self.runs.redrawn(
            "rows", lambda source: drawing.sample_of(em.samples, n_components, source), rng
        )
        if em.samples.incomplete:
            return to_start_from(em, found.X, found.sample_weight)
        return EM(found, em.origin, em.reg_covar, em.constraint)
