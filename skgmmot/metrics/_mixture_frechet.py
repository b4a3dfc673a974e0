"""The Frechet distance between real and generated samples, or MW2, from batches of them."""

from contextlib import contextmanager

import torch
from torch import Tensor

from skgmmot._inputs import arrays
from skgmmot._inputs.mixtures import as_mixture, with_plain_matrices
from skgmmot.fitting.assigned import AssignedMoments
from skgmmot.gaussian.covariance.registry import FULL
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.metrics._torchmetrics import Metric
from skgmmot.numerics.counts import positive_integer
from skgmmot.transport.mixtures.distance import transport_plan
from skgmmot.transport.mixtures.few import squared_distance

__all__ = ["MixtureFrechetDistance"]


class MixtureFrechetDistance(Metric):
    r"""Frechet distance between real and generated samples, or MW2 between mixtures of them.

    Without a ``reference`` it is the squared 2-Wasserstein distance between the Gaussians of equal
    mean :math:`m` and covariance :math:`S` as the samples, which of features of the Inception
    network is known as FID:

    .. math::

        |m_0 - m_1|^2 + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr)

    With a ``reference``, a mixture of K components, it is :math:`MW_2^2` between two mixtures, one
    of the real and one of the generated samples. Each sample is shared among the K components by
    its responsibilities :math:`\gamma_k(x)` in the reference; the weight, mean and covariance of
    component k are those of the samples weighted by :math:`\gamma_k`. This is one iteration of EM,
    so that the mixture of the samples that the reference was fitted to is the reference. It finds
    differences that mean and covariance do not show, such as modes without samples. With full
    covariances it is at least the distance of K = 1 (but for the factor ``n / (n - 1)`` below).

    Parameters
    ----------
    reference : fitted mixture estimator or tuple (weights, means, covariances), default=None
        A mixture fitted to real features, the same in all processes. None is the Frechet distance.
    feature : callable, default=None
        Module or function that returns features ``(n, d)`` of what `update` is given, such as a
        batch of images. Modules are in evaluation mode while they are used. None: `update` is given
        features.
    reset_real_features : bool, default=True
        Whether `reset` also discards the real samples.
    n_features : int, default=None
        Number of features d. Needed only without a reference, and where a process of a distributed
        run may get no samples.
    **kwargs : dict
        Options of ``torchmetrics.Metric``, if torchmetrics is installed.

    Raises
    ------
    TypeError
        If ``reference`` is no mixture, or ``feature`` cannot be called.
    ValueError
        If ``reference`` is not valid.

    See Also
    --------
    frechet_distance : The distance, not squared, between two arrays of samples.
    mixture_wasserstein_distance : MW2 between mixtures that are fitted already.

    Notes
    -----
    Where torchmetrics is installed it is a ``torchmetrics.Metric``: `compute` adds the sums of all
    processes, ``merge_state`` those of two metrics, and a ``MetricCollection`` may hold it. Calling
    the metric is `update`, since a batch of one kind has no distance. Without torchmetrics it is a
    ``torch.nn.Module`` with the methods of this page.

    The state are sums in float64 over samples, centred at the means of the reference or the mean of
    the first batch, so that they keep their digits far from the origin. There may be fewer samples
    than features. Covariances are those of maximum likelihood times ``n / (n - 1)``, so that those
    of one Gaussian are unbiased. Like FID, the distance between finite samples of one distribution
    is positive; with K components about K times as many samples are needed for the same accuracy.

    The covariances are of the type of the reference. Full ones take ``2 K d^2`` numbers. For many
    features use ``covariance_type='diag'``, with ``2 K d`` numbers, or take fewer features, as by
    principal components. A reference of low rank is compared by full covariances.

    References
    ----------
    .. [1] Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter 2017, FID.
    .. [2] Delon and Desolneux 2020, MW2.

    Examples
    --------
    Eight modes on a ring, and every second of them; means and covariances are equal:

    >>> import torch
    >>> from skgmmot import DifferentiableGaussianMixture
    >>> from skgmmot.metrics import MixtureFrechetDistance
    >>> angles = torch.arange(8) * torch.pi / 4
    >>> modes = 4 * torch.stack([angles.cos(), angles.sin()], dim=1)
    >>> noise = torch.randn(200, 1, 2, generator=torch.Generator().manual_seed(0)) / 10
    >>> real, generated = (modes + noise).flatten(0, 1), (modes[::2] + noise).flatten(0, 1)
    >>> mixture = DifferentiableGaussianMixture(8, random_state=0).fit(real.numpy())
    >>> metrics = MixtureFrechetDistance(), MixtureFrechetDistance(mixture)
    >>> for metric in metrics:
    ...     metric.update(real, real=True)
    ...     metric.update(generated, real=False)
    >>> [round(metric.compute().item(), 2) for metric in metrics]
    [0.0, 4.69]

    The mixtures show which modes are missing:

    >>> metrics[1].mixtures()[1].weights.round(decimals=2).sort().values
    tensor([0.0000, 0.0000, 0.0000, 0.0000, 0.2500, 0.2500, 0.2500, 0.2500],
           dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    real_sums: Tensor
    generated_sums: Tensor

    def __init__(
        self, reference=None, *, feature=None, reset_real_features=True, n_features=None, **kwargs
    ):
        super().__init__(**kwargs)
        if feature is not None and not callable(feature):
            raise TypeError(
                f"feature must be a module or a function, got {type(feature).__name__}. Pass one "
                "that returns features of images, or None if update is given features."
            )
        if n_features is not None:
            positive_integer("n_features", n_features)
        self.feature = feature
        self.reset_real_features = reset_real_features
        self.moments = AssignedMoments(None if reference is None else _of_sums(reference))
        for name in ("real_sums", "generated_sums"):
            self.add_state(
                name, self.moments.nothing(n_features), dist_reduce_fx=self.moments.pooled
            )

    def update(self, features, real) -> None:
        """Add a batch of samples.

        Parameters
        ----------
        features : Tensor or array-like of shape (n, d)
            Features; where the metric has a ``feature``, what that is called with.
        real : bool
            Whether the samples are real ones; False if they are generated.

        Raises
        ------
        TypeError
            If ``real`` is not a bool.
        ValueError
            If features are not ``(n, d)``, not finite, or too far from the reference for its
            densities, or their number differs from those before.
        """
        if not isinstance(real, bool):
            raise TypeError(
                f"real must be True or False, got {real!r}. Call update once for real and once for "
                "generated samples."
            )
        name = "real_sums" if real else "generated_sums"
        with torch.no_grad():
            X = self._features(features)
            if len(X):
                self.moments = self.moments.on(X.device)
                sums = self.moments.added(getattr(self, name), X)
                if not torch.isfinite(sums).all():
                    raise ValueError(
                        "features must have a density within float64 under the reference, got "
                        f"ones of {float(X.abs().max()):.1e} so far from it that all densities "
                        "vanish. Rescale them as the reference is."
                    )
                setattr(self, name, sums)

    def forward(self, features, real) -> None:
        """Add a batch of samples, as `update`.

        Parameters
        ----------
        features : Tensor or array-like of shape (n, d)
            As for `update`.
        real : bool
            As for `update`.
        """
        self.update(features, real)

    def _features(self, given) -> Tensor:
        """Validated features ``(n, d)`` in float64."""
        if self.feature is not None:
            with _evaluating(self.feature):
                given = self.feature(given)
        X = arrays.as_tensor(given, dtype=torch.float64)
        if X.ndim != 2 or not X.shape[1]:
            advice = "Return" if self.feature is not None else "Pass feature= for images, or"
            raise ValueError(
                f"features must have shape (n, d), got {tuple(X.shape)}. {advice} one row a sample."
            )
        known = {self.moments.n_features(sums) for sums in (self.real_sums, self.generated_sums)}
        others = known - {None, X.shape[1]}
        if others:
            raise ValueError(
                f"features must have shape (n, {others.pop()}), got {tuple(X.shape)}. Compute them "
                "as those of the reference and of the batches before, or make a new metric."
            )
        if not torch.isfinite(X).all():
            raise ValueError("features must be finite, got NaN or infinity. Drop those samples.")
        if len(X):
            arrays.check_range(X, "features")
        return X

    def compute(self) -> Tensor:
        """Compute the distance between the real and the generated samples so far.

        Returns
        -------
        Tensor of shape ()
            The squared distance in squared units of the features, in float64; never negative.

        Raises
        ------
        RuntimeError
            If there are fewer than two samples of a kind.
        """
        pair = self.mixtures()
        parts, squared = [tuple(mixture) for mixture in pair], None
        if all(map(with_plain_matrices, parts)):
            squared = squared_distance(*parts)
        if squared is None:
            squared = transport_plan(*pair).cost
        return torch.as_tensor(squared).clamp(min=0.0)

    def mixtures(self) -> tuple[GaussianMixtureParams, GaussianMixtureParams]:
        """Return the mixtures that are compared: of the real and of the generated samples.

        Component k of each is that of the reference; its weight is the share of the samples that
        belong to it.

        Returns
        -------
        real, generated : GaussianMixtureParams
            The mixtures of the samples of this process.

        Raises
        ------
        RuntimeError
            If there are fewer than two samples of a kind.
        """
        sums = self.real_sums, self.generated_sums
        counts = [round(self.moments.n_samples(s)) for s in sums]
        if min(counts) < 2:
            raise RuntimeError(
                "MixtureFrechetDistance must have at least two samples of each kind, got "
                f"{counts[0]} real and {counts[1]} generated ones. Call update first, with "
                "real=True and with real=False."
            )
        real, generated = (self.moments.mixture(s) for s in sums)
        return real, generated

    def set_dtype(self, dst_type):
        """Leave the sums in float64, whatever torchmetrics is told.

        Parameters
        ----------
        dst_type : torch.dtype or str
            Ignored.

        Returns
        -------
        MixtureFrechetDistance
            Itself.
        """
        return self

    def reset(self) -> None:
        """Discard the samples; the real ones only with ``reset_real_features``."""
        kept = self.real_sums
        super().reset()
        if not self.reset_real_features:
            self.real_sums = kept


def _of_sums(reference) -> GaussianMixtureParams:
    """A mixture by whose components sums are taken, in elementary covariances."""
    params = as_mixture(reference, "reference")[0].detach().in_base()
    if params.covariance_type.elementary:
        return params
    return params._replace(covariances=params.full_covariances(), covariance_type=FULL)


@contextmanager
def _evaluating(feature):
    """Have a module in evaluation mode, and afterwards as it was."""
    modules = list(feature.modules()) if isinstance(feature, torch.nn.Module) else []
    modes = [module.training for module in modules]
    if modules:
        feature.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
