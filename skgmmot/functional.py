"""The library for torch users: functions of tensors, and of mixtures of tensors.

Import it as ``import skgmmot.functional as F``. Its names are from the packages below; nothing is
defined here, nothing is validated beyond what each function says, and covariances are in the
storage of their type. Squares of sizes must be numbers of float64: sizes within 1e-70 to 1e70 are
safe, if widths are within a factor of 1e100. The estimators rescale what is beyond.
"""

from skgmmot.fitting.em.coordinate_descent import mixture_step, plan_objective, plan_step
from skgmmot.fitting.em.entropic import entropic_ot_objective
from skgmmot.fitting.em.fit import fit_em
from skgmmot.fitting.em.gradient.information import parameter_covariance
from skgmmot.fitting.em.prior import Prior
from skgmmot.fitting.em.step import em_step
from skgmmot.fitting.em.warm_start import WarmStart
from skgmmot.fitting.semidiscrete import fit_to_points
from skgmmot.fitting.sliced import SlicedObjective, fit_sliced
from skgmmot.gaussian.bures.barycenter import gaussian_barycenter
from skgmmot.gaussian.bures.gaussians import bures_wasserstein_squared
from skgmmot.gaussian.conditional import condition, marginal
from skgmmot.gaussian.log_density import log_density, log_responsibilities, responsibilities
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.sampling import rsample, sample
from skgmmot.gaussian.torch_distributions import from_torch, to_torch
from skgmmot.numerics.adjoint import Adjoint, InexactGradientWarning, implicit
from skgmmot.numerics.fixed_point import Solution, iterate
from skgmmot.numerics.krylov import neumann
from skgmmot.numerics.newton.linearisation import spectral_radius
from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.mixtures.barycenter import exact_barycenter
from skgmmot.transport.mixtures.barycenter_fixed_point import reduce
from skgmmot.transport.mixtures.distance import cost_matrix, debiased_cost, transport_plan
from skgmmot.transport.mixtures.flow import mixture_flow
from skgmmot.transport.mixtures.geodesic import interpolate
from skgmmot.transport.mixtures.maps import mean_map, mixture_map, random_map
from skgmmot.transport.mixtures.pairwise import pairwise_squared
from skgmmot.transport.semidiscrete.grid import GridDensity
from skgmmot.transport.semidiscrete.nodes import nodes_plan
from skgmmot.transport.semidiscrete.plan import SemidiscretePlan, exact_plan, nearest_plan
from skgmmot.transport.sliced.directions import directions
from skgmmot.transport.sliced.distance import sliced_wasserstein, sliced_wasserstein_between
from skgmmot.transport.sliced.samples import sliced_wasserstein_of_samples

__all__ = [
    "Adjoint",
    "GaussianMixtureParams",
    "GridDensity",
    "InexactGradientWarning",
    "Plan",
    "Prior",
    "SemidiscretePlan",
    "SlicedObjective",
    "Solution",
    "WarmStart",
    "bures_wasserstein_squared",
    "condition",
    "cost_matrix",
    "debiased_cost",
    "directions",
    "em_step",
    "entropic_ot_objective",
    "exact_barycenter",
    "exact_plan",
    "fit_em",
    "fit_sliced",
    "fit_to_points",
    "from_torch",
    "gaussian_barycenter",
    "implicit",
    "interpolate",
    "iterate",
    "log_density",
    "log_responsibilities",
    "marginal",
    "mean_map",
    "mixture_flow",
    "mixture_map",
    "mixture_step",
    "nearest_plan",
    "neumann",
    "nodes_plan",
    "pairwise_squared",
    "parameter_covariance",
    "plan_objective",
    "plan_step",
    "random_map",
    "reduce",
    "responsibilities",
    "rsample",
    "sample",
    "sliced_wasserstein",
    "sliced_wasserstein_between",
    "sliced_wasserstein_of_samples",
    "spectral_radius",
    "to_torch",
    "transport_plan",
]
