"""Transport distances between mixtures, samples and densities, and scorers for model selection."""

from skgmmot.metrics._gaussian import bures_wasserstein_distance, frechet_distance
from skgmmot.metrics._interval import mixture_wasserstein_interval
from skgmmot.metrics._mixture import (
    MixtureWasserstein,
    mixture_wasserstein_distance,
    pairwise_mixture_wasserstein,
)
from skgmmot.metrics._scorers import (
    SCORERS,
    aic_scorer,
    bic_scorer,
    get_scorer,
    make_mixture_wasserstein_scorer,
    mixture_wasserstein_scorer,
    sliced_wasserstein_scorer,
)
from skgmmot.metrics._semidiscrete import semidiscrete_distance, semidiscrete_plan
from skgmmot.metrics._sliced import sliced_mixture_wasserstein, sliced_wasserstein_distance
from skgmmot.metrics._stability import stability_bounds

__all__ = [
    "SCORERS",
    "MixtureFrechetDistance",
    "MixtureWasserstein",
    "aic_scorer",
    "bic_scorer",
    "bures_wasserstein_distance",
    "frechet_distance",
    "get_scorer",
    "make_mixture_wasserstein_scorer",
    "mixture_wasserstein_distance",
    "mixture_wasserstein_interval",
    "mixture_wasserstein_scorer",
    "pairwise_mixture_wasserstein",
    "semidiscrete_distance",
    "semidiscrete_plan",
    "sliced_mixture_wasserstein",
    "sliced_wasserstein_distance",
    "sliced_wasserstein_scorer",
    "stability_bounds",
]


def __getattr__(name):
    # torchmetrics takes seconds to load: only who wants its kind of metric waits for it
    if name != "MixtureFrechetDistance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from skgmmot.metrics._mixture_frechet import MixtureFrechetDistance

    globals()[name] = MixtureFrechetDistance
    return MixtureFrechetDistance
