"""A torch layer that fits a Gaussian mixture to each batch by EM.

It keeps the last fit and starts the next one there, so that a training step needs few EM
iterations. The kept mixture is in buffers: saved by ``state_dict``, moved by ``to``, and unchanged
in evaluation mode.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import as_mixture
from skgmmot._types import RandomState
from skgmmot.estimators.mixtures.differentiable import DifferentiableGaussianMixture
from skgmmot.fitting.em.fit import fit_em
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.adjoint import InexactGradientWarning
from skgmmot.numerics.fixed_point import Solution

#: Parameters of the estimator that are options of `fit_em`.
FIT_OPTIONS = ("gradient", "gradient_tol", "tol", "max_iter", "reg_covar", "fixed_weights")
#: Components of smaller weight count as empty, and components whose parameters differ by less, in
#: units of the mixture's size, as equal: EM leaves neither state.
MIN_WEIGHT, MIN_DIFFERENCE = 1e-10, 1e-5


class EMLayer(torch.nn.Module):
    """Layer that fits a Gaussian mixture to each batch by EM, differentiably.

    Each fit starts from the kept mixture. In training mode its result is kept for the next batch;
    in evaluation mode it is not. The start for the first batch is made by ``init_params``.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'lowrank'}, default='full'
        Type of the covariances.
    gradient : {'implicit', 'automatic', 'one_step', 'natural'}, default='implicit'
        How a fit is differentiated: by the implicit function theorem, through all its iterations,
        or through the last one. 'natural' is not a derivative, but a descent direction for the
        samples of a flow with ``fixed_weights``.
    gradient_tol : float, default=1e-6
        For ``gradient='implicit'`` and 'natural', if a gradient is required: bound on the distance
        of the fit to the fixed point before it is differentiated, in units of the components'
        spread.
    tol : float, default=1e-6
        EM stops when the mean log-likelihood changes by less than this in one iteration.
    max_iter : int, default=100
        Largest number of iterations for each batch. With 1 and ``gradient='one_step'``, a training
        loop is the warm-start flow: one EM iteration for each step.
    reg_covar : float, default=1e-6
        Added to the variances, in squared units of the batch.
    fixed_weights : bool, default=False
        Whether the weights are fixed: uniform, or those given by ``init_params``.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, fitted mixture estimator \
or tuple (weights, means, covariances), default='kmeans'
        Start of the first fit: made from the samples of the batch, or a given mixture.
    random_state : int, RandomState instance or None, default=None
        Controls the first start.
    rank : int, default=1
        Number of factors of ``covariance_type='lowrank'``; other types ignore it.

    Attributes
    ----------
    weights : Tensor of shape (n_components,)
        Buffer: weights of the kept mixture; None before the first fit.
    means : Tensor of shape (n_components, d)
        Buffer: its means.
    covariances : Tensor
        Buffer: its covariances, in the storage of their type.
    n_batches : int
        Batches seen since the layer was made or reset.
    solution : Solution
        Result of the last fit without gradients: ``converged``, ``n_iter`` and more; None before.

    See Also
    --------
    MixtureWassersteinLoss : The distance of the fit to a target.
    skgmmot.functional.WarmStart : The same for gradient flows of samples, without a module.

    Notes
    -----
    EM cannot recover a component without samples, which may occur if a batch is small or far from
    the last one, nor separate two components that have become equal, which may occur if the samples
    have fewer groups than there are components. A fit from the kept mixture that ends in such a
    state is discarded, and the batch is fitted again from a new start. With ``fixed_weights`` the
    first case is not detected: call `reset` if the samples change abruptly.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.nn import EMLayer
    >>> X = torch.tensor([[0.0], [1.0], [5.0], [6.0]], requires_grad=True)
    >>> layer = EMLayer(2, random_state=0)
    >>> mixture = layer(X)
    >>> mixture.means.detach().sort(dim=0).values
    tensor([[0.5000],
            [5.5000]])
    >>> mixture.means[0].sum().backward()
    >>> X.grad.shape
    torch.Size([4, 1])
    """

    #: The kept mixture, in buffers; None before the first batch.
    weights: Tensor
    means: Tensor
    covariances: Tensor
    #: The last fit; None before the first batch.
    solution: Solution | None

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        gradient: str = "implicit",
        gradient_tol: float = 1e-6,
        tol: float = 1e-6,
        max_iter: int = 100,
        reg_covar: float = 1e-6,
        fixed_weights: bool = False,
        init_params: Any = "kmeans",
        random_state: RandomState = None,
        rank: int = 1,
    ) -> None:
        super().__init__()
        named = isinstance(init_params, str)
        self.estimator = DifferentiableGaussianMixture(
            n_components,
            covariance_type=covariance_type,
            gradient=gradient,
            gradient_tol=gradient_tol,
            tol=tol,
            max_iter=max_iter,
            reg_covar=reg_covar,
            fixed_weights=fixed_weights,
            init_params=init_params if named else "kmeans",
            random_state=random_state,
            rank=rank,
        )
        self.estimator._validate_params()
        if max_iter < 1:
            raise ValueError(f"max_iter must be at least 1, got {max_iter}. Leave it out for 100.")
        self._given = None if named else self._as_start(init_params)
        for name in GaussianMixtureParams._fields:
            self.register_buffer(name, None)
        self.reset()

    @property
    def mixture(self) -> GaussianMixtureParams | None:
        """The kept mixture, from which the next fit starts; None if there is none."""
        if self.means is None:
            return None
        covariance_type = self.estimator._covariance().reduced(*self.means.shape)
        return GaussianMixtureParams(self.weights, self.means, self.covariances, covariance_type)

    def reset(self) -> None:
        """Discard the kept mixture: the next fit starts as the first did."""
        self.solution, self.n_batches, self._warned = None, 0, False
        given = self._given or (None, None, None)
        for name, tensor in zip(("weights", "means", "covariances"), given, strict=True):
            setattr(self, name, None if tensor is None else tensor.clone())

    def forward(self, X: Tensor, sample_weight: Tensor | None = None) -> GaussianMixtureParams:
        """Fit the mixture to a batch.

        Parameters
        ----------
        X : Tensor of shape (n, d)
            Samples, at least as many as components, on any device; float32 and float64 are kept,
            the rest becomes float64.
        sample_weight : Tensor of shape (n,), default=None
            Non-negative weights; None is one each.

        Returns
        -------
        GaussianMixtureParams
            The fit, in the dtype of ``X``, differentiable in ``X`` and ``sample_weight``.

        Raises
        ------
        TypeError
            If ``X`` is not a tensor of real numbers.
        ValueError
            If ``X`` or ``sample_weight`` is invalid, or a covariance becomes singular; the kept
            mixture is then unchanged. The message gives the number of the batch and the size of
            its samples.
        """
        self.n_batches += 1
        fitting = False
        try:
            X, a = self._checked(X, sample_weight)
            start = self.mixture or self._first(X, a)
            fitting = True
            solution = self._fit(start, X, a)
            if self.mixture is not None and _is_stuck(solution.value.detach()):
                solution = self._fit(self._first(X, a), X, a)
        except ValueError as error:
            raise ValueError(f"{error} {self._circumstances(X, fitting)}") from error
        kept = solution.value.detach()
        self.solution = solution._replace(value=kept, previous=solution.previous.detach())
        if self.training:
            # copies: a state loaded later is written into the buffers
            self.weights, self.means, self.covariances = (t.clone() for t in kept)
        return solution.value

    def _circumstances(self, X, fitting: bool) -> str:
        """For error messages: the number of the batch, its size and that of the kept mixture.

        What diverges in training comes as a batch that is not finite, or whose fit fails.
        """
        said = f"This was batch {self.n_batches} since the layer was made or reset"
        if isinstance(X, Tensor) and X.numel():
            said += f"; its largest number has size {float(X.detach().abs().max()):.3g}"
        if self.mixture is not None:
            reach = self.mixture.covariances.abs().max().sqrt() + self.mixture.means.abs().max()
            said += f"; the mixture of the last one reached to about {float(reach):.3g}"
        if fitting or (isinstance(X, Tensor) and not torch.isfinite(X.detach()).all()):
            said += ". If samples grow or collapse in training, lower the learning rate"
        return f"{said}."

    def extra_repr(self) -> str:
        """The parameters that torch shows in the representation of the module."""
        e = self.estimator
        return f"{e.n_components}, covariance_type={e.covariance_type!r}, gradient={e.gradient!r}"

    def _as_start(self, mixture) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and covariances of a start, checked to be of the layer's size and type."""
        weights, means, covariances = as_mixture(mixture, "init_params")[0].detach()
        if means.shape == (1, 1):  # all types are the same there, but for their storage
            covariances = covariances.reshape(self.estimator._covariance().shape(1, 1))
        difference = self._difference((weights, means, covariances))
        if difference:
            raise ValueError(f"init_params {difference}")
        return weights, means, covariances

    def _difference(self, parameters: Sequence[Tensor]) -> str:
        """How the shapes of a mixture differ from those of this layer's; empty if they do not."""
        K, covariance_type = self.estimator.n_components, self.estimator._covariance()
        means, covariances = (tuple(t.shape) for t in parameters[1:])
        if len(means) == 2 and covariances == covariance_type.shape(K, means[1]):
            return ""
        return (
            f"must be a mixture of {K} components with covariances of type "
            f"{covariance_type.name!r}, got means {means} and covariances "
            f"{covariances}. Match n_components and covariance_type."
        )

    def _checked(self, X, sample_weight) -> tuple[Tensor, Tensor | None]:
        """Validate a batch and its weights."""
        if not isinstance(X, Tensor):
            raise TypeError(f"X must be a tensor, got {type(X).__name__}. Use torch.as_tensor(X).")
        least = max(2, self.estimator.n_components)
        X, _ = arrays.samples(self.estimator, X, reset=False, min_samples=least)
        if self.means is not None and X.shape[1] != self.means.shape[1]:
            raise ValueError(
                f"X must have the {self.means.shape[1]} features of the kept mixture, got "
                f"{X.shape[1]}. Call reset() to start anew."
            )
        return X, arrays.sample_weights(sample_weight, X)

    def _first(self, X, sample_weight) -> GaussianMixtureParams:
        """A start made from a batch by ``init_params``."""
        a = None if sample_weight is None else sample_weight.detach()
        start = clone(self.estimator).set_params(max_iter=0)
        with warnings.catch_warnings():
            # the scale of an untrained model's outputs is not that of later batches
            warnings.filterwarnings("ignore", "reg_covar must be small", UserWarning)
            start.fit(X.detach(), sample_weight=a)
        return start._params(dtype=torch.float64)

    def _fit(self, theta0, X, sample_weight) -> Solution:
        """Run EM from a start with the layer's options."""
        options = {name: getattr(self.estimator, name) for name in FIT_OPTIONS}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solution = fit_em(theta0.to(device=X.device), X, sample_weight, **options)
        for warning in caught:
            self._warn(warning)
        return solution

    def _warn(self, caught) -> None:
        """Pass a warning on, those of inexact gradients only once until the layer is reset."""
        if not issubclass(caught.category, InexactGradientWarning):
            warnings.warn_explicit(caught.message, caught.category, caught.filename, caught.lineno)
        elif not self._warned:
            self._warned = True
            warnings.warn(
                f"{caught.message} To train in many small steps, set gradient='one_step' and "
                "max_iter=1 instead. Later batches are not warned of until reset().",
                InexactGradientWarning,
                stacklevel=6,
            )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
        """Allocate buffers for a saved mixture; discard the kept one if none was saved."""
        saved = [state_dict.get(prefix + name) for name in GaussianMixtureParams._fields]
        # metadata tells a module that was saved without a mixture from one that was not saved
        if local_metadata and self._given is None and all(t is None for t in saved):
            self.reset()
        if self.mixture is None and all(t is not None for t in saved):
            difference = self._difference(saved)
            if difference:
                others[-1].append(f"the saved state {difference}")  # torch raises them together
                return
            self.weights, self.means, self.covariances = (torch.empty_like(t) for t in saved)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


def _is_stuck(theta: GaussianMixtureParams) -> bool:
    """Whether a component has no samples or two components are equal, which EM does not change."""
    K = len(theta.weights)
    if K == 1 or (theta.weights < MIN_WEIGHT).any():
        return K > 1
    scale = theta.covariances.abs().mean().sqrt() + theta.means.std()
    covariances = theta.covariances.flatten(1).expand(K, -1)
    numbers = torch.cat([theta.means / scale, covariances / scale**2], dim=1)
    return bool(torch.pdist(numbers).min() < MIN_DIFFERENCE)


#: What to do where the number of components is none.
