"""How samples are moved by the maps of a plan: to the mean of their images, or to a random one."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch

from skgmmot.numerics import blocks
from skgmmot.transport.mixtures.maps import MixtureMap, mean_map, random_map


class Strategy(NamedTuple):
    """A map from samples to images, mean or random, and what it needs."""

    move: Callable
    """``(maps, X, uniforms) -> images``."""
    row_size: Callable
    """Numbers that a sample takes in a block, of the maps."""
    n_uniforms: int
    """How many uniform random numbers a sample takes; for none there is no argument."""

    def images(self, mapping: MixtureMap, X: torch.Tensor, seed, first_row: int = 0):
        """The images of samples, of which the first is this row of all; block by block."""
        others: list[Any] = []
        if self.n_uniforms:
            others.append(Uniforms(seed, self.n_uniforms, first_row, X.device))
        return blocks.map_rows(
            lambda *block: self.move(mapping, *block),
            self.row_size(mapping),
            X,
            *others,
            min_rows=mapping.e_step.min_rows,
        )


STRATEGIES = {
    "mean": Strategy(mean_map, attrgetter("mean_row_size"), 0),
    "random": Strategy(random_map, attrgetter("row_size"), 2),
}


class Uniforms:
    """Uniform random numbers for each row, drawn where they are needed: row i is the same."""

    def __init__(self, seed, per_row, first_row, device):
        self.seed, self.per_row, self.first_row, self.device = seed, per_row, first_row, device

    def __getitem__(self, rows: slice) -> torch.Tensor:
        start = self.first_row + (rows.start or 0)
        stream = np.random.PCG64(self.seed).advance(self.per_row * start)
        drawn = np.random.Generator(stream).random((rows.stop - (rows.start or 0), self.per_row))
        return torch.from_numpy(drawn).to(self.device)
