"""Starts of the barycentre fixed point: components spread over geodesics between the mixtures."""

from collections.abc import Sequence

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams, select
from skgmmot.transport.mixtures.distance import cost_matrix
from skgmmot.transport.mixtures.geodesic import interpolate

#: A mixture on the way is thinned to this many times ``n_components``, if it has more components.
MAX_CHAIN_FACTOR = 8


def chained_start(
    mixtures: Sequence[GaussianMixtureParams],
    weights: Tensor,
    n_components: int,
    generator: torch.Generator,
) -> GaussianMixtureParams:
    """Choose components of an approximate barycentre, made by interpolating mixture by mixture.

    In random order: the barycentre of the first two mixtures, then that of the result and the
    third, and so on. For two mixtures this is the exact barycentre.

    Parameters
    ----------
    mixtures : sequence of J GaussianMixtureParams
        The mixtures.
    weights : Tensor of shape (J,)
        Their weights ``lambda``.
    n_components : int
        How many to choose.
    generator : torch.Generator
        Source of random numbers, on the CPU.

    Returns
    -------
    GaussianMixtureParams
        ``n_components`` components.
    """
    order = torch.randperm(len(mixtures), generator=generator).tolist()
    chain, reached = mixtures[order[0]].detach(), float(weights[order[0]])
    for j in order[1:]:
        reached += float(weights[j])
        chain = interpolate(chain, mixtures[j], float(weights[j]) / reached)
        if len(chain.weights) > MAX_CHAIN_FACTOR * n_components:
            chain = spread_start(chain, MAX_CHAIN_FACTOR * n_components, generator)
    return spread_start(chain, n_components, generator)


def spread_start(
    mixture: GaussianMixtureParams, n_components: int, generator: torch.Generator
) -> GaussianMixtureParams:
    """Choose components of a mixture by k-means++ in the Wasserstein distance.

    Each is drawn with probability proportional to its weight and its squared distance from those
    chosen, and takes the weights of the components that it is nearest to. If ``n_components`` is
    larger than M, the heaviest components are split into equal copies.

    Parameters
    ----------
    mixture : GaussianMixtureParams
        Where to choose from, M components.
    n_components : int
        How many.
    generator : torch.Generator
        Source of random numbers, on the CPU.

    Returns
    -------
    GaussianMixtureParams
        ``n_components`` components.
    """
    if n_components >= len(mixture.weights):
        return _halved(mixture, n_components)
    w, C = mixture.weights.cpu(), cost_matrix(mixture, mixture).cpu()
    chosen, near = [], torch.ones_like(w)
    for _ in range(n_components):
        odds = (w * near).clamp(min=0)
        odds[chosen] = 0
        if not odds.sum() > 0:  # all the others are copies of those chosen
            odds = torch.ones_like(w)
            odds[chosen] = 0
        chosen.append(int(torch.multinomial(odds, 1, generator=generator)))
        near = C[chosen].amin(0)
    weights = torch.zeros(n_components, dtype=w.dtype).index_add_(0, C[chosen].argmin(0), w)
    return select(mixture, chosen)._replace(weights=weights.to(mixture.weights))


def _halved(mixture, n_components) -> GaussianMixtureParams:
    """The mixture with ``n_components`` components, the heaviest split into equal copies."""
    copies = torch.ones(len(mixture.weights), dtype=torch.long)
    w = mixture.weights.cpu()
    for _ in range(n_components - len(w)):
        copies[(w / copies).argmax()] += 1
    index = torch.arange(len(w)).repeat_interleave(copies).to(mixture.weights.device)
    found = select(mixture, index)
    return found._replace(weights=found.weights / copies.to(index.device)[index])
