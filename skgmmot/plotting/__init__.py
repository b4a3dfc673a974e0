"""Displays of mixtures, transport plans and maps, fits and searches, with matplotlib."""

from skgmmot.plotting._criterion import CriterionDisplay
from skgmmot.plotting._fit_trace import FitTraceDisplay
from skgmmot.plotting._mixture import GaussianMixtureDisplay
from skgmmot.plotting._transport_map import TransportMapDisplay
from skgmmot.plotting._transport_plan import TransportPlanDisplay

__all__ = [
    "CriterionDisplay",
    "FitTraceDisplay",
    "GaussianMixtureDisplay",
    "TransportMapDisplay",
    "TransportPlanDisplay",
]
