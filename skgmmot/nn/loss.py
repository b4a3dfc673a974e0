"""Distance of batches of samples to a target mixture, as a loss."""

import difflib
import inspect
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from skgmmot._inputs.mixtures import as_mixture, is_mixture
from skgmmot._types import Array, Mixture, Penalties
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.nn.layers import EMLayer
from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.gradients import GRADIENTS
from skgmmot.numerics.linalg import safe_sqrt
from skgmmot.transport.mixtures.distance import transport_plan

#: Options by which a mixture is fitted to a target's samples, whatever those for batches are.
TARGET_OPTIONS = {"tol": 1e-6, "max_iter": 1000}
ORDER = "The target comes first: MixtureWassersteinLoss(target, n_components)."


class MixtureWassersteinLoss(torch.nn.Module):
    """Squared mixture Wasserstein distance MW2 of batches to a target, as a loss.

    .. math:: \\min_{P \\in \\Pi(a, b)} \\sum_{kl} P_{kl} W_2^2(N(m_k, S_k), N(m_l, S_l))

    between the mixture that `EMLayer` fits to the batch and that of the target.

    Parameters
    ----------
    target : fitted mixture estimator, tuple (weights, means, covariances), or array-like \
of shape (n, d)
        The constant target: a mixture of any size and covariance type, or samples, to which a
        mixture with the options of the layer is fitted once, to convergence.
    n_components : int, default=None
        Number of components fitted to the batches; None takes that of the target mixture.
    reg : float, default=0.0
        Weight of the entropy of the plan; 0 means no entropy.
    reg_m : float, tuple of two floats or None, default=None
        Penalties of the plan's marginals, the batch's and the target's, in squared units of the
        samples: about the cost above which mass is not moved. One number applies to both;
        ``math.inf`` prescribes a marginal, None prescribes both.
    root : bool, default=False
        Whether to return ``MW2`` instead of ``MW2^2``, penalties included. The square has no kink
        at zero.
    gradient : {'one_step', 'implicit', 'automatic', 'natural'}, default='one_step'
        How a fit is differentiated, see `EMLayer`. ``'one_step'`` trains networks in many small
        steps; ``'implicit'`` gives the exact loss and gradient of each batch, in 3 to 12 times
        the time where EM converges fast, and in hundreds or thousands of times where it does not:
        many components, and samples of few groups.
    max_iter : int, default=None
        Largest number of EM iterations for each batch; None is 1 for ``'one_step'``, so that the
        mixture follows the batches, and 100 otherwise.
    **options : dict
        Further options of `EMLayer`: ``covariance_type``, ``gradient_tol``, ``tol``,
        ``reg_covar``, ``fixed_weights``, ``init_params``, ``random_state`` and ``rank``.

    Attributes
    ----------
    em : EMLayer
        The layer that fits the batches and keeps the last fit.
    target_weights : Tensor of shape (L,)
        Buffer: the target's weights.
    target_means : Tensor of shape (L, d)
        Buffer: its means.
    target_covariances : Tensor
        Buffer: its covariances, in the storage of their type.

    See Also
    --------
    EMLayer : The fit alone.
    skgmmot.MixtureWasserstein : The distance between two mixtures.

    Notes
    -----
    Costs are computed in float64 and the loss is given in the dtype of the batch. It is once
    differentiable. A batch of n samples costs ``O(n K d^2)`` for each EM iteration, and
    ``O(K L d^3)``.

    By default each batch is one EM iteration, from the mixture of the last batch, whose derivative
    is taken with its start as a constant. The loss is then that of a mixture which lags behind the
    batches; compare such values in evaluation only with others from the same mixture.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025, MW2 as a loss.
    .. [2] Delon and Desolneux 2020, definition of MW2.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.nn import MixtureWassersteinLoss
    >>> target = ([0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [1.0, 1.0], "spherical")
    >>> loss = MixtureWassersteinLoss(target, random_state=0)
    >>> X = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    >>> optimiser = torch.optim.Adam([X], lr=0.1)
    >>> for step in range(60):
    ...     optimiser.zero_grad()
    ...     value = loss(X)
    ...     value.backward()
    ...     optimiser.step()
    >>> bool(value < 0.05)
    True
    """

    #: The target, in buffers.
    target_weights: Tensor
    target_means: Tensor
    target_covariances: Tensor

    def __init__(
        self,
        target: Mixture | Array | Tensor,
        n_components: int | None = None,
        *,
        reg: float = 0.0,
        reg_m: Penalties = None,
        root: bool = False,
        gradient: str = "one_step",
        max_iter: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.reg, self.reg_m, self.root = reg, reg_m, root
        if n_components is None:
            n_components = _n_components_of(target)
        if max_iter is None:
            brief = gradient in GRADIENTS and GRADIENTS[gradient].of_last_iteration
            max_iter = 1 if brief else 100
        options |= {"gradient": gradient, "max_iter": max_iter}
        self.em = _layer(n_components, options)
        if not is_mixture(target):
            target = clone(self.em.estimator).set_params(**TARGET_OPTIONS).fit(target)
        params, _ = as_mixture(target, "target")
        transport_plan(params, params, reg=reg, reg_m=reg_m)  # raises if a penalty is invalid
        for name, tensor in zip(params._fields, params.detach(), strict=True):
            self.register_buffer(f"target_{name}", tensor)
        self._target_type = params.covariance_type

    @property
    def target(self) -> GaussianMixtureParams:
        """The target mixture."""
        return GaussianMixtureParams(
            self.target_weights, self.target_means, self.target_covariances, self._target_type
        )

    def forward(self, X: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Compute the distance of a batch to the target.

        Parameters
        ----------
        X : Tensor of shape (n, d)
            Samples, as for `EMLayer`.
        sample_weight : Tensor of shape (n,), default=None
            Non-negative weights; None is one each.

        Returns
        -------
        Tensor of shape ()
            The loss, differentiable in ``X`` and ``sample_weight``.

        Raises
        ------
        TypeError
            As `EMLayer`.
        ValueError
            As `EMLayer`; or if the batch and the target differ in the number of features, or a
            penalty is NaN, infinite or of the wrong sign.
        """
        shape, d = tuple(getattr(X, "shape", ())), self.target_means.shape[1]
        if len(shape) == 2 and shape[1] != d:  # before the layer keeps a mixture of such samples
            raise ValueError(
                f"X must have the {d} feature(s) of the target, got {shape[1]}. Describe both by "
                "the same features."
            )
        mixture = self.em(X, sample_weight)
        # float64: distances between close mixtures are small differences of large numbers
        source = mixture.to(dtype=torch.float64)
        target = self.target.to(dtype=torch.float64, device=source.means.device)
        cost = transport_plan(source, target, reg=self.reg, reg_m=self.reg_m).cost
        return (safe_sqrt(cost) if self.root else cost).to(mixture.means.dtype)

    def extra_repr(self) -> str:
        """The parameters that torch shows in the representation of the module."""
        return f"reg={self.reg}, reg_m={self.reg_m}, root={self.root}"


def _layer(n_components, options) -> EMLayer:
    """The layer of a loss; options that it does not have are named."""
    known = [name for name in inspect.signature(EMLayer).parameters if name != "n_components"]
    unknown = [name for name in options if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 1, 0.8)
        raise TypeError(
            f"MixtureWassersteinLoss has no parameter {unknown[0]!r}. "
            + (f"Did you mean {near[0]!r}? " if near else "")
            + f"Those of its EM layer are {', '.join(known)}."
        )
    positive_integer("n_components", n_components, ORDER)
    return EMLayer(n_components, **options)


def _n_components_of(target) -> int:
    """The number of components of a target that is a mixture."""
    if not is_mixture(target):
        raise ValueError(
            "n_components must be given where the target holds samples, got None. Pass the number "
            "of components to fit to them."
        )
    return len(as_mixture(target, "target")[0].weights)
