"""Matrix-free linear solvers, and eigenvalue estimates from the products that they compute.

A linear operator is a function ``matvec (..., m) -> (..., m)`` of row vectors. A *solver* is a
function ``solve(matvec, b) -> x``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skgmmot.numerics.linalg import norm

Operator = Callable[[Tensor], Tensor]

#: A pivot below this share of the largest is rounding.
ROUNDING = 1e-15
#: Where a solution is so many times longer than the right-hand side, for operators of size one, its
#: rounding errors are as large as tolerances, and the inverses of such eigenvalues are left out.
SINGULAR = 1e10


def gmres(matvec: Operator, b: Tensor, *, tol: float = 1e-10, max_iter: int = 200) -> Tensor:
    """Solve ``matvec(x) = b`` by GMRES without restart, on the device of ``b``.

    Parameters
    ----------
    matvec : callable
        The linear operator, ``(m,) -> (m,)``.
    b : Tensor of shape (m,)
        The right-hand side.
    tol : float, default=1e-10
        Bound on the residual relative to ``b``.
    max_iter : int, default=200
        Largest number of products.

    Returns
    -------
    Tensor of shape (m,)
        The solution with the smallest residual in the Krylov space reached.
    """
    size = norm(b)
    if size == 0:
        return torch.zeros_like(b)
    basis, small = [b / size], _LeastSquares(size)
    for j in range(min(max_iter, b.numel())):
        w = matvec(basis[j])
        stacked = torch.stack(basis)
        first = stacked @ w  # classical Gram-Schmidt, twice, is as orthogonal as modified
        w = w - first @ stacked
        second = stacked @ w
        w = w - second @ stacked
        length = float(torch.linalg.vector_norm(w))
        residual = small.append([*(first + second).tolist(), length])
        if residual <= tol * size or length <= 1e-14:
            break
        basis.append(w / length)
    y = torch.tensor(small.solution(), dtype=b.dtype, device=b.device)
    return y @ torch.stack(basis[: len(y)])


class _LeastSquares:
    """Minimises ``|H y - norm e_0|`` for Hessenberg matrices that grow by columns.

    By Givens' rotations, in Python: LAPACK's least squares may differ in the last bit from one call
    to the next.
    """

    def __init__(self, norm: float):
        self._rotations, self._columns, self._right = [], [], [norm]

    def append(self, column: list[float]) -> float:
        """Add a column with one entry more than the last; return the new residual."""
        for i, (c, s) in enumerate(self._rotations):
            upper, lower = column[i], column[i + 1]
            column[i], column[i + 1] = c * upper + s * lower, c * lower - s * upper
        lower = column.pop()
        size = math.hypot(column[-1], lower)
        c, s = (column[-1] / size, lower / size) if size else (1.0, 0.0)
        column[-1] = size
        last = self._right.pop()
        self._right += [c * last, -s * last]
        self._rotations.append((c, s))
        self._columns.append(column)
        return abs(self._right[-1])

    def solution(self) -> list[float]:
        """The minimiser, zero along what a singular matrix does not determine."""
        y, right = [], self._right[:-1]
        least = ROUNDING * max((abs(column[-1]) for column in self._columns), default=0.0)
        for column in reversed(self._columns):
            pivot, value = column[-1], right.pop()
            y.append(value / pivot if abs(pivot) > least else 0.0)
            right = [r - y[-1] * entry for r, entry in zip(right, column, strict=False)]
        return y[::-1]


def neumann(matvec: Operator, b: Tensor, *, tol: float = 1e-10, n_terms: int = 1000) -> Tensor:
    """Solve ``matvec(x) = b`` by Neumann's series ``x = sum_j (I - matvec)^j b``.

    Parameters
    ----------
    matvec : callable
        The linear operator; ``I - matvec`` must have a spectral radius below one.
    b : Tensor of shape (m,)
        The right-hand side.
    tol : float, default=1e-10
        The series ends at the first term smaller than this, relative to ``b``.
    n_terms : int, default=1000
        Largest number of terms; 1 is ``b`` itself.

    Returns
    -------
    Tensor of shape (m,)
        The sum of the terms.
    """
    term = total = b
    for _ in range(n_terms - 1):
        term = term - matvec(term)
        total = total + term
        if torch.linalg.vector_norm(term) <= tol * torch.linalg.vector_norm(b):
            break
    return total


def dense(matvec: Operator, b: Tensor, *, tol: float | None = None) -> Tensor:
    """Solve ``matvec(x) = b`` directly, after building the matrix of the operator.

    Of a matrix that is singular, to rounding, it is the shortest solution by least squares.

    Parameters
    ----------
    matvec : callable
        The linear operator, ``(m, m) -> (m, m)`` row by row.
    b : Tensor of shape (m,)
        The right-hand side.
    tol : None
        Ignored: the solution is exact.

    Returns
    -------
    Tensor of shape (m,)
        The solution.
    """
    rows = matvec(torch.eye(b.numel(), dtype=b.dtype, device=b.device))
    return solved(rows.mT, b)


def solved(matrix: Tensor, b: Tensor) -> Tensor:
    """Solve a linear system, by least squares where the matrix is singular to rounding.

    Parameters
    ----------
    matrix : Tensor of shape (m, m)
        The matrix, of size one.
    b : Tensor of shape (m,)
        The right-hand side.

    Returns
    -------
    Tensor of shape (m,)
        The solution; the shortest one if the matrix has eigenvalues that are rounding.
    """
    x, failed = torch.linalg.solve_ex(matrix, b)
    if not failed and norm(x) <= SINGULAR * norm(b):
        return x
    if not torch.isfinite(matrix).all():
        return torch.full_like(b, math.nan)
    return torch.linalg.pinv(matrix, rtol=1 / SINGULAR) @ b


#: Solvers by name.
SOLVERS = {"gmres": gmres, "neumann": neumann, "dense": dense}


class Products:
    """A linear operator that records its products, for eigenvalue and residual estimates.

    Parameters
    ----------
    matvec : callable
        The linear operator.
    small : bool, default=False
        Whether all products, a matrix, cost little.
    """

    def __init__(self, matvec: Operator, small: bool = False):
        self._matvec, self._small = matvec, small
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def __call__(self, u: Tensor) -> Tensor:
        """Compute the product and record it."""
        product = self._matvec(u)
        self._inputs.append(u.reshape(-1, u.shape[-1]))
        self._outputs.append(product.reshape(-1, u.shape[-1]))
        return product

    def __getstate__(self):
        """Copies keep the recorded products, not the operator."""
        return {**vars(self), "_matvec": None}

    def __len__(self) -> int:
        return sum(len(u) for u in self._inputs)

    @property
    def _complete(self):
        """Whether all products are recorded, as a matrix."""
        return any(len(u) == u.shape[1] for u in self._inputs)

    def ritz_values(self) -> Tensor:
        """Rayleigh-Ritz estimates of eigenvalues, on the span of the recorded inputs.

        They are the eigenvalues themselves if the operator is small, and NaN if products are not
        finite.
        """
        if not self._inputs:
            return torch.empty(0, dtype=torch.complex128)
        if self._small and self._matvec is not None and not self._complete:
            like = self._inputs[0]
            self(torch.eye(like.shape[1], dtype=like.dtype, device=like.device))
        inputs, outputs = torch.cat(self._inputs), torch.cat(self._outputs)
        if not (torch.isfinite(inputs).all() and torch.isfinite(outputs).all()):
            return torch.full((1,), math.nan, dtype=torch.complex128)
        left, sizes, right = torch.linalg.svd(inputs.mT, full_matrices=False)
        rank = int((sizes > 1e-10 * sizes[0]).sum())
        basis = left[:, :rank]  # (m, r)
        images = outputs.mT @ (right[:rank].mT / sizes[:rank])
        return torch.linalg.eigvals(basis.mT @ images)

    def residual(self, x: Tensor, b: Tensor) -> float:
        """Relative residual ``|matvec(x) - b| / |b|``, from the recorded products if possible."""
        if not (x.any() or b.any()):
            return 0.0
        image = self._known_image(x)
        if image is None:
            image = self._matvec(x) if self._inputs else self(x)
        return float(torch.linalg.vector_norm(image - b) / torch.linalg.vector_norm(b))

    def _known_image(self, x: Tensor) -> Tensor | None:
        """``matvec(x)`` if ``x`` is a linear combination of recorded inputs, else None."""
        if self._complete or not self._inputs:  # a product costs less than finding it
            return None
        inputs, outputs = torch.cat(self._inputs), torch.cat(self._outputs)
        y = torch.linalg.lstsq(inputs.mT, x.unsqueeze(1)).solution.squeeze(1)
        known = torch.linalg.vector_norm(y @ inputs - x) <= 1e-12 * torch.linalg.vector_norm(x)
        return y @ outputs if known else None
