"""Mixtures in torch models: a layer that fits one to each batch, and MW2 as a loss.

The modules keep the last fit and start the next one there, so that a training loop pays for a few
iterations a step. What they keep is in buffers: saved by ``state_dict``, moved by ``to``, and
left alone in evaluation mode.
"""

import warnings
from collections.abc import Sequence

import torch
from sklearn.base import clone
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import as_mixture, is_mixture
from skgmmot.estimators.differentiable import DifferentiableGaussianMixture
from skgmmot.fitting.em.fit import fit_em
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.linalg import safe_sqrt
from skgmmot.transport.mixtures.distance import transport_plan

#: Parameters of the estimator that are options of `fit_em`.
FIT_OPTIONS = ("gradient", "gradient_tol", "tol", "max_iter", "reg_covar", "fixed_weights")
#: How samples given as a target are fitted, however few iterations a batch gets.
TO_THE_END = {"tol": 1e-6, "max_iter": 1000}
#: A component of smaller weight has no samples, and two that are nearer are one: for ever, by EM.
NO_WEIGHT, NO_DISTANCE = 1e-10, 1e-5


class EMLayer(torch.nn.Module):
    """A Gaussian mixture fitted to each batch by EM, differentiable in the batch.

    In training, a fit starts from the mixture of the last batch and its end is kept for the next;
    in evaluation, it starts there too and is forgotten. The first batch finds its own start.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        What the components' covariances may be.
    gradient : {'implicit', 'automatic', 'one_step', 'natural'}, default='implicit'
        How a fit is differentiated: by the implicit function theorem, through all its iterations,
        or through the last one; 'natural' is no derivative, but the movement of a batch for a flow
        with ``fixed_weights``.
    gradient_tol : float, default=1e-6
        For ``gradient='implicit'`` and 'natural', where a gradient is asked for: how near the fit
        is brought to the fixed point, in units of the components' spread, before it is
        differentiated.
    tol : float, default=1e-6
        EM stops when the mean log-likelihood changes by less than this in one iteration.
    max_iter : int, default=100
        Largest number of iterations a batch. With 1 and ``gradient='one_step'``, a training loop
        is the warm-start flow: one iteration a step, its start a constant.
    reg_covar : float, default=1e-6
        Added to the variances, in squared units of the batch.
    fixed_weights : bool, default=False
        Whether the weights stay those of the start: uniform, or given by ``init_params``.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, fitted mixture estimator \
or tuple (weights, means, covariances), default='kmeans'
        How the first batch starts: by samples of its own, or from a mixture.
    random_state : int, RandomState instance or None, default=None
        Controls the first start.

    Attributes
    ----------
    weights : Tensor of shape (n_components,)
        Buffer: weights of the mixture that the next fit starts from; None before the first.
    means : Tensor of shape (n_components, d)
        Buffer: its means.
    covariances : Tensor
        Buffer: its covariances, in the storage of their type.
    n_batches : int
        Batches seen since the layer was made or reset.
    solution : Solution
        How the last fit went, as constants: ``converged``, ``n_iter`` and more; None before.

    See Also
    --------
    MixtureWassersteinLoss : The distance of the fit to a target.
    skgmmot.functional.WarmStart : The same, outside torch's modules, for samples that move.

    Notes
    -----
    From a component without samples, as a batch far from the last one or a small one can leave it,
    EM does not come back; nor from two that have become equal, as happens where samples have fewer
    groups than there are components. A fit that starts at the kept mixture and ends like that is
    thrown away, and the batch finds its own start. With ``fixed_weights`` the first case does not
    show: call `reset` where samples jump.

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

    def __init__(
        self,
        n_components=1,
        *,
        covariance_type="full",
        gradient="implicit",
        gradient_tol=1e-6,
        tol=1e-6,
        max_iter=100,
        reg_covar=1e-6,
        fixed_weights=False,
        init_params="kmeans",
        random_state=None,
    ):
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
        )
        self.estimator._validate_params()
        if max_iter < 1:
            raise ValueError(
                f"max_iter must be at least 1, got {max_iter}. A layer fits something."
            )
        self._given = None if named else self._as_start(init_params)
        for name in GaussianMixtureParams._fields:
            self.register_buffer(name, None)
        self.reset()

    @property
    def mixture(self) -> GaussianMixtureParams | None:
        """Where the next fit starts; None if the next batch is to find its own start."""
        if self.means is None:
            return None
        covariance_type = self.estimator._covariance().reduced(*self.means.shape)
        return GaussianMixtureParams(self.weights, self.means, self.covariances, covariance_type)

    def reset(self) -> None:
        """Forget the kept mixture: the next fit starts as the first did."""
        self.solution, self.n_batches = None, 0
        given = self._given or (None, None, None)
        self.weights, self.means, self.covariances = (t if t is None else t.clone() for t in given)

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
            The fit, in the dtype of ``X``, on the graph of ``X`` and ``sample_weight``.

        Raises
        ------
        TypeError
            If ``X`` is not a tensor of real numbers.
        ValueError
            If ``X`` or ``sample_weight`` is invalid, or a covariance collapses; the kept mixture is
            then left as it was. The message says at which batch, and how large the samples were.
        """
        self.n_batches += 1
        try:
            X, a = self._checked(X, sample_weight)
            solution = self._fit(self.mixture or self._first(X, a), X, a)
            if self.mixture is not None and _is_stuck(solution.value.detach()):
                solution = self._fit(self._first(X, a), X, a)
        except ValueError as error:
            raise ValueError(f"{error} {self._circumstances(X)}") from error
        kept = solution.value.detach()
        self.solution = solution._replace(value=kept, previous=solution.previous.detach())
        if self.training:
            # copies: a state loaded later is written into the buffers
            self.weights, self.means, self.covariances = (t.clone() for t in kept)
        return solution.value

    def _circumstances(self, X) -> str:
        """Which batch it was, and how large its samples were beside what came before."""
        said = f"This was batch {self.n_batches} since the layer was reset"
        if isinstance(X, Tensor) and X.numel():
            said += f", of samples up to {float(X.detach().abs().max()):.3g} in size"
        if self.mixture is not None:
            reach = self.mixture.covariances.abs().max().sqrt() + self.mixture.means.abs().max()
            said += f"; the mixture of the last one reached to about {float(reach):.3g}"
        return f"{said}. If samples grow or collapse in training, lower the learning rate."

    def extra_repr(self) -> str:
        """What torch shows inside the brackets."""
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
        """In what weights, means and covariances are not a mixture of this layer's; or nothing."""
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
        """A batch that the layer can fit."""
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
        """The start that the first batch finds."""
        a = None if sample_weight is None else sample_weight.detach()
        start = clone(self.estimator).set_params(max_iter=0)
        with warnings.catch_warnings():
            # what a model gives before it has learned says nothing of the units to come
            warnings.filterwarnings("ignore", "reg_covar must be small", UserWarning)
            start.fit(X.detach(), sample_weight=a)
        return start._params(dtype=torch.float64)

    def _fit(self, theta0, X, sample_weight) -> Solution:
        """EM from a start, by the layer's options."""
        options = {name: getattr(self.estimator, name) for name in FIT_OPTIONS}
        return fit_em(theta0.to(device=X.device), X, sample_weight, **options)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
        """Make room for a saved mixture, which torch then copies in; forget one if none was."""
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


class MixtureWassersteinLoss(torch.nn.Module):
    """The mixture Wasserstein distance of batches to a target: EM, then MW2.

    ``min_P sum_kl P_kl W2(N(m_k, S_k), N(m_l, S_l))^2`` between the mixture that `EMLayer` fits to
    the batch and the target's.

    Parameters
    ----------
    target : fitted mixture estimator, tuple (weights, means, covariances), or array-like \
of shape (n, d)
        The target, a constant: a mixture of any size and covariance type, or samples, to which a
        mixture of the same kind as the batches' is fitted once, to convergence.
    n_components : int, default=None
        Number of components fitted to the batches; None is that of the target mixture.
    reg : float, default=0.0
        Weight of the entropy of the plan; 0 is without.
    reg_m : float, tuple of two floats or None, default=None
        Penalties ``(lam0, lam1)`` of the plan's marginals, the batch's and the target's, in squared
        units of the samples: about the cost above which mass is not moved. One number is both;
        ``math.inf`` holds a marginal, None holds both.
    squared : bool, default=True
        Whether to return ``MW2^2``, penalties included, or its root.
    **options : dict
        Options of `EMLayer`: ``covariance_type``, ``gradient``, ``gradient_tol``, ``tol``,
        ``max_iter``, ``reg_covar``, ``fixed_weights``, ``init_params`` and ``random_state``.

    Attributes
    ----------
    em : EMLayer
        What fits the batches, and keeps its mixture from call to call.
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
    differentiable. A batch of n samples costs a few EM iterations, ``O(n K d^2)`` each, and
    ``O(K L d^3)``.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025, MW2 as a loss.
    .. [2] Delon and Desolneux 2020, definition of MW2.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.nn import MixtureWassersteinLoss
    >>> target = ([0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [1.0, 1.0], "spherical")
    >>> loss = MixtureWassersteinLoss(target, fixed_weights=True, random_state=0)
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

    def __init__(self, target, n_components=None, *, reg=0.0, reg_m=None, squared=True, **options):
        super().__init__()
        self.reg, self.reg_m, self.squared = reg, reg_m, squared
        if n_components is None:
            n_components = _n_components_of(target)
        self.em = EMLayer(n_components, **options)
        if not is_mixture(target):
            target = clone(self.em.estimator).set_params(**TO_THE_END).fit(target)
        params, _ = as_mixture(target, "target")
        transport_plan(
            params, params, reg=reg, reg_m=reg_m
        )  # refuses wrong penalties, here and now
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
            The loss, on the graph of ``X`` and ``sample_weight``.

        Raises
        ------
        TypeError
            As `EMLayer`.
        ValueError
            As `EMLayer`; or if the batch has other features than the target, or a penalty is not a
            number that it can be.
        """
        shape, d = getattr(X, "shape", ()), self.target_means.shape[1]
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
        return (cost if self.squared else safe_sqrt(cost)).to(mixture.means.dtype)

    def extra_repr(self) -> str:
        """What torch shows inside the brackets."""
        return f"reg={self.reg}, reg_m={self.reg_m}, squared={self.squared}"


def _is_stuck(theta: GaussianMixtureParams) -> bool:
    """Whether EM cannot use all components: one has no samples, or two are equal."""
    K = len(theta.weights)
    if K == 1 or (theta.weights < NO_WEIGHT).any():
        return K > 1
    scale = theta.covariances.abs().mean().sqrt() + theta.means.std()
    covariances = theta.covariances.flatten(1).expand(K, -1)
    numbers = torch.cat([theta.means / scale, covariances / scale**2], dim=1)
    return bool(torch.pdist(numbers).min() < NO_DISTANCE)


def _n_components_of(target) -> int:
    """The number of components of a target that is a mixture."""
    if not is_mixture(target):
        raise ValueError(
            "n_components must be given where the target holds samples, got None. Pass the number "
            "of components to fit to them."
        )
    return len(as_mixture(target, "target")[0].weights)
