"""Sinkhorn-EM: EM whose E-step gives each component its prescribed share of the samples.

It minimises the balanced cost of `skgmmot.fitting.em.entropic` as EM minimises the negative
log-likelihood: alternately over the plan, and over means and covariances. No component can take
the share of another or lose its own, so that far fewer starts end in a poor maximum.

The balanced plan consists of the responsibilities of a *tilted* mixture, with weights ``t`` instead
of the prescribed ``w``. They change little, so each iteration starts from the last one's.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from skgmmot.fitting.em.entropic import (
    Dual,
    balance,
    curvature,
    dense_dual,
    imbalance,
    linear_start,
    log_densities_of_components,
    masses_of_samples,
    sinkhorn_update,
)
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.em.step import m_step
from skgmmot.fitting.samples import InMemory
from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.covariance.typed import TypedTensors, as_pytree
from skgmmot.gaussian.evaluators import EStep
from skgmmot.gaussian.factor_coordinates import fisher_coordinates
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.numerics.exponentials import log_sum_exp
from skgmmot.numerics.fixed_point import iterate
from skgmmot.numerics.newton.linearisation import Linearisation

#: Sinkhorn updates between two M-steps, and their over-relaxation (1 is plain, 2 diverges).
UPDATES, RELAXATION = 2, 1.5
#: The imbalance allowed at first, any, and how fast it falls from one iteration to the next.
ANY, TIGHTENING = 2.0, 0.9
#: Below this allowed imbalance an iteration on the graph balances by Newton's method at once: the
#: derivatives of Sinkhorn updates that hardly move go on changing long after their values.
EXACT = 1e-2
#: Samples or log-densities that balancing holds in memory at most (32 MiB).
HELD = 2**22
#: What counts as balanced, by the dtype of the products.
BALANCED = {torch.float64: 1e-11, torch.float32: 1e-4}


@as_pytree
@dataclass(frozen=True, slots=True, eq=False)
class TiltedMixture(TypedTensors):
    """A mixture of prescribed weights, and the tilted weights that balance it.

    It stands wherever an E-step takes a mixture: its responsibilities are those of the weights
    ``t``, kept as logarithms, for they may leave the range of numbers on the way.

    Parameters
    ----------
    log_weights : Tensor of shape (K,)
        ``log t``.
    means : Tensor of shape (K, d)
        ``m``.
    covariances : Tensor
        ``Sigma``, in the storage of their covariance type.
    prescribed : Tensor of shape (K,)
        ``w``: what each component shall receive.
    allowed : Tensor of shape ()
        Imbalance ``sum_k |share_k - w_k|`` that the next iteration allows.
    covariance_type : CovarianceType
        The type of the covariances.
    """

    log_weights: Tensor
    means: Tensor
    covariances: Tensor
    prescribed: Tensor
    allowed: Tensor
    covariance_type: CovarianceType

    noise = None

    def prepare(self) -> PreparedMixture:
        """Factor the covariances, once, for evaluating densities."""
        return self.mixture().prepare()._replace(log_weights=self.log_weights)

    @property
    def weights(self) -> Tensor:
        """``w (K,)``: the weights of the mixture that it is a view of."""
        return self.prescribed

    @property
    def component_weights(self) -> Tensor:
        """The weights ``(K,)``: there is no noise."""
        return self.prescribed

    def mixture(self) -> GaussianMixtureParams:
        """The mixture of the prescribed weights."""
        return GaussianMixtureParams(
            self.prescribed, self.means, self.covariances, self.covariance_type
        )

    def tilted(self) -> GaussianMixtureParams:
        """The mixture of the tilted weights."""
        smallest = torch.finfo(self.log_weights.dtype).tiny
        return self.mixture()._replace(weights=self.log_weights.exp().clamp(min=smallest))

    def heated(self, temperature: float) -> PreparedMixture:
        """The mixture of ``t_k g_k^(1 / temperature)``, up to a common factor.

        Its covariances are not factored anew: where they are nearly singular, the rounding of that
        would change log-densities by more than the temperature does.
        """
        prepared = self.prepare()
        log_det = prepared.covariance_type.log_det(prepared.factors, self.means.shape[1])
        return prepared._replace(
            log_weights=self.log_weights - log_det * (1 - 1 / temperature),
            factors=prepared.covariance_type.divided(prepared.factors, temperature**0.5),
        )

    def translated(self, by: Tensor) -> GaussianMixtureParams:
        """The mixture of the prescribed weights with its means translated by ``by (d,)``."""
        return self.mixture().translated(by)


def untilted(theta: GaussianMixtureParams, allowed: float = ANY) -> TiltedMixture:
    """Return a mixture as a tilted mixture without tilt, from which Sinkhorn-EM starts.

    Parameters
    ----------
    theta : GaussianMixtureParams
        K components in d dimensions.
    allowed : float, default=2.0
        Imbalance that the first iteration allows: 2 is any, 0 none.

    Returns
    -------
    TiltedMixture
        Where Sinkhorn-EM starts.

    Raises
    ------
    ValueError
        If a weight is not positive.
    """
    weights = theta.weights
    smallest = float(weights.detach().min())
    if not smallest > 0:
        raise ValueError(
            "weights must be positive where each component receives its weight, got "
            f"{smallest:.3g} in component {int(weights.argmin())}. Leave it out."
        )
    return TiltedMixture(
        weights.log(),
        theta.means,
        theta.covariances,
        weights,
        weights.new_tensor(allowed),
        theta.covariance_type,
    )


class SinkhornEM:
    """One iteration of Sinkhorn-EM over all samples: ``theta -> (theta_next, objective)``.

    First the tilted weights move towards balance; then the responsibilities, which sum to one for
    each sample whatever the tilt; then the M-step for means and covariances. Balance is approached
    along the way: two Sinkhorn updates an iteration at first, which let components travel, and
    Newton's method as well once the imbalance that is still allowed, less at each iteration, asks
    for it. From then on the iteration descends the balanced cost.

    Parameters
    ----------
    em : EM
        EM over the samples.

    Notes
    -----
    An iteration takes three passes over the samples, and where log-densities are too many to be
    held in memory two or more for each Newton step. The objective is minus the balanced cost, a
    lower bound of the mean log-likelihood, and with a prior of means and covariances the mean of
    its log-density more; before balance it is what one more Sinkhorn update would make of it.

    References
    ----------
    .. [1] Mena, Nejatbakhsh, Varol and Niles-Weed 2020, Sinkhorn-EM.
    """

    def __init__(self, em: EM):
        self.em = em.with_free_weights()
        self.balanced = BALANCED[em.dtype]

    def __call__(self, theta: TiltedMixture) -> tuple[TiltedMixture, float]:
        em, w = self.em, theta.prescribed
        for _ in range(UPDATES):
            share = em.statistics(theta).mass / em.total
            log_weights = sinkhorn_update(theta.log_weights, w, share, RELAXATION)
            theta = theta._replace(log_weights=log_weights)
        statistics = em.statistics(theta)
        allowed = max(float(theta.allowed), self.balanced)
        if imbalance(statistics.mass / em.total, w) > allowed:
            theta = self.balance(theta)
            statistics = em.statistics(theta)
        moved = m_step(theta, statistics, em.reg_covar, em.constraint)
        theta_next = theta._replace(
            means=moved.means, covariances=moved.covariances, allowed=theta.allowed * TIGHTENING
        )
        received = moved.weights.clamp(min=torch.finfo(w.dtype).tiny).log()
        dual = w @ (theta.log_weights - w.log()) - statistics.log_likelihood / em.total
        cost = float(dual + w @ (w.log() - received))
        return theta_next, em.log_prior(theta) / em.total - cost

    def balance(self, theta: TiltedMixture) -> TiltedMixture:
        """The same mixture through the weights that balance it."""
        dual, linear, held = functools.partial(self.dual, theta), None, self._held(theta)
        if held:
            log_g, a = held
            dual = functools.partial(dense_dual, log_g=log_g, a=a)
            linear = linear_start(theta.prescribed, log_g, a)
        log_weights = balance(
            theta.prescribed, dual, start=theta.log_weights, tol=self.balanced, linear=linear
        )
        return theta._replace(log_weights=log_weights)

    def _held(self, theta: TiltedMixture) -> tuple[Tensor, Tensor] | None:
        """Log-densities of the components at samples ``(K, n)``, and the masses of these ``(n,)``.

        None if they are too many to be held in memory.
        """
        samples, (K, d) = self.em.samples, theta.means.shape
        if self.em.parts or samples.incomplete or samples.n_samples * max(K, d) > HELD:
            return None
        in_memory = isinstance(samples, InMemory)
        X, a = (samples.X, samples.sample_weight) if in_memory else samples.take()
        if a is not None:
            X, a = X[a > 0], a[a > 0].double()
        parts = (X - self.em.origin).double().split(max(1, HELD // (4 * K * d)))
        log_g = torch.cat([log_densities_of_components(theta.mixture(), x) for x in parts], dim=1)
        return log_g, masses_of_samples(X.double(), a)

    def dual(self, theta: TiltedMixture, log_weights: Tensor, temperature: float = 1.0) -> Dual:
        """The problem of balance, by passes over the samples; hot, up to a constant value."""
        tilted = theta._replace(log_weights=log_weights)
        if temperature == 1:
            statistics = self.em.statistics(tilted)
        else:
            tilted = tilted.heated(temperature)
            statistics = self.em.sums(self.em.fastest(tilted))
        share, log_likelihood = statistics.mass / self.em.total, statistics.log_likelihood
        overlap = functools.cache(lambda: self.em.overlap(tilted) / self.em.total)
        return Dual(log_likelihood / self.em.total, share, overlap)

    def objective(self, theta: TiltedMixture) -> float:
        """Minus the cost of balanced transport, from the weights that balance the mixture."""
        w, value = theta.prescribed, self.dual(theta, theta.log_weights).value
        cost = float(w @ (theta.log_weights - w.log()) - value)
        return self.em.log_prior(theta) / self.em.total - cost

    def gap(self, theta: TiltedMixture) -> float:
        """The cost of balanced transport less the negative log-likelihood."""
        em, w = self.em, theta.prescribed
        step = em.fastest(theta.mixture())
        tilt = self.balance(theta).log_weights - w.log()
        (gained,) = em.samples.sum(_Gain(step, tilt))
        return max(float(w @ tilt - gained / em.total), 0.0)


class _Gain:
    """What a tilt adds to the log-density, over a block."""

    def __init__(self, step: EStep, tilt: Tensor):
        self.step, self.tilt = step, tilt
        self.row_size, self.min_rows = step.row_size, step.min_rows

    def block(self, X, sample_weight, buffers):
        # sample by sample, for far samples cost much in either reading
        log_resp = self.step.log_responsibilities(X)
        gained = log_sum_exp(log_resp + self.tilt.unsqueeze(1), 0)
        return ((gained if sample_weight is None else gained * sample_weight).sum(),)


class SinkhornStep:
    """One iteration of Sinkhorn-EM as a map on the autograd graph.

    It is made of iterations of EM. Where Newton's method has found the balancing weights, these
    are differentiated by the implicit function theorem, as one more of its steps.

    Parameters
    ----------
    step : EMStep
        The iteration of EM over the samples, on their graph; its weights are free.
    prescribed : Tensor of shape (K,)
        The weights, perhaps on a graph.
    """

    def __init__(self, step, prescribed: Tensor):
        self.step, self.prescribed = step, prescribed
        self._last = None

    def __call__(self, theta: TiltedMixture) -> TiltedMixture:
        if float(theta.allowed) < EXACT:
            return self.at_balance(theta)
        allowed = max(float(theta.allowed), BALANCED[torch.float64])
        for _ in range(UPDATES):
            share = self.step(theta.tilted()).weights
            log_weights = sinkhorn_update(theta.log_weights, self.prescribed, share, RELAXATION)
            theta = theta._replace(log_weights=log_weights)
        moved = self.step(theta.tilted())
        if imbalance(moved.weights.detach(), self.prescribed.detach()) > allowed:
            return self.at_balance(theta)
        return self._next(theta, moved)

    def at_balance(self, theta: TiltedMixture) -> TiltedMixture:
        """The iteration that balances by Newton's method."""
        with self.step.at_work() as em:
            em, constant = SinkhornEM(em), theta.detach()
            found = em.balance(constant._replace(prescribed=self.prescribed.detach()))
            matrix = curvature(em.dual(found, found.log_weights))
        share = self.step(theta._replace(log_weights=found.log_weights).tilted()).weights
        further = torch.linalg.solve(matrix, self.prescribed - share)
        log_weights = found.log_weights + (further - further.detach())
        theta = theta._replace(log_weights=log_weights)
        return self._next(theta, self.step(theta.tilted()))

    def _next(self, theta, moved):
        return theta._replace(
            means=moved.means,
            covariances=moved.covariances,
            prescribed=self.prescribed,
            allowed=theta.allowed * TIGHTENING,
        )

    def on_leaves(self) -> tuple["SinkhornStep", list[Tensor]]:
        """The same iteration of samples and weights on a graph of their own, and which are."""
        step, leaves = self.step.on_leaves()
        return SinkhornStep(step, self.prescribed.detach()), leaves

    # --- for `polish` and `implicit` -------------------------------------------------------------

    def linearise(self, theta: TiltedMixture) -> "LinearisedSinkhorn":
        """The balanced iteration at a mixture; the last one is kept, for it is asked for twice."""
        if self._last is None or not all(map(torch.equal, self._last.theta, theta)):
            constant = SinkhornStep(self.step.detach(), self.prescribed.detach())
            self._last = LinearisedSinkhorn(constant, theta)
        return self._last

    def advance(self, theta: TiltedMixture, n_steps: int) -> TiltedMixture:
        """The mixture after so many balanced iterations."""
        with self.step.at_work() as em:
            start = theta._replace(allowed=torch.zeros_like(theta.allowed))
            return iterate(SinkhornEM(em), start, tol=0.0, max_iter=n_steps).value


class LinearisedSinkhorn(Linearisation):
    """One balanced iteration at a mixture, and its derivative in Fisher's coordinates.

    Parameters
    ----------
    step : SinkhornStep
        The iteration.
    theta : TiltedMixture
        Where it starts, a constant.
    """

    small = False

    def __init__(self, step: SinkhornStep, theta: TiltedMixture):
        theta = theta.detach()
        with torch.enable_grad():
            means, covariances = (
                t.clone().requires_grad_() for t in (theta.means, theta.covariances)
            )
            moved = step.at_balance(theta._replace(means=means, covariances=covariances))
        self._inputs = means, covariances
        self._outputs = moved.means, moved.covariances
        # from here on every iteration is balanced: none is allowed
        self.theta = theta._replace(
            log_weights=moved.log_weights.detach(), allowed=torch.zeros_like(theta.allowed)
        )
        self._constraint, prior = step.step.em.constraint, step.step.em.constraint.prior
        share = theta.prescribed
        if prior is not None:
            n = step.step.em.total
            share = share, share + prior.of_means / n, share + prior.of_covariances / n
        self._coordinates = fisher_coordinates(theta.mixture(), share)
        self.residual = self.change_to(moved.detach())
        with step.step.at_work() as em:
            self.objective = SinkhornEM(em).objective(self.theta)

    def product(self, u: Tensor) -> Tensor:
        """``dF/dtheta^T u`` for one cotangent ``(m,)`` or several ``(..., m)``."""
        if u.ndim > 1:
            return torch.stack([self.product(row) for row in u])
        cotangents = self._coordinates.cotangent(u)[1:]
        found = torch.autograd.grad(self._outputs, self._inputs, cotangents, retain_graph=True)
        return self._coordinates.of_cotangent(self._fixed(*found))

    def encode(self, u: TiltedMixture) -> Tensor:
        """A cotangent as a vector."""
        return self._coordinates.of_cotangent(self._fixed(u.means, u.covariances))

    def decode(self, vector: Tensor) -> TiltedMixture:
        """A vector as a cotangent."""
        u, zeros = self._coordinates.cotangent(vector), self.theta.map(torch.zeros_like)
        return zeros._replace(means=u.means, covariances=u.covariances)

    def retracted(self, vector: Tensor) -> TiltedMixture:
        """The mixture that a vector of coordinates leads to."""
        there = self._coordinates.retracted(vector)
        _, means, covariances = self._constraint.keep_moments(there, self.theta)
        return self.theta._replace(means=means, covariances=covariances)

    def change_to(self, theta: TiltedMixture) -> Tensor:
        """The coordinates of the change that leads to a mixture ``(m,)``."""
        changes = theta.means - self.theta.means, theta.covariances - self.theta.covariances
        return self._coordinates.of_change(self._fixed(*changes))

    def _fixed(self, means, covariances):
        """A change or cotangent that leaves the prescribed weights alone."""
        nothing = torch.zeros_like(self.theta.prescribed)
        change = GaussianMixtureParams(nothing, means, covariances, self.theta.covariance_type)
        return self._constraint.free(change)
