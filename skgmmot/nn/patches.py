"""The patches of pictures, at several scales, as samples of a loss."""

import functools
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, unfold

from skgmmot._inputs.arrays import as_tensor
from skgmmot._types import Array
from skgmmot.nn.loss import MixtureWassersteinLoss
from skgmmot.numerics.counts import positive_integer

#: Options of the loss at each scale: one iteration of EM a step.
DEFAULTS: dict[str, Any] = {
    "n_components": 4,
    "reg_covar": 1e-4,
    "fixed_weights": True,
    "gradient": "one_step",
    "max_iter": 1,
}


class MultiscalePatchLoss(torch.nn.Module):
    r"""Distance between the patches of pictures and those of a target picture, at several scales.

    .. math::

        \sum_s \lambda_s \operatorname{MW}_2^2\bigl(F(\text{patches}(G(\text{shrink}_s(x)))),
        F(\text{patches}(G(\text{shrink}_s(y))))\bigr)

    with mixtures fitted to the patches of the picture x and of the target y, made smaller by the
    factor s. These may be patches of feature maps G, such as a layer of a convolutional network,
    and features F of patches may take their place. Textures are synthesised, and styles
    transferred, by descent along its gradient in x.

    Parameters
    ----------
    target : array-like or Tensor of shape (C, height, width)
        The target picture, of any number C of channels.
    scales : sequence of int, default=(1, 2, 4)
        Factors by which pictures are made smaller: means over squares of so many pixels.
    patch_size : int, default=4
        Height and width p of a patch, in pixels of the smaller pictures. All patches are taken.
    weights : sequence of float, default=None
        Weights of the scales; None is one each.
    features : callable, default=None
        ``F``: takes patches ``(n, C, p, p)`` and returns features ``(n, m)``, differentiably, for
        example a convolutional network. None takes the ``C p p`` numbers of a patch.
    feature_map : callable, default=None
        ``G``: takes pictures ``(1, C, h, w)`` and returns maps ``(1, m, h', w')``,
        differentiably, for example the first layers of a convolutional network. Patches are those
        of the map; with ``patch_size=1`` they are its values at each position. None takes the
        pictures themselves.
    **options : dict
        Options of `MixtureWassersteinLoss`, for each scale, ``reg_m`` and ``random_state`` for
        example. By default ``n_components=4, reg_covar=1e-4``, and one iteration of EM a step:
        ``fixed_weights=True, gradient="one_step", max_iter=1``.

    Attributes
    ----------
    losses : torch.nn.ModuleList
        A `MixtureWassersteinLoss` for each scale.

    Raises
    ------
    TypeError
        If an option is unknown, or features or feature maps are no function.
    ValueError
        If the target is not a picture of finite numbers, is too small for the patches at a
        scale, or scales, weights, or what features and feature maps return are invalid.

    See Also
    --------
    MixtureWassersteinLoss : The loss between samples of one kind.

    Notes
    -----
    Pictures may be of another size than the target. A step of a picture of N pixels costs a pass of
    EM over about N (1 + 1/4 + 1/16) patches.

    References
    ----------
    .. [1] Boite, Tanguy, Delon, Desolneux and Flamary 2025, texture synthesis and style transfer.

    Examples
    --------
    >>> import torch
    >>> from skgmmot.nn import MultiscalePatchLoss
    >>> texture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> loss = MultiscalePatchLoss(texture, scales=(1, 2), n_components=2, random_state=0)
    >>> picture = torch.rand(3, 20, 24, requires_grad=True)
    >>> loss(picture).backward()
    >>> picture.grad.shape
    torch.Size([3, 20, 24])
    """

    #: A `MixtureWassersteinLoss` for each scale.
    losses: Any

    def __init__(
        self,
        target: Array | Tensor,
        scales: Sequence[int] = (1, 2, 4),
        patch_size: int = 4,
        weights: Sequence[float] | None = None,
        *,
        features: Callable[..., Any] | None = None,
        feature_map: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.scales = _factors(scales)
        self.patch_size = positive_integer("patch_size", patch_size)
        self.weights = _scale_weights(weights, self.scales)
        self.features = _function("features", features)
        self.feature_map = _function("feature_map", feature_map)
        picture = self._checked(as_tensor(target).detach(), "target")
        options = DEFAULTS | options
        with torch.no_grad():
            samples = [self._samples(picture, factor) for factor in self.scales]
        self.losses = torch.nn.ModuleList(MixtureWassersteinLoss(X, **options) for X in samples)

    def forward(self, picture: Tensor) -> Tensor:
        """Compute the loss of a picture.

        Parameters
        ----------
        picture : Tensor of shape (C, height, width)
            The picture, of the target's channels.

        Returns
        -------
        Tensor of shape ()
            The loss, in squared units of the pixels or features.

        Raises
        ------
        ValueError
            If it is not such a picture, or too small for the patches at a scale.
        """
        values = zip(self.weights, self.by_scale(picture), strict=True)
        return functools.reduce(torch.add, (weight * value for weight, value in values))

    def by_scale(self, picture: Tensor) -> list[Tensor]:
        """Compute the losses of each scale, without their weights.

        Parameters
        ----------
        picture : Tensor of shape (C, height, width)
            The picture.

        Returns
        -------
        list of Tensor of shape ()
            One for each scale.
        """
        picture = self._checked(picture, "picture")
        pairs = zip(self.losses, self.scales, strict=True)
        return [loss(self._samples(picture, factor)) for loss, factor in pairs]

    def reset(self) -> None:
        """Discard the last fits: the next picture is fitted from new starts."""
        for loss in self.losses:
            loss.em.reset()

    def _samples(self, picture: Tensor, factor: int) -> Tensor:
        """Patches, or features of them, of a picture made smaller ``(n, m)``."""
        if self.feature_map is None:
            found = patches(picture, factor, self.patch_size)
        else:
            found = patches(self._mapped(picture, factor), 1, self.patch_size)
        if self.features is None:
            return found.flatten(1)
        found = self.features(found)
        if not isinstance(found, Tensor) or found.ndim != 2:
            shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"features must return a tensor of shape (n, m), got {shown}. Flatten what it "
                "returns, as by .flatten(1)."
            )
        return found

    def _mapped(self, picture: Tensor, factor: int) -> Tensor:
        """The feature map of a picture made smaller ``(m, h', w')``, no smaller than a patch."""
        found = self.feature_map(avg_pool2d(picture.unsqueeze(0), factor))
        if not isinstance(found, Tensor) or found.ndim != 4 or len(found) != 1:
            shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                "feature_map must return a tensor of shape (1, m, height, width), got "
                f"{shown}. Leave out layers that flatten or pool the whole picture."
            )
        if min(found.shape[2:]) < self.patch_size:
            raise ValueError(
                f"patch_size must be at most the rows and columns of feature_map, got "
                f"{self.patch_size} for maps of {tuple(found.shape[2:])} at scale {factor}. Use "
                "smaller patches or scales, or a larger picture."
            )
        return found[0]

    def _checked(self, picture: Tensor, name: str) -> Tensor:
        """A picture of floats, large enough for its patches."""
        if not isinstance(picture, Tensor) or picture.ndim != 3:
            shown = tuple(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__
            raise ValueError(
                f"{name} must be a tensor of shape (C, height, width), got {shown}. Use "
                "picture.permute(2, 0, 1) for channels that come last."
            )
        if name == "target":
            self.n_channels = len(picture)
        if len(picture) != self.n_channels:
            raise ValueError(
                f"picture must have the {self.n_channels} channels of the target, got "
                f"{len(picture)}. Channels come first: (C, height, width)."
            )
        size = self.patch_size if self.feature_map is None else 1
        least = max(self.scales) * size
        if min(picture.shape[1:]) < least:
            raise ValueError(
                f"{name} must have at least {least} rows and columns for patches of "
                f"{size} pixels at scale {max(self.scales)}, got "
                f"{tuple(picture.shape[1:])}. Use smaller scales or patches."
            )
        return as_tensor(picture)


def patches(picture: Tensor, factor: int, patch_size: int) -> Tensor:
    """Return all patches of a picture that was made smaller.

    Parameters
    ----------
    picture : Tensor of shape (C, height, width)
        The picture.
    factor : int
        Pixels of the smaller picture are means over squares of so many pixels.
    patch_size : int
        Height and width p of the patches.

    Returns
    -------
    Tensor of shape (n, C, p, p)
        The patches, row by row.
    """
    smaller = avg_pool2d(picture.unsqueeze(0), factor)
    columns = unfold(smaller, kernel_size=patch_size)[0]  # (C p p, n)
    return columns.mT.reshape(-1, len(picture), patch_size, patch_size)


def _function(name: str, function):
    """A function or module, or None, validated."""
    if function is not None and not callable(function):
        raise TypeError(
            f"{name} must be a function or a module of torch, got {type(function).__name__}. "
            "Leave it out to take the pixels."
        )
    return function


def _factors(scales) -> tuple[int, ...]:
    """The factors of the scales, validated."""
    if not isinstance(scales, Sequence | np.ndarray) or isinstance(scales, str) or not len(scales):
        raise ValueError(
            f"scales must be a sequence of positive integers, got {scales!r}. Pass for example "
            "(1, 2, 4)."
        )
    return tuple(positive_integer("a scale", factor) for factor in scales)


def _scale_weights(weights, scales) -> tuple[float, ...]:
    """One weight for each scale, validated."""
    if weights is None:
        return (1.0,) * len(scales)
    found: list = list(weights) if np.ndim(weights) == 1 else [None]
    usable = all(isinstance(w, Real) and 0 <= w < np.inf for w in found)
    if len(found) != len(scales) or not usable or not any(found):
        raise ValueError(
            f"weights must be one non-negative number for each of {len(scales)} scales, not all "
            f"zero, got {weights!r}. Leave them out for one each."
        )
    return tuple(map(float, found))
