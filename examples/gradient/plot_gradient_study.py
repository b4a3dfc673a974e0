"""
How exact is the gradient of a fit?
===================================

The derivative of a fit in its samples can be taken in three ways: *automatic* runs through all
iterations of EM, *one step* through the last one only, and *implicit* differentiates the equation
``theta = F(theta)`` that the end of the iterations solves. Here the loss is ``MW2^2`` between the
fit to three clouds in three dimensions and a fixed mixture, and *automatic* is the reference:
how far from it are the other two, and what does that depend on?
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_blobs
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture
from skgmmot.functional import GaussianMixtureParams, fit_em, transport_plan

N_REPEATS = 12
warnings.simplefilter("ignore")  # `fit_em` says that few iterations leave a gradient inexact

# %%
# One data set: fit it from a k-means start with ``T`` iterations, and differentiate in three ways.
# ``max_polish=0`` keeps *implicit* from doing more iterations than the others, as it would by
# itself.


def mixture_of(estimator):
    """The parameters of a fitted estimator."""
    fitted = (estimator.weights_, estimator.means_, estimator.covariances_)
    return GaussianMixtureParams(*map(torch.as_tensor, fitted))


def errors(n_samples, n_iter, seed):
    """Residual, spectral radius, and squared relative errors of one step and implicit."""
    samples, _ = make_blobs(n_samples, 3, centers=3, center_box=(-5, 5), random_state=seed)
    other, _ = make_blobs(500, 3, centers=3, center_box=(-5, 5), random_state=seed + 1000)
    target = mixture_of(DifferentiableGaussianMixture(3, random_state=0).fit(other))
    start = DifferentiableGaussianMixture(3, max_iter=0, random_state=0).fit(samples)
    X = torch.tensor(samples, requires_grad=True)
    gradients = {}
    for gradient in ("automatic", "one_step", "implicit"):
        options = {"gradient": gradient, "max_iter": n_iter, "tol": 0.0, "max_polish": 0}
        solution = fit_em(mixture_of(start), X, **options)
        loss = transport_plan(solution.value, target).cost
        (gradients[gradient],) = torch.autograd.grad(loss, X)
    reference = gradients["automatic"]
    squared = [
        float((gradients[name] - reference).square().sum() / reference.square().sum())
        for name in ("one_step", "implicit")
    ]
    return solution.residual, solution.adjoint.spectral_radius, *squared


# %%
# Against the number of iterations with 200 samples, and against the number of samples with 30
# iterations: medians over data sets, and the middle half of them.
#
# The squared error of *implicit* falls like the square of the residual, until both are rounding:
# with 30 iterations and 200 samples or more its median is below 1e-26. That of *one step* stays
# where it is, between 1e-3 and 1e-2: more iterations do not help it, since its bias is the rate at
# which EM converges, the spectral radius. The paper reports the same two behaviours, with larger
# errors of *one step* on its random mixtures, between 1e-2 and 1e-1. The wide bands are data sets
# whose clouds overlap: there EM converges slowly, 30 iterations do not reach the fixed point, and
# *implicit* is as far off as EM is. That is why it is polished by default.

sizes = [100, 200, 500, 1000, 2000]
counts = [2, 5, 10, 20, 30, 40]
seeds = range(N_REPEATS)
by_count = np.array([[errors(200, T, s) for s in seeds] for T in tqdm(counts, desc="iterations")])
by_size = np.array([[errors(n, 30, s) for s in seeds] for n in tqdm(sizes, desc="samples")])

names = ["residual $|F(\\theta) - \\theta|$", "spectral radius of $dF/d\\theta$"]
names += ["relative MSE of one step", "relative MSE of implicit"]
figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", sharey=True)
panels = [
    ("iterations (200 samples)", counts, by_count),
    ("samples (30 iterations)", sizes, by_size),
]
for ax, (label, x, found) in zip(axes, panels, strict=True):
    for name, column in zip(names, np.moveaxis(found, -1, 0), strict=True):
        low, middle, high = np.quantile(column, [0.25, 0.5, 0.75], axis=1)
        (line,) = ax.plot(x, middle, marker="o", label=name)
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.12)
    ax.set(xlabel=label, yscale="log", ylim=(1e-32, 10))
axes[1].set_xscale("log")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
figure.savefig("gradient_study.png", dpi=110)
