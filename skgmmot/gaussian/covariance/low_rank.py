"""The covariance type of mixtures of factor analysers: a few directions and one variance a feature.

.. math:: \\Sigma = F F^T + \\operatorname{diag}(\\psi), \\qquad F \\in \\mathbb{R}^{d \\times r}

Nothing here has ``d x d`` numbers. With ``W = diag(psi)^{-1/2} F`` and the Cholesky factor
``L L^T = I + W^T W (r, r)``, a square root of the precision is

.. math::

    P = \\operatorname{diag}(\\psi)^{-1/2} (I - W L^{-T} (I + L)^{-1} W^T), \\qquad
    P P^T = \\Sigma^{-1}, \\qquad
    \\log\\det P = -\\tfrac12 \\sum_j \\log \\psi_j - \\sum_i \\log L_{ii},

and ``D (I + W (I + L)^{-1} W^T)`` with ``D = diag(psi)^{1/2}`` is one of the covariance.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from skgmmot.gaussian.covariance.base import ILL_DEFINED, DensityType
from skgmmot.numerics.linalg import rotation, symmetrize

#: Fits begin with so many iterations for the factors, while the start's assignment stays.
START_ITERATIONS = 5
#: Numbers in matrices that stand for covariances, at most: 1 GiB in float64.
MAX_MATRICES = 2**27
#: A component begins with this share of each variance explained by factors.
START_SHARE = 0.5


def _parts(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Factors ``F (K, d, r)`` and variances ``psi (K, d)`` of a storage."""
    return covariances[..., :-1], covariances[..., -1]


def _stored(factors: Tensor, variances: Tensor) -> Tensor:
    """The storage of factors and variances."""
    return torch.cat([factors, variances.unsqueeze(-1)], dim=-1)


def _gram(W: Tensor) -> Tensor:
    """``I + W^T W``."""
    gram = W.mT @ W
    return gram + torch.eye(gram.shape[-1], dtype=W.dtype, device=W.device)


def _taken_apart(precision_factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``W (K, d, r)``, ``psi^{-1/2} (K, d)`` and ``L (K, r, r)``."""
    r = precision_factors.shape[-1] - 1
    upper = precision_factors[..., :-r, :]
    return upper[..., :-1], upper[..., -1], precision_factors[..., -r:, :-1]


class LowRank(DensityType):
    """Covariances ``F F^T + diag(psi)`` with ``r`` factors each, stored as ``(K, d, r + 1)``.

    The columns of the storage are those of ``F (d, r)``, then ``psi (d,)``. Statistics hold second
    moments as far as an M-step needs them: along ``r`` directions of the current mixture, and the
    diagonal. They have the shape of the storage, and are taken by the type `at` that mixture.

    Parameters
    ----------
    rank : int, default=1
        The number of factors r.
    """

    name = "lowrank"
    sketched = True

    def __init__(self, rank: int = 1):
        self.rank = rank

    # --- the core ------------------------------------------------------------------------------

    def shape(self, n_components, n_features):
        return (n_components, n_features, self.rank + 1)

    def n_parameters(self, n_components, n_features):
        free = n_features * (self.rank + 1) - self.rank * (self.rank - 1) // 2  # but for rotations
        return n_components * min(free, n_features * (n_features + 1) // 2)

    def to_full(self, covariances, n_components, n_features):
        F, psi = _parts(covariances)
        if n_components * n_features**2 > MAX_MATRICES:
            raise ValueError(
                "covariances must have few features where they become matrices, as barycentres and "
                f"geodesics of low rank do, got {n_components} of {n_features} features. Use "
                "covariance_type='diag', or fewer features."
            )
        return F @ F.mT + torch.diag_embed(psi)

    def nearest(self, matrices, weights):
        if matrices.ndim == 2:
            zeros = matrices.new_zeros(*matrices.shape, self.rank)
            return _stored(zeros, matrices)
        return self._of_matrices(matrices)

    def _of_matrices(self, matrices: Tensor, n_iterations: int = 200) -> Tensor:
        """The covariances of largest likelihood for given ones ``(K, d, d)``: factor analysis."""
        variances = matrices.diagonal(dim1=-2, dim2=-1)
        found = self.begun(variances)
        for _ in range(n_iterations):
            here = self.at(found)
            sketch = _stored(matrices @ here.directions, variances)
            found = here.estimate(matrices.new_ones(len(matrices)), variances * 0, sketch, 0.0)
        return found

    def scaled(self, covariances, factor):
        F, psi = _parts(covariances)
        return _stored(F * factor**0.5, psi * factor)

    def with_rank(self, rank):
        return LowRank(rank)

    def of_storage(self, storage):
        return LowRank(storage.shape[-1] - 1)

    def fits(self, n_features):
        return self.rank < n_features

    def parameters(self):
        return {"rank": self.rank}

    def loadings(self, storage):
        return _parts(storage)

    def holds(self, other):
        return other.diagonal or (type(other) is LowRank and other.rank <= self.rank)

    def diagonals(self, covariances):
        F, psi = _parts(covariances)
        return F.square().sum(-1) + psi

    def canonical(self, covariances):
        # Directions where the factors explain most of psi first. The rotation is a constant: what
        # does not depend on it has the same derivative.
        F, psi = _parts(covariances)
        W = F.detach() / psi.detach().sqrt().unsqueeze(-1)
        turned = torch.linalg.eigh(symmetrize(W.mT @ W)).eigenvectors.flip(-1)
        images = W @ turned
        largest = images.abs().argmax(-2, keepdim=True)
        signs = torch.where(images.gather(-2, largest) < 0, -1.0, 1.0)
        return _stored(F @ (turned * signs).to(F.dtype), psi)

    # --- fits ----------------------------------------------------------------------------------

    start_iterations = START_ITERATIONS

    def at(self, covariances):
        return _At(self.rank, *_parts(covariances))

    def at_factors(self, factors):
        W, roots, L = _taken_apart(factors)
        return _At(self.rank, None, None, _directions(W, roots, L))

    def begun(self, variances: Tensor) -> Tensor:
        """Covariances of given variances ``(K, d)``, with factors in arbitrary directions."""
        d = variances.shape[-1]
        generator = torch.Generator().manual_seed(0)
        normal = torch.randn(d, self.rank, generator=generator, dtype=torch.float64).to(variances)
        F = (variances * (START_SHARE / self.rank)).sqrt().unsqueeze(-1) * normal
        return _stored(F, (1 - START_SHARE) * variances)

    def scatter(self, centred, resp):
        # at no mixture there are no directions: the diagonal alone
        diagonal = (resp.unsqueeze(-2) @ centred.square()).squeeze(-2)
        return _stored(diagonal.new_zeros(*diagonal.shape, self.rank), diagonal)

    def outer(self, left, right):
        diagonal = left * right
        return _stored(diagonal.new_zeros(*diagonal.shape, self.rank), diagonal)

    def estimate(self, mass, shift, scatter, reg_covar):
        second = scatter / mass[:, None, None] - self.outer(shift, shift)
        return self.begun(_parts(second)[1].clamp(min=0) + reg_covar)

    # --- densities -----------------------------------------------------------------------------

    def unchecked_precision_factor(self, covariances):
        F, psi = _parts(covariances)
        roots = psi.rsqrt()
        W = F * roots.unsqueeze(-1)
        L, failed = torch.linalg.cholesky_ex(_gram(W))
        factors = torch.cat([_stored(W, roots), _stored(L, L.new_zeros(L.shape[:-1]))], dim=-2)
        finite = factors.detach().sum() / (failed == 0).all() + 0 * psi.detach().amax()
        return factors, finite

    def divided(self, factors, by):
        return torch.cat([factors[..., :-1], factors[..., -1:] / by], dim=-1)

    def least_eigenvalues(self, covariances):
        return _parts(covariances)[1].amin(-1)

    def apply(self, rows, factors):
        W, roots, L = _taken_apart(factors)
        white = rows * roots.unsqueeze(-2)
        explained = (white @ W) @ _inner(L).mT
        return white - explained @ W.mT

    def log_det(self, factors, n_features):
        _, roots, L = _taken_apart(factors)
        return roots.log().sum(-1) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def precision_diagonals(self, factors):
        W, roots, L = _taken_apart(factors)
        return roots.square() - _directions(W, roots, L).square().sum(-1)

    def factors(self, covariances, n_components, n_features):
        return _parts(covariances)

    def shrunk(self, covariances, share):
        F, psi = _parts(covariances)
        share = share.unsqueeze(-1)
        mean = self.diagonals(covariances).mean(-1, keepdim=True)
        shorter = F * (1 - share).sqrt().unsqueeze(-1)
        return _stored(shorter, (1 - share) * psi + share * mean)

    def chart(self, covariances):
        return Factors(self, covariances)

    # --- samples and parts ---------------------------------------------------------------------

    def n_normals(self, n_features):
        return n_features + self.rank

    def variances_along(self, directions, covariances):
        F, psi = _parts(covariances)
        return (directions @ F).square().sum(-1).mT + directions.square() @ psi.mT

    def colouring(self, covariances):
        return self.differentiable_colouring(covariances.detach())

    def differentiable_colouring(self, covariances):
        F, psi = _parts(covariances)
        return _stored(F, psi.sqrt())

    def coloured(self, normals, colouring):
        F, deviations = _parts(colouring)
        d = deviations.shape[-1]
        return normals[..., :d] * deviations.unsqueeze(-2) + normals[..., d:] @ F.mT

    def marginal(self, covariances, features):
        return covariances[..., features, :]

    def regression(self, covariances, given, others):
        (F, psi), (G, rest) = (_parts(self.marginal(covariances, i)) for i in (given, others))
        W = F / psi.sqrt().unsqueeze(-1)
        L = torch.linalg.cholesky(_gram(W))
        # z given x_g has the covariance (L L^T)^{-1} and the mean (L L^T)^{-1} F^T psi^{-1} x
        of_mean = torch.cholesky_solve((F / psi.unsqueeze(-1)).mT, L)
        left = torch.linalg.solve_triangular(L, G.mT, upper=False).mT
        return G @ of_mean, _stored(left, rest)


class Factors:
    """Factors, and logarithms of variances, in units of the variances ``psi`` of covariances.

    Parameters
    ----------
    covariance_type : LowRank
        The type.
    covariances : Tensor of shape (K, d, r + 1)
        The covariances, in storage.
    """

    def __init__(self, covariance_type: LowRank, covariances: Tensor):
        self.type, self.inverses = covariance_type, covariance_type.precision_factor(covariances)
        self.unit = covariances[..., -1:].sqrt()

    def to_free(self, covariances: Tensor) -> Tensor:
        """The coordinates of covariances."""
        F, psi = _parts(covariances)
        return _stored(F / self.unit, (psi / self.unit.squeeze(-1).square()).log())

    def from_free(self, free: Tensor) -> Tensor:
        """The inverse of `to_free`."""
        F, logs = _parts(free)
        return _stored(F * self.unit, logs.exp() * self.unit.squeeze(-1).square())

    def whitened(self, rows: Tensor) -> Tensor:
        """Rows ``(K, b, d)`` in units of the standard deviations."""
        return self.type.apply(rows, self.inverses)


def _inner(L: Tensor) -> Tensor:
    """``(I + L)^{-T} L^{-1}``, transposed that of the whitening, for products from the right."""
    identity = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
    inverse = torch.linalg.solve_triangular(L, identity.expand_as(L), upper=False)
    return torch.linalg.solve_triangular((identity + L).mT, inverse, upper=True)


def _directions(W: Tensor, roots: Tensor, L: Tensor) -> Tensor:
    """``U = diag(psi)^{-1} F L^{-T} (K, d, r)``: ``Sigma^{-1} = diag(1 / psi) - U U^T``."""
    solved = torch.linalg.solve_triangular(L, W.mT, upper=False).mT
    return solved * roots.unsqueeze(-1)


class _At(LowRank):
    """The type at a mixture: second moments ``S`` are stored as ``(S U, diag S)``.

    ``U`` is that of `_directions`. The coordinates ``U^T (x - m)`` are ``L^T`` times the expected
    factors ``z`` of a sample.
    """

    def __init__(self, rank, F=None, psi=None, directions=None):
        super().__init__(rank)
        if directions is None:
            roots = psi.rsqrt()
            W = F * roots.unsqueeze(-1)
            self.L = torch.linalg.cholesky_ex(_gram(W)).L
            directions = _directions(W, roots, self.L)
        self.directions = directions

    def at(self, covariances):
        return self

    def of(self, components):
        """The type at some of the components, for scatter alone."""
        return _At(self.rank, directions=self.directions[components])

    def scatter(self, centred, resp):
        weighted = centred * resp.unsqueeze(-1)
        sketch = weighted.mT @ (centred @ self.directions)
        return _stored(sketch, (weighted * centred).sum(-2))

    def outer(self, left, right):
        sketch = left.unsqueeze(-1) * (right.unsqueeze(-2) @ self.directions)
        return _stored(sketch, left * right)

    def estimate(self, mass, shift, scatter, reg_covar):
        # Parameter-expanded EM of factor analysis (Liu, Rubin and Wu 1998). With S the covariance
        # of the samples and C C^T = I + U^T S U, plain EM has F' = S U C^{-T} C^{-1} L^T. If the
        # factors' covariance is free, too, F' F'^T = S U C^{-T} C^{-1} U^T S, and of those F' this
        # is the nearest: it turns with F. The variances are diag(S - F' F'^T) either way.
        sketch, diagonal = _parts(scatter / mass[:, None, None] - self.outer(shift, shift))
        inner = symmetrize(self.directions.mT @ sketch)
        identity = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
        C = torch.linalg.cholesky_ex(identity + inner).L
        half = torch.linalg.solve_triangular(C, sketch.mT, upper=False)  # (K, r, d)
        turn = torch.linalg.solve_triangular(C, self.L.mT, upper=False)
        if not torch.isfinite(turn).all():
            raise ValueError(ILL_DEFINED)
        F = half.mT @ rotation(turn)
        psi = (diagonal - half.square().sum(-2)).clamp(min=0) + reg_covar
        return _stored(F, psi)


LOW_RANK = LowRank()


def joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, LowRank]:
    """Return the storage of several covariances together, and their type.

    Parameters
    ----------
    parts : sequence of tuple of Tensor of shapes (K, d, r) and (K, d)
        Factors, perhaps of several numbers r, and variances.

    Returns
    -------
    storage : Tensor of shape (sum of K, d, largest r + 1)
        All of them, one after the other.
    covariance_type : LowRank
        The type of the largest rank.
    """
    rank = max(F.shape[-1] for F, _ in parts)
    padded = [_stored(torch.nn.functional.pad(F, (0, rank - F.shape[-1])), psi) for F, psi in parts]
    return torch.cat(padded), LowRank(rank)
