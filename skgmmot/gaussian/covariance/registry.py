"""The covariance types, each one object.

===========  ===============  ==================================================
type         storage          covariance of component k
===========  ===============  ==================================================
`FULL`       ``(K, d, d)``    its own matrix
`TIED`       ``(1, d, d)``    one matrix for all
`DIAG`       ``(K, d)``       its own variances
`SPHERICAL`  ``(K, 1)``       its own variance, the same for every feature
`LOW_RANK`   ``(K, d, r+1)``  its own ``F F^T + diag(psi)``: ``F (d, r)``, then ``psi``
===========  ===============  ==================================================

A mixture carries its covariance type: the shape of the storage alone does not tell it. (For K = 1
the first two, and for d = 1 the last two, are the same model.) A *precision factor* ``P`` has the
storage of the covariances and ``P @ P.T`` is the precision; a diagonal type stores the diagonal of
``P`` and never forms a ``d x d`` matrix.

Each type also describes its densities as a linear function of *features* of a sample,
``log w_k g_k(x) = <C_k, (x, 1, quadratic(x))>``: that turns the E-step into two matrix products.
"""

from torch import Tensor

from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.covariance.low_rank import LOW_RANK
from skgmmot.gaussian.covariance.matrices import FULL, TIED
from skgmmot.gaussian.covariance.variances import DIAG, SPHERICAL

#: The types that are found by the shape of covariances. Any other is named: its storage may have
#: the shape of one of these.
ELEMENTARY_TYPES = (FULL, TIED, DIAG, SPHERICAL)
#: The covariance types by scikit-learn's names.
COVARIANCE_TYPES = {
    covariance_type.name: covariance_type for covariance_type in (*ELEMENTARY_TYPES, LOW_RANK)
}


def type_of_gaussians(covariances: Tensor, means: Tensor) -> CovarianceType:
    """Return the covariance type of batches of Gaussians: full for matrices, else diagonal.

    Parameters
    ----------
    covariances : Tensor of shape (..., d, d) or (..., d)
        Matrices or variances.
    means : Tensor of shape (..., d)
        Means of the Gaussians.

    Returns
    -------
    CovarianceType
        The type.
    """
    return FULL if covariances.ndim > means.ndim else DIAG


def type_of_storage(covariances: Tensor, means: Tensor) -> CovarianceType:
    """Return the elementary type in whose storage the covariances of a mixture are.

    Parameters
    ----------
    covariances : Tensor
        ``(K, d, d)``, ``(1, d, d)``, ``(K, d)`` or ``(K, 1)``.
    means : Tensor of shape (K, d)
        Means of the components.

    Returns
    -------
    CovarianceType
        `FULL`, `TIED`, `DIAG` or `SPHERICAL`; for K = 1 tied rather than full, for d = 1 spherical
        rather than diagonal, which are the same models.

    Raises
    ------
    TypeError
        If one of them has no shape.
    ValueError
        If means are no matrix, or the covariances have the shape of no type.
    """
    shapes = [getattr(t, "shape", None) for t in (means, covariances)]
    if None in shapes:
        found = ", ".join(type(t).__name__ for t in (means, covariances))
        raise TypeError(
            f"means and covariances must be tensors, got {found}. Use torch.as_tensor on each."
        )
    if len(shapes[0]) != 2:
        raise ValueError(
            f"means must have shape (K, d), got {tuple(shapes[0])}. Use means[:, None] for one "
            "feature, means[None, :] for one component."
        )
    K, d = shapes[0]
    for covariance_type in ELEMENTARY_TYPES:
        if tuple(shapes[1]) == covariance_type.shape(K, d):
            return covariance_type.reduced(K, d)
    raise ValueError(
        f"covariances of {K} components in {d} dimensions must have shape ({K}, {d}, {d}) if full, "
        f"(1, {d}, {d}) if tied, ({K}, {d}) if diagonal or ({K}, 1) if spherical, got "
        f"{tuple(shapes[1])}. Add the axis of length one that is missing, or name the "
        "covariance_type."
    )
