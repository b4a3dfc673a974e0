r"""The E-step where entries of samples are missing at random, which are NaN.

With *o* the observed features of a sample, the others *m*, and ``y = x - m_k``, responsibilities
are those of the marginal mixture, and the first and second moments in component k are

.. math::

    \hat y = A y_o, \qquad A = \begin{pmatrix} I \\ \Sigma_{mo} \Sigma_{oo}^{-1} \end{pmatrix},
    \qquad \operatorname{E}[y y^T] = A y_o y_o^T A^T
        + \begin{pmatrix} 0 & 0 \\ 0 & \Sigma_{mm} - \Sigma_{mo} \Sigma_{oo}^{-1} \Sigma_{om}
        \end{pmatrix}.

Samples with the same observed features, one *pattern*, share these matrices: their sums over the
observed features are those of any samples, and are then completed. Consecutive samples of a pattern
are taken together, so that samples should be `sorted <by_pattern>` by it.
"""

import math
from functools import cached_property, partial

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import LOG_2PI, Observed
from skgmmot.gaussian.evaluators import (
    MIN_PRODUCT_ROWS,
    ProductEStep,
    coefficients_on_features,
)
from skgmmot.gaussian.incomplete.patterns import Patterns, drawn_labels
from skgmmot.gaussian.incomplete.precisions import ByPrecisions
from skgmmot.gaussian.log_density import is_far, log_responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams, PreparedMixture
from skgmmot.gaussian.statistics import Statistics
from skgmmot.numerics.blocks import MIN_BLOCK_ROWS, add
from skgmmot.numerics.exponentials import exponentials, log_sum_exp
from skgmmot.numerics.linalg import product

#: Why a mixture with noise takes complete samples only.
NO_NOISE = (
    "noise must be 'none' where entries are missing, got some: its density is known for complete "
    "samples. Fit without noise, or impute missing entries first."
)
NO_TYPE = (
    "covariance_type must be 'full', 'tied', 'diag' or 'spherical' where entries are missing, got "
    "{!r}. Fit with one of these, or pass complete samples."
)
#: Numbers in the matrices of patterns that are held at once, for each thread.
HELD = 2**20


class IncompleteEStep:
    """Base of the E-steps of samples with missing entries.

    Parameters
    ----------
    theta : GaussianMixtureParams or PreparedMixture
        A mixture, in float64, about the origin.
    origin : Tensor of shape (d,), default=None
        The origin; None is zero.

    Raises
    ------
    ValueError
        If a covariance is not positive definite, or the mixture has noise or covariances of low
        rank.
    """

    dtype = torch.float64

    def __init__(self, theta, origin=None):
        self.theta, self.origin = theta.prepare(), origin
        if self.theta.noise is not None:
            raise ValueError(NO_NOISE)
        self.covariance_type = base = self.theta.covariance_type
        if not base.elementary:
            raise ValueError(NO_TYPE.format(base.name))
        if isinstance(theta, GaussianMixtureParams):
            self.covariances = theta.in_base().covariances
        else:
            self.covariances = base.from_precisions(base.precisions(self.theta.factors))
        # matrices of a pattern: marginals, regressions and what they are made of
        self.most_patterns = max(1, HELD // (6 * self.covariances.numel()))

    def observe(self, observed: Tensor) -> tuple[Observed, Tensor]:
        """The mixture where only some features are observed ``(S, d)``, and ``constant (S, K)``.

        The latter are log-joint densities at the means.
        """
        found = self.covariance_type.observed(self.covariances, observed)
        lost = observed.sum(1, keepdim=True).to(found.log_det) * (LOG_2PI / 2)
        return found, self.theta.log_weights + found.log_det - lost

    def parts(self, X: Tensor) -> list[slice]:
        """Cut a block where its patterns have too many matrices to be held at once."""
        rows = Patterns.of(torch.isnan(X)).rows
        few = self.most_patterns
        return [
            slice(some[0].start, some[-1].stop)
            for some in (rows[i : i + few] for i in range(0, len(rows), few))
        ]

    @cached_property
    def _by_precisions(self) -> ByPrecisions | None:
        """What takes samples of many patterns, where it can."""
        if self.covariance_type.diagonal or self.theta.weights is not None:
            return None  # there is nothing to gain, or derivatives in weights of zero are asked for
        found = ByPrecisions(self.theta, self.covariances, self.origin)
        return found if found.is_accurate else None

    def many_patterns(self, X: Tensor) -> ByPrecisions | None:
        """What is faster where a pattern has fewer samples than there are features; else None."""
        few = len(X) < X.shape[1] * Patterns.number(torch.isnan(X))
        return self._by_precisions if few else None

    def log_joint(self, X: Tensor) -> Tensor:
        """Return ``log w_k g_k(x_i) (K, b)``, of what is observed of the samples."""
        if many := self.many_patterns(X):
            return many.log_joint(X).to(self.dtype)
        parts = [self._joint_of_part(X[rows]) for rows in self.parts(X)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def log_density(self, X: Tensor) -> Tensor:
        """Return ``log sum_k w_k g_k(x_i) (b,)``."""
        return log_sum_exp(self.log_joint(X), 0)

    def log_responsibilities(self, X: Tensor) -> Tensor:
        """Return the log-posterior of the components ``(K, b)``."""
        return self._normalised(X, self.log_joint(X))

    def _normalised(self, X, joint):
        """Log-responsibilities from the log-joint."""
        far = is_far(joint.detach())
        if not far.any():
            return torch.log_softmax(joint, dim=0)
        near = torch.log_softmax(joint[:, ~far], dim=0)
        found = joint.new_empty(joint.shape).index_copy(1, (~far).nonzero().squeeze(1), near)
        return found.index_copy(1, far.nonzero().squeeze(1), self._far(X[far]).to(found))

    def responsibilities(self, X: Tensor, buffers=None) -> tuple[Tensor, Tensor]:
        """Return the posterior of the components ``(K, b)``, and samples about the origin."""
        x = X.double() if self.origin is None else X.double() - self.origin.double()
        return exponentials(self.log_responsibilities(X)), x.mT

    def block(self, X: Tensor, sample_weight: Tensor | None, buffers) -> tuple[Tensor, ...]:
        """Sum the statistics of one block; those of several blocks add."""
        if many := self.many_patterns(X):
            parts, sums = many.parts(torch.isnan(X)), many.sums
        else:
            parts, sums = self.parts(X), partial(self._sums_of_part, buffers=buffers)
        if len(parts) == 1:
            return sums(X, sample_weight)
        weights = [None if sample_weight is None else sample_weight[rows] for rows in parts]
        return add(sums(X[rows], a) for rows, a in zip(parts, weights, strict=True))

    def statistics(self, *sums: Tensor, total_scatter=None) -> Statistics:
        """The sums over all blocks, which are centred at the means, by their names."""
        return Statistics(*sums)

    def completed(
        self, moments: Statistics, observed: Observed, patterns: Patterns
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mass, shift and scatter of all features, summed over patterns.

        Given are those of the observed features, with an axis of patterns in front. Samples of
        which nothing is observed say nothing, and do not count.
        """
        any_observed = patterns.observed.any(1)
        mass, shift, scatter, _ = moments
        mass = mass * any_observed.unsqueeze(1)
        shift, scatter = self.covariance_type.completed(mass, shift, scatter, observed)
        return mass.sum(0), shift.sum(0), scatter.sum(0)

    def _far(self, X: Tensor) -> Tensor:
        """Log-responsibilities of samples whose squares overflow, pattern by pattern."""
        X = X.detach().double() if self.origin is None else X.double() - self.origin.double()
        found = X.new_empty(len(self.theta.means), len(X))
        patterns = Patterns.of(torch.isnan(X))
        for rows, observed in zip(*patterns, strict=True):
            chosen = observed.nonzero().squeeze(1)
            covariances = self.covariance_type.marginal(self.covariances.detach(), chosen)
            factors = self.covariance_type.precision_factor(covariances)
            log_weights, means = self.theta.log_weights.detach(), self.theta.means.detach()
            part = PreparedMixture(log_weights, means[:, chosen], factors, self.covariance_type)
            found[:, rows] = log_responsibilities(part, X[rows][:, chosen])
        return found

    def _joint_of_part(self, X):
        raise NotImplementedError

    def _sums_of_part(self, X, sample_weight, buffers):
        raise NotImplementedError


class IncompleteDefinition(IncompleteEStep):
    """The E-step of samples with missing entries by its definition: accurate, and differentiable.

    Parameters
    ----------
    theta : GaussianMixtureParams or PreparedMixture
        A mixture, in float64, about the origin.
    origin : Tensor of shape (d,), default=None
        The origin; None is zero.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    Notes
    -----
    The derivative in missing entries is zero. Costs ``O(n K d^2)`` and ``O(K d^3)`` for each
    pattern, and holds ``(K, b, d)``.
    """

    min_rows = MIN_BLOCK_ROWS

    def __init__(self, theta, origin=None):
        super().__init__(theta, origin)
        self.row_size = self.theta.means.numel()

    def _centred(self, X):
        """Patterns, what they are observed of, samples about each mean ``(K, b, d)``, log-joint."""
        missing = torch.isnan(X)
        patterns = Patterns.of(missing)
        observed, constant = self.observe(patterns.observed)
        x = torch.where(missing, 0.0, X).double()
        if self.origin is not None:
            x = x - self.origin.double()
        y = torch.where(missing, 0.0, x - self.theta.means.unsqueeze(1))
        squares = [
            self.covariance_type.squared_norms(y[:, rows], factors)
            for rows, factors in zip(patterns.rows, observed.factors, strict=True)
        ]
        squares = [torch.where(each.isnan(), torch.inf, each) for each in squares]  # overflowed
        constant = constant.repeat_interleave(patterns.counts(), dim=0).mT  # (K, b)
        return patterns, observed, y, constant - torch.cat(squares, dim=1) / 2

    def _joint_of_part(self, X):
        return self._centred(X)[-1]

    def conditional_mean(self, X: Tensor) -> Tensor:
        """Samples ``(b, d)`` whose missing entries have their conditional means.

        What is observed is on the graph, but differs by rounding.
        """
        if many := self.many_patterns(X):
            parts, means_and_joint = many.parts(torch.isnan(X)), many.means_and_joint
        else:
            parts, means_and_joint = self.parts(X), self._means_and_joint
        found = []
        for some in parts:
            means, joint = means_and_joint(X[some])
            resp = exponentials(self._normalised(X[some], joint))
            found.append((resp.unsqueeze(-1) * means).sum(0))
        found = torch.cat(found)
        return found if self.origin is None else found + self.origin.double()

    def draw(self, X: Tensor, uniforms: Tensor, normals: Tensor) -> Tensor:
        """Samples whose missing entries are drawn given the others; constants.

        From random numbers ``(b,)`` and ``(b, d)``.
        """
        parts = []
        for some in self.parts(X):
            patterns, observed, y, joint = self._centred(X[some])
            resp = exponentials(self._normalised(X[some], joint))
            labels = drawn_labels(resp, uniforms[some])
            rows = torch.arange(len(labels), device=X.device)
            found = self._expected(patterns, observed, y)[labels, rows]
            roots = observed.root.expand(-1, len(resp), *observed.root.shape[2:])
            z = normals[some].to(found)
            for run, root in zip(patterns.rows, roots, strict=True):
                for k in labels[run].unique().tolist():
                    own = rows[run][labels[run] == k]
                    factors = root[k : k + 1]
                    if self.covariance_type.diagonal:
                        found[own] += z[own] * factors
                    else:
                        found[own] += z[own] @ factors[0].mT
            parts.append(found)
        found = torch.cat(parts)
        return found if self.origin is None else found + self.origin.double()

    def _means_and_joint(self, X):
        """Conditional means ``(K, b, d)`` of each component, and the log-joint."""
        patterns, observed, y, joint = self._centred(X)
        return self._expected(patterns, observed, y), joint

    def _expected(self, patterns, observed, y):
        """Conditional means ``(K, b, d)`` of each component."""
        means = self.theta.means.unsqueeze(1)
        if observed.completion is None:
            return means + y
        each = zip(patterns.rows, observed.completion, strict=True)
        return means + torch.cat([y[:, rows] @ matrices for rows, matrices in each], dim=1)

    def _sums_of_part(self, X, sample_weight, buffers=None):
        patterns, observed, y, joint = self._centred(X)
        resp, log_p = torch.softmax(joint, dim=0), log_sum_exp(joint, 0)
        if _without_any_entry(patterns):
            log_p = log_p * ~torch.isnan(X).all(1)
        if self.theta.weights is not None:  # derivatives in weights of zero are asked for
            resp = self._with_zero_weights(X, joint)
        if sample_weight is not None:
            resp, log_p = resp * sample_weight, log_p * sample_weight
        masses, shifts, scatters = [], [], []
        for rows in patterns.rows:
            a, z = resp[:, rows], y[:, rows]
            masses.append(a.sum(-1))
            shifts.append(product(a.unsqueeze(-2), z).squeeze(-2))
            scatters.append(self.covariance_type.scatter(z, a))
        sums = (torch.stack(t) for t in (masses, shifts, scatters))
        moments = Statistics(*sums, log_likelihood=log_p.sum())
        return *self.completed(moments, observed, patterns), moments.log_likelihood

    def _with_zero_weights(self, X, joint):
        """Responsibilities with their derivative in weights of zero, which logarithms lose."""
        theta = self.theta._replace(log_weights=torch.zeros_like(self.theta.weights), weights=None)
        unweighted = IncompleteDefinition(theta, self.origin).log_joint(X)
        # where such a component has all the density, the derivative is huge, but no infinity
        largest = math.log(torch.finfo(joint.dtype).max) / 2
        ratio = unweighted - log_sum_exp(joint, 0).detach()
        found = self.theta.weights.unsqueeze(1) * ratio.clamp(max=largest).exp()
        return found / found.sum(0)


class IncompleteFeatures(IncompleteEStep):
    """The E-step of samples with missing entries as matrix products, see `FeatureEStep`.

    Missing entries are zero among the quadratic features, which are the same for all patterns; each
    pattern has coefficients of its own.

    Parameters
    ----------
    theta : GaussianMixtureParams or PreparedMixture
        A mixture, in float64, about the origin.
    origin : Tensor of shape (d,)
        A point near the samples' mean.
    dtype : torch.dtype, default=torch.float64
        That of the products.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.

    Notes
    -----
    Costs the products of a `FeatureEStep`, and ``O(K d^3)`` for each pattern. Not differentiable.
    """

    min_rows = MIN_PRODUCT_ROWS
    noise = None
    exponentiate = ProductEStep.exponentiate
    normalise = staticmethod(ProductEStep.normalise)

    def __init__(self, theta, origin, dtype=torch.float64):
        super().__init__(theta, origin)
        self.dtype = dtype
        K, d = self.theta.means.shape
        self.width = d + 1 + self.covariance_type.n_quadratic(d)
        self.row_size = K + self.width
        self.origin_column = origin.to(dtype).unsqueeze(1)

    def _products(self, X, buffers):
        """Patterns, what they are observed of, their means, ``phi (width, b)`` and log-joint."""
        (b, d), means = X.shape, self.theta.means
        patterns = Patterns.of(torch.isnan(X))
        observed, constant = self.observe(patterns.observed)
        means = means * patterns.observed.unsqueeze(1)  # (S, K, d)
        coefficients = coefficients_on_features(
            self.covariance_type,
            means,
            constant,
            torch.zeros_like(means),
            self.covariance_type.precisions(observed.factors),
        ).to(self.dtype)  # (S, K, width)
        phi = buffers("features", (self.width, b), self.dtype)
        torch.sub(X.mT, self.origin_column, out=phi[:d]).nan_to_num_(nan=0.0)
        phi[d] = 1
        self.covariance_type.quadratic(phi[:d], out=phi[d + 1 :])
        joint = buffers("resp", (len(constant.mT), b), self.dtype)
        for rows, each in zip(patterns.rows, coefficients, strict=True):
            torch.mm(each, phi[:, rows], out=joint[:, rows])
        return patterns, observed, means, phi, joint

    def _joint_of_part(self, X):
        def buffers(_, shape, dtype):
            return X.new_empty(shape, dtype=dtype)

        patterns, observed, _, phi, joint = self._products(X, buffers)
        if self.covariance_type.shared:
            for rows, (factors,) in zip(patterns.rows, observed.factors, strict=True):
                white = factors.mT.to(self.dtype) @ phi[: X.shape[1], rows]
                joint[:, rows] -= white.square_().sum(0) / 2
        lost = ~torch.isfinite(joint.amax(0))  # squares overflowed
        if lost.any():
            joint[:, lost] = self.definition._joint_of_part(X[lost]).to(joint)
        return joint

    @cached_property
    def definition(self) -> IncompleteDefinition:
        """The same E-step by its definition."""
        return IncompleteDefinition(self.theta, self.origin)

    def _sums_of_part(self, X, sample_weight, buffers):
        patterns, observed, means, phi, resp = self._products(X, buffers)
        total, top = self.exponentiate(resp)
        for rows in _without_any_entry(patterns):
            top[rows] = -total[rows].log()
        log_likelihood = self.normalise(resp, total, top, sample_weight)
        sums = [resp[:, rows] @ phi[:, rows].mT for rows in patterns.rows]
        scatter = None
        if self.covariance_type.shared:
            scatter = self._total_scatter(patterns, phi[: X.shape[1]], sample_weight)
            precisions = self.covariance_type.precisions(observed.factors)
            log_likelihood = log_likelihood - (precisions * scatter).sum() / 2
        sums = torch.stack(sums).double()
        moments = self._moments(means, sums, scatter)
        return *self.completed(moments, observed, patterns), log_likelihood

    def _moments(self, means, sums, scatter):
        """Sums of features ``(S, K, width)`` as moments of the observed features at the means."""
        d, base = means.shape[-1], self.covariance_type
        if not base.shared:
            scatter = base.from_quadratic(sums[..., d + 1 :], d)
        found = Statistics(sums[..., d], sums[..., :d], scatter, sums.new_zeros(()))
        return found.recentred(-means, base)

    def _total_scatter(self, patterns, x, sample_weight):
        """``sum_i a_i x_i x_i^T (S, 1, d, d)`` about the origin."""
        weighted = x if sample_weight is None else x * sample_weight
        each = [weighted[:, rows] @ x[:, rows].mT for rows in patterns.rows]
        return torch.stack(each).double().unsqueeze(1)


def _without_any_entry(patterns: Patterns) -> list[slice]:
    """Rows of samples of which nothing is observed: they have a density of one, and no say."""
    seen = patterns.observed.any(1).tolist()
    return [rows for rows, some in zip(patterns.rows, seen, strict=True) if not some]
