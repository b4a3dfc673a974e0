"""The four covariance types, each one object.

The shape of the storage is the type, so a mixture of three tensors says everything:

===========  ===============  ==================================================
type         storage          covariance of component k
===========  ===============  ==================================================
`FULL`       ``(K, d, d)``    its own matrix
`TIED`       ``(1, d, d)``    one matrix for all
`DIAG`       ``(K, d)``       its own variances
`SPHERICAL`  ``(K, 1)``       its own variance, the same for every feature
===========  ===============  ==================================================

(For K = 1 the first two, and for d = 1 the last two, are the same model.) A *precision factor*
``P`` has the storage of the covariances and ``P @ P.T`` is the precision; a diagonal type stores
the diagonal of ``P`` and never forms a ``d x d`` matrix.

Each type also describes its densities as a linear function of *features* of a sample,
``log w_k g_k(x) = <C_k, (x, 1, quadratic(x))>``: that turns the E-step into two matrix products.
"""

from torch import Tensor

from skgmmot.gaussian.covariance.base import CovarianceType
from skgmmot.gaussian.covariance.matrices import FULL, TIED
from skgmmot.gaussian.covariance.variances import DIAG, SPHERICAL

#: The covariance types by scikit-learn's names.
COVARIANCE_TYPES = {kind.name: kind for kind in (FULL, TIED, DIAG, SPHERICAL)}


def covariance_type_of(covariances: Tensor) -> CovarianceType:
    """Return the covariance type whose storage this is.

    Parameters
    ----------
    covariances : Tensor
        ``(K, d, d)``, ``(1, d, d)``, ``(K, d)`` or ``(K, 1)``.

    Returns
    -------
    CovarianceType
        `FULL`, `TIED`, `DIAG` or `SPHERICAL`.

    Raises
    ------
    ValueError
        If the storage has another number of axes.
    """
    if covariances.ndim == 3:
        return TIED if len(covariances) == 1 else FULL
    if covariances.ndim == 2:
        return SPHERICAL if covariances.shape[1] == 1 else DIAG
    raise ValueError(
        "covariances must have shape (K, d, d), (1, d, d), (K, d) or (K, 1), "
        f"got {tuple(covariances.shape)}. Add the axis of length one that is missing."
    )
