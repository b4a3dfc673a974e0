"""Where barycentres start: on geodesics between the mixtures, at components that are far apart."""

from collections.abc import Sequence

import torch
from torch import Tensor

from skgmmot.gaussian.mixture import GaussianMixtureParams, select
from skgmmot.transport.mixtures.distance import cost_matrix, interpolate

#: A chain of more components than this many times those asked for is thinned on its way.
CROWDED = 8


def chained_start(
    mixtures: Sequence[GaussianMixtureParams],
    weights: Tensor,
    n_components: int,
    generator: torch.Generator,
) -> GaussianMixtureParams:
    """Go along geodesics from mixture to mixture, in random order, and choose components there.

    After j mixtures the chain is at a barycentre of the first two, then of that and the third, ...:
    the exact one for two mixtures, near it for more.

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
        if len(chain.weights) > CROWDED * n_components:
            chain = spread_start(chain, CROWDED * n_components, generator)
    return spread_start(chain, n_components, generator)


def spread_start(
    mixture: GaussianMixtureParams, n_components: int, generator: torch.Generator
) -> GaussianMixtureParams:
    """Choose components of a mixture that are far apart, as k-means++ does.

    Each is drawn with probability proportional to its weight and its squared distance from those
    chosen; it then takes the weights of those that it is nearest to. Where more are asked for than
    there are, the heaviest are halved.

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
    """As many components, the heaviest as two or more equal ones."""
    copies = torch.ones(len(mixture.weights), dtype=torch.long)
    w = mixture.weights.cpu()
    for _ in range(n_components - len(w)):
        copies[(w / copies).argmax()] += 1
    index = torch.arange(len(w)).repeat_interleave(copies).to(mixture.weights.device)
    found = select(mixture, index)
    return found._replace(weights=found.weights / copies.to(index.device)[index])
