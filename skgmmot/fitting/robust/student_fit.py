"""EM of Student-t mixtures over all samples: iterated, and as a map on the autograd graph."""

import math

import torch
from torch import Tensor

from skgmmot.fitting.em.e_steps import EStep, differentiate
from skgmmot.fitting.em.iterations import leaves_of
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.robust.student import (
    LEAST,
    MOST,
    StudentEStep,
    StudentMixtureParams,
    e_step,
    m_step,
)
from skgmmot.fitting.robust.tails import SETTLED, TailStep, tail_step
from skgmmot.gaussian.coordinates import FisherCoordinates, LogCoordinates
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.fixed_point import Acceleration, Solution, Squarem, iterate, named
from skgmmot.numerics.newton.linearisation import SMALL, Linearisation

#: Gradients put an iteration over all samples on the tape: at most so many numbers n K d.
MAX_TAPE = 2**22
#: Shortest part of Newton's step that is tried.
LEAST_PART = 2**-6


class StudentEM(EM):
    """One iteration of EM over all samples, block by block: ``theta -> (theta_next, objective)``.

    Parameters
    ----------
    samples : Samples
        The samples and their weights.
    origin : Tensor of shape (d,)
        A point near the samples' mean, in their dtype; mixtures are relative to it.
    reg_covar : float
        Added to the diagonals of the scale matrices.
    learns : bool, default=True
        Whether degrees of freedom are estimated.
    """

    def __init__(self, samples, origin, reg_covar, learns: bool = True):
        super().__init__(samples, origin, reg_covar)
        self.learns = learns
        self.ahead: TailStep | None = None  # from the last mixture, if degrees are estimated

    def has_settled_tails(self, tol: float) -> bool:
        """Whether Newton's method would hardly change degrees of freedom at the last mixture.

        The objective changes by about the square of the change of a logarithm.
        """
        return self.ahead is None or self.ahead.largest < max(SETTLED, math.sqrt(tol))

    def __call__(self, theta: StudentMixtureParams) -> tuple[StudentMixtureParams, float]:
        statistics = self.statistics(theta)
        if self.learns:
            self.ahead = tail_step(theta, statistics, self.reg_covar)
        theta_next = m_step(theta, statistics, self.reg_covar, learns=self.learns)
        return theta_next, float(statistics.weighted.log_likelihood) / self.total

    def statistics(self, theta: StudentMixtureParams):
        """The E-step's sums over all samples, by the fastest way that is accurate."""
        nu, where = theta.degrees_of_freedom, (self.samples.n_samples, self.dtype, self.origin)
        step = StudentEStep(theta.gaussians().prepare(), nu, *where)
        return step.statistics(*self.samples.sum(step))


class StudentCoordinates:
    """Unconstrained coordinates: those of the Gaussians, and logarithms of degrees of freedom.

    Parameters
    ----------
    like : StudentMixtureParams
        A mixture of roughly the same size as those to convert.
    learns : bool
        Whether degrees of freedom are among them.
    """

    def __init__(self, like: StudentMixtureParams, learns: bool):
        self.of_gaussians = LogCoordinates(like.gaussians())
        self.nu, self.learns = like.degrees_of_freedom, learns

    def to_free(self, theta: StudentMixtureParams) -> Tensor:
        """The coordinates of a mixture."""
        free = self.of_gaussians.to_free(theta.gaussians())
        return torch.cat([free, theta.degrees_of_freedom.log()]) if self.learns else free

    def from_free(self, vector: Tensor) -> StudentMixtureParams:
        """The mixture of coordinates."""
        nu, K = self.nu, len(self.nu)
        if self.learns:
            vector, nu = vector[:-K], vector[-K:].exp().clamp(LEAST, MOST)
        gaussians = self.of_gaussians.from_free(vector)
        return StudentMixtureParams(*gaussians, nu, gaussians.covariance_type)

    def length(self, change: Tensor) -> float:
        """The length of a change, with locations in units of their component's scale."""
        if not self.learns:
            return self.of_gaussians.length(change)
        K = len(self.nu)
        own = float(torch.linalg.vector_norm(change[-K:]))
        return math.hypot(self.of_gaussians.length(change[:-K]), own)


def climb(
    em: StudentEM,
    theta0: StudentMixtureParams,
    *,
    acceleration: str | None = None,
    radius: float = math.inf,
    constraint=None,
    **options,
) -> Solution:
    """Iterate EM from a start, perhaps accelerated.

    Where degrees of freedom are estimated, these and the widths go by Newton's method, or by what
    is named; it ends when they hardly change, and the likelihood neither.

    Parameters
    ----------
    em : StudentEM
        The iteration.
    theta0 : StudentMixtureParams
        The start.
    acceleration : {'squarem'}, default=None
        What extrapolates the iterations.
    radius : float, default=inf
        Longest jump of an extrapolation.
    constraint : Constraint
        Ignored: nothing stays but degrees of freedom.
    **options
        Other options of `iterate`.

    Returns
    -------
    Solution
        Where it ended.
    """
    accelerator: Acceleration | None = Tails(em) if em.learns else None
    if acceleration is not None:
        accelerator = named("acceleration", acceleration, ACCELERATIONS)(em, theta0, radius)
    return iterate(em, theta0, accelerator=accelerator, **options)


class Tails(Acceleration):
    """Newton's method for degrees of freedom and widths, between the iterations of EM.

    Proposals that lower the likelihood are rejected, and the next ones go a part of the way. Where
    even short ones lower it, EM goes on alone: with a large ``reg_covar`` it lowers it itself.

    Parameters
    ----------
    em : StudentEM
        The iteration, which notes where Newton's method goes on from its last mixture.
    """

    def __init__(self, em: StudentEM):
        self.em, self.part = em, 1.0
        self.objective, self.change = -math.inf, math.inf

    def arrive(self, point, objective: float, was_proposed: bool) -> bool:
        """Note the change of the objective, also after a proposal."""
        self.change, self.objective = objective - self.objective, objective
        if was_proposed:
            self.part = min(1.0, 2 * self.part)
        return True

    def converged(self, settled: bool, tol: float) -> bool:
        """Whether neither the objective nor a degree of freedom changes much any more.

        Without proposals, whether the objective does not.
        """
        if self.part < LEAST_PART:
            return settled
        return abs(self.change) < tol and self.em.has_settled_tails(tol)

    def propose(self, point, image, was_proposed: bool) -> StudentMixtureParams | None:
        """EM's next mixture with other degrees of freedom and widths."""
        if self.part < LEAST_PART or self.em.ahead is None:
            return None
        return self.em.ahead.of(image, self.part)

    def reject(self) -> None:
        """Go half as far."""
        self.part /= 2

    def state(self) -> dict:
        """What `propose` and the next change depend on, for `restore`."""
        return {
            "ahead": [self.em.ahead.widths, self.em.ahead.degrees],
            "objective": self.objective,
            "part": self.part,
        }

    def restore(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self.em.ahead = TailStep(*state["ahead"], math.inf)
        self.objective, self.part = state["objective"], state["part"]


class StudentSquarem(Squarem):
    """SQUAREM that goes on as long as degrees of freedom would change.

    Parameters
    ----------
    em : StudentEM
        The iteration.
    theta0 : StudentMixtureParams
        The start.
    radius : float
        Longest jump.
    """

    def __init__(self, em: StudentEM, theta0: StudentMixtureParams, radius: float):
        free, self.em = StudentCoordinates(theta0, em.learns), em
        super().__init__(free.to_free, free.from_free, radius=radius, measure=free.length)

    def converged(self, settled: bool, tol: float) -> bool:
        """Whether neither the objective nor a degree of freedom changes much any more."""
        return settled and self.em.has_settled_tails(tol)


#: What may extrapolate the iterations, by name.
ACCELERATIONS = {"squarem": StudentSquarem}


class StudentStep:
    """One iteration of EM over all samples as a map on the autograd graph, by its definition.

    Parameters
    ----------
    em : StudentEM
        The iteration on constants.
    X : Tensor of shape (n, d)
        Its samples, perhaps on a graph.
    sample_weight : Tensor of shape (n,), default=None
        Their weights, likewise.
    """

    def __init__(self, em: StudentEM, X: Tensor, sample_weight: Tensor | None = None):
        self.em, self.X, self.sample_weight = em, X, sample_weight
        self._last = None

    def __call__(self, theta: StudentMixtureParams) -> StudentMixtureParams:
        x = self.X.double() - self.em.origin.double()
        a = None if self.sample_weight is None else self.sample_weight.double()
        return m_step(theta, e_step(theta, x, a), self.em.reg_covar, learns=self.em.learns)

    def linearise(self, theta: StudentMixtureParams) -> "LinearisedStudent":
        """The linearisation at a mixture; the last one is kept, because it is asked for twice."""
        theta = theta.detach()
        if self._last is None or not all(map(torch.equal, self._last.theta, theta)):
            constants = (None if t is None else t.detach() for t in (self.X, self.sample_weight))
            self._last = LinearisedStudent(StudentStep(self.em, *constants), theta)
        return self._last

    def advance(self, theta: StudentMixtureParams, n_steps: int) -> StudentMixtureParams:
        """The mixture after so many iterations."""
        with self.em.in_float64().at_work() as em:
            return iterate(em, theta, tol=0.0, max_iter=n_steps).value

    def on_leaves(self) -> tuple["StudentStep", list[Tensor]]:
        """The same iteration of samples and weights on a graph of their own, and which are."""
        inputs, leaves = leaves_of(self.X, self.sample_weight)
        return StudentStep(self.em, *inputs), leaves


class LinearisedStudent(Linearisation):
    """One iteration at a mixture, and its derivative, in coordinates in which that is symmetric.

    These are Fisher's coordinates of the Gaussians, by the shares of the samples that each
    parameter is estimated from, and degrees of freedom by the complete-data information.

    Parameters
    ----------
    step : StudentStep
        The iteration, over constants.
    theta : StudentMixtureParams
        Where it starts, a constant.
    """

    def __init__(self, step: StudentStep, theta: StudentMixtureParams):
        self.theta, self.learns = theta, step.em.learns
        with torch.enable_grad():
            self._inputs = theta.map(lambda t: t.clone().requires_grad_())
            self._outputs = step(self._inputs)
        with step.em.in_float64().at_work() as em:
            statistics = em.statistics(theta)
        self.objective = float(statistics.weighted.log_likelihood) / em.total
        share = statistics.mass / em.total
        shares = share, statistics.weighted.mass / em.total, share
        self._coordinates = FisherCoordinates(theta.gaussians(), shares)
        half = theta.degrees_of_freedom.clamp(max=MOST) / 2
        information = share * (torch.polygamma(1, half) - 1 / half) / 4
        smallest = torch.finfo(half.dtype).eps
        self._root = information.clamp(min=smallest).sqrt()
        change = self._outputs.detach().map(torch.sub, theta)
        self.residual = self._joined(
            self._coordinates.of_change(_gaussian_part(change)),
            change.degrees_of_freedom * self._root,
        )
        self.small = self.residual.numel() <= SMALL

    def product(self, u: Tensor) -> Tensor:
        """``dF/dtheta^T u`` for one cotangent ``(m,)`` or several ``(..., m)``."""
        if u.ndim > 1:
            return torch.stack([self.product(row) for row in u])
        pairs = zip(self._outputs, self.decode(u), strict=True)
        moving = [(o, c) for o, c in pairs if o.requires_grad]
        outputs, cotangents = zip(*moving, strict=True)
        inputs, options = tuple(self._inputs), {"retain_graph": True, "materialize_grads": True}
        found = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, **options)
        return self.encode(StudentMixtureParams(*found, self.theta.covariance_type))

    def encode(self, u: StudentMixtureParams) -> Tensor:
        """A cotangent as a vector."""
        of_gaussians = self._coordinates.of_cotangent(_gaussian_part(u))
        return self._joined(of_gaussians, u.degrees_of_freedom / self._root)

    def decode(self, vector: Tensor) -> StudentMixtureParams:
        """A vector as a cotangent."""
        rest, own = self._split(vector)
        parts = self._coordinates.cotangent(rest)
        return StudentMixtureParams(*parts, own * self._root, self.theta.covariance_type)

    def retracted(self, vector: Tensor) -> StudentMixtureParams:
        """The mixture that a vector of coordinates leads to."""
        rest, own = self._split(vector)
        parts, nu = self._coordinates.retracted(rest), self.theta.degrees_of_freedom
        if self.learns:
            nu = (nu * (own / (self._root * nu)).exp()).clamp(LEAST, MOST)
        return StudentMixtureParams(*parts, nu, self.theta.covariance_type)

    def change_to(self, theta: StudentMixtureParams) -> Tensor:
        """The coordinates of the change that leads to a mixture ``(m,)``; by logarithms of nu."""
        change, nu = theta.map(torch.sub, self.theta), self.theta.degrees_of_freedom
        of_gaussians = self._coordinates.of_change(_gaussian_part(change))
        relative = (theta.degrees_of_freedom / nu).log()
        return self._joined(of_gaussians, torch.where(nu.isinf(), 0.0, nu * relative * self._root))

    def _joined(self, rest, own):
        """Coordinates one after the other; what is given does not move."""
        return torch.cat([rest, own if self.learns else torch.zeros_like(self._root)])

    def _split(self, vector):
        K = len(self._root)
        return vector[:-K], vector[-K:]


def _gaussian_part(change: StudentMixtureParams) -> GaussianMixtureParams:
    """A change or cotangent of weights, locations and scale matrices."""
    return change.gaussians()


def _differentiate(step, theta0, solution, gradient) -> Solution:
    """Put the end of a fit on the graph of the samples and their weights."""
    return differentiate(_student(step, theta0), theta0, solution, gradient)


def _student(step, theta0) -> StudentStep:
    """The iteration as a map."""
    return StudentStep(step.em, step.X, step.sample_weight)


#: What `fit_from_starts` takes for mixtures of t distributions.
STUDENT = EStep("student", climb, _differentiate, balanced=False, step=_student)
