"""Random mixtures and samples, and the similarities ``x -> c Q x + t`` of the space they are in."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

from skgmmot.gaussian.mixture import GaussianMixtureParams, select

ELEMENTARY = ["full", "tied", "diag", "spherical"]
TYPES = [*ELEMENTARY, "lowrank"]
SEEDS = st.integers(0, 2**32 - 1)


def generator(seed: int) -> torch.Generator:
    """A source of random numbers."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, of: torch.Generator) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=of)


def random_mixture(name: str, K: int, d: int, of: torch.Generator) -> GaussianMixtureParams:
    """A mixture of spread about one whose axes differ up to thirtyfold."""
    weights = normal(K, of=of).softmax(0)
    means = 2 * normal(K, d, of=of)
    turns = torch.linalg.qr(normal(K, d, d, of=of))[0]
    roots = (0.8 * normal(K, d, of=of)).exp().clamp(0.1, 3)
    full = (turns * roots.square().unsqueeze(1)) @ turns.mT
    storage = {
        "full": full,
        "tied": full[:1],
        "diag": roots.square(),
        "spherical": roots[:, :1].square(),
        "lowrank": torch.stack([normal(K, d, of=of), roots.square()], -1),
    }
    return GaussianMixtureParams(weights, means, storage[name], name)


def random_samples(n: int, K: int, d: int, of: torch.Generator) -> torch.Tensor:
    """Samples of K clouds that overlap a little, of full covariances, in random order."""
    labels = torch.randint(K, (n,), generator=of)
    means, shapes = 4 * normal(K, d, of=of), normal(K, d, d, of=of)
    noise = 0.3 * normal(n, d, of=of)
    return means[labels] + (normal(n, 1, d, of=of) @ shapes[labels]).squeeze(1) + noise


class Similarity(NamedTuple):
    """``x -> scale * turn @ x + shift``."""

    scale: float
    turn: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def random(cls, d: int, of: torch.Generator, *, scale=1.0, offset=0.0, axes=False):
        """One of a scale and an offset, in units of what it moves; ``axes``: axes become axes."""
        turn = torch.linalg.qr(normal(d, d, of=of))[0]
        if axes:
            signs = normal(d, of=of).sign()
            turn = torch.diag(signs)[torch.randperm(d, generator=of)]
        away = normal(d, of=of)
        return cls(scale, turn, scale * offset * away / away.norm())

    def points(self, X: torch.Tensor) -> torch.Tensor:
        """Images of samples ``(..., d)``."""
        return self.scale * (X @ self.turn.mT) + self.shift

    def directions(self, X: torch.Tensor) -> torch.Tensor:
        """Images of differences of samples."""
        return self.scale * (X @ self.turn.mT)

    def mixture(self, mu: GaussianMixtureParams) -> GaussianMixtureParams:
        """The image of a mixture; of other types than full and tied if axes become axes."""
        return mu._replace(means=self.points(mu.means), covariances=self.covariances(mu))

    def covariances(self, mu: GaussianMixtureParams) -> torch.Tensor:
        """Images of covariances, in the storage of their type."""
        name, S, squares = mu.covariance_type.name, mu.covariances, self.turn.square()
        if name == "spherical":
            return self.scale**2 * S
        if name == "diag":
            return self.scale**2 * (S @ squares.mT)
        if name == "lowrank":
            F, psi = self.scale * (self.turn @ S[..., :-1]), self.scale**2 * (squares @ S[..., -1:])
            return torch.cat([F, psi], -1)
        return self.scale**2 * (self.turn @ S @ self.turn.mT)

    def back(self, X: torch.Tensor) -> torch.Tensor:
        """What samples are images of."""
        return (X - self.shift) @ self.turn / self.scale


def free_to_turn(*names: str) -> bool:
    """Whether the images of mixtures of these types under rotations are of these types."""
    return all(name in ("full", "tied", "spherical") for name in names)


def shuffled(mu: GaussianMixtureParams, of: torch.Generator) -> GaussianMixtureParams:
    """The components in another order."""
    return select(mu, torch.randperm(len(mu.weights), generator=of))


def assert_near(found, expected, tol: float, size: float = 1.0) -> None:
    """All numbers agree to a share of a size, and are finite."""
    found, expected = (
        t.detach().numpy() if isinstance(t, torch.Tensor) else t for t in (found, expected)
    )
    error = np.abs(np.subtract(found, expected, dtype=np.float64)).max() / size
    assert error <= tol, f"{error:.2e} > {tol:.0e}"  # NaN is no less than anything
