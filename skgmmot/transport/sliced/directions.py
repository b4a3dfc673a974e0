"""Directions of slices: random, evenly spread, or optimised for the max-sliced distance."""

import math

import torch
from torch import Tensor

from skgmmot.numerics.counts import positive_integer
from skgmmot.numerics.fixed_point import named


def _random(n_directions, n_features, generator):
    """Independent uniform directions, not normalised."""
    return torch.randn(n_directions, n_features, dtype=torch.float64, generator=generator)


def _orthogonal(n_directions, n_features, generator):
    """Uniform directions that are orthonormal in groups of ``n_features``."""
    n_groups = math.ceil(n_directions / n_features)
    frames = _random(n_groups * n_features, n_features, generator)
    Q, R = torch.linalg.qr(frames.view(n_groups, n_features, n_features))
    signs = R.diagonal(dim1=-2, dim2=-1).sign()  # without these signs Q would not be uniform
    return (Q * signs.unsqueeze(-2)).mT.flatten(0, 1)[:n_directions]


def _quasi(n_directions, n_features, generator):
    """Evenly spread directions: equal angles in the plane, else a scrambled Sobol sequence."""
    if n_features == 2:
        start = torch.rand(1, dtype=torch.float64, generator=generator)
        # theta and -theta give the same slice: half a turn is enough
        angles = math.pi * (torch.arange(n_directions) + start) / n_directions
        return torch.stack([angles.cos(), angles.sin()], dim=1)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    sobol = torch.quasirandom.SobolEngine(n_features, scramble=True, seed=seed)
    uniform = sobol.draw(n_directions, dtype=torch.float64)
    tiny = 2.0**-32
    return torch.special.ndtri(uniform.clamp(tiny, 1 - tiny))


#: Ways to choose directions, by name.
DIRECTIONS = {"random": _random, "orthogonal": _orthogonal, "quasi": _quasi}


def directions(
    name: str, n_directions: int, n_features: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Generate unit vectors to slice along.

    Parameters
    ----------
    name : {'random', 'orthogonal', 'quasi'}
        Independent and uniform; orthogonal in groups of ``n_features``; or spread evenly, by equal
        angles in the plane and by a Sobol sequence mapped to the sphere in more dimensions.
    n_directions : int
        Number of directions L. In one dimension there is only one, and one is returned.
    n_features : int
        Number of features d.
    generator : torch.Generator, default=None
        Source of random numbers, on the CPU; None is torch's own.

    Returns
    -------
    Tensor of shape (L, d)
        Unit vectors, float64, on the CPU.

    Raises
    ------
    ValueError
        If there is no such name, or a number is no positive integer.

    Notes
    -----
    With each of them the mean over directions is an unbiased estimate of the integral over the
    sphere. The variance is largest for 'random' and smallest for 'quasi'.
    """
    draw = named("name", name, DIRECTIONS)
    n_directions = positive_integer("n_directions", n_directions)
    n_features = positive_integer("n_features", n_features)
    if n_features == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    return torch.nn.functional.normalize(draw(n_directions, n_features, generator))


def ascend(cost, theta: Tensor, *, n_steps: int = 30) -> tuple[Tensor, Tensor]:
    """Maximise a cost over directions by gradient ascent on the sphere, for max-sliced distances.

    All directions take steps at once. A step that lowers the cost of its direction is undone and
    its length halved; the other lengths grow by half.

    Parameters
    ----------
    cost : callable
        ``theta (L, d) -> (L,)``, such as `sliced_wasserstein` of two given sides.
    theta : Tensor of shape (L, d)
        Initial directions.
    n_steps : int, default=30
        Number of evaluations with gradients.

    Returns
    -------
    theta : Tensor of shape (L, d)
        Unit directions, constants.
    costs : Tensor of shape (L,)
        Their costs, each at least that of its initial direction; constants.
    """

    def at(point):
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            costs = cost(point)
            (gradient,) = torch.autograd.grad(costs.sum(), point)
        point = point.detach()
        tangent = gradient - (gradient * point).sum(1, keepdim=True) * point
        return costs.detach(), torch.nn.functional.normalize(tangent)

    theta, angle = theta.detach(), theta.new_full((len(theta), 1), 0.5)
    best, uphill = at(theta)
    for _ in range(n_steps):
        trial = angle.cos() * theta + angle.sin() * uphill  # along the great circle
        trial = torch.nn.functional.normalize(trial)
        costs, slopes = at(trial)
        better = costs > best
        best = torch.where(better, costs, best)
        theta, uphill = (
            torch.where(better.unsqueeze(1), new, old)
            for new, old in ((trial, theta), (slopes, uphill))
        )
        angle = angle * torch.where(better.unsqueeze(1), 1.5, 0.5)
    return theta, best
