"""The sliced fit: how often it ends near the best likelihood, and what one of its steps costs.

Three tables. *Starts*: mixtures of ten components fitted to ring-square-line data from a hundred
starts, and the share that ends within 0.01, 0.05 and 0.1 of the best negative log-likelihood per
sample that any run of any method found. *Steps*: time and memory of the sliced distance with its
gradients, beside projecting and sorting alone, exact quantile cells, and the published program's
way, cumulative distributions on a grid. *Errors*: value and gradients of each against exact cells.

    python benchmarks/bench_sliced.py             # everything, about half an hour on one core
    python benchmarks/bench_sliced.py --quick     # a few starts and small samples, a minute

Writes ``results/bench_sliced*.csv``, ``.md`` and ``.png`` beside this file.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from _common import markdown
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot.datasets import make_ring_square_line
from skgmmot.functional.directions import directions
from skgmmot.functional.minimise import rmsprop
from skgmmot.functional.mixture import GaussianMixtureParams
from skgmmot.functional.sliced import sliced_wasserstein

K = 10
#: EM runs to its end everywhere, so that only the optimum it ends in counts.
EM = {"tol": 1e-6, "max_iter": 1000}
MARGINS = (0.01, 0.05, 0.1)


# --- starts ------------------------------------------------------------------------------------


def bad_start(X, seed):
    """The paper's random start: ten small components around the middle of the data."""
    rng = np.random.default_rng([seed, 2018])
    A = 0.1 * rng.uniform(size=(K, 2, 2))
    return {
        "weights_init": np.full(K, 1 / K),
        "means_init": X.mean(axis=0) + rng.uniform(-1, 1, size=(K, 2)),
        "precisions_init": np.linalg.inv(A @ A.transpose(0, 2, 1) + 1e-3 * np.eye(2)),
    }


def as_start(mixture):
    """A mixture's tensors as a start of EM."""
    return {
        "weights_init": mixture.weights.numpy() / float(mixture.weights.sum()),
        "means_init": mixture.means.numpy(),
        "precisions_init": torch.linalg.inv(mixture.covariances).numpy(),
    }


def published_recipe(X, seed, n_steps=175):
    """The published fit: five random directions a step, a constant learning rate, fixed weights.

    (Its gradients come from a grid; here they are ours. It ends with EM, as all fits here do.)
    """
    start, generator = bad_start(X, seed), torch.Generator().manual_seed(seed)
    origin, X = X.mean(axis=0), torch.from_numpy(X - X.mean(axis=0))
    weights = torch.from_numpy(start["weights_init"])
    means = torch.from_numpy(start["means_init"] - origin).requires_grad_()
    roots = torch.linalg.cholesky(torch.from_numpy(np.linalg.inv(start["precisions_init"])))
    roots.requires_grad_()
    descent = rmsprop([means, roots], 0.05)
    for _ in range(n_steps):
        descent.zero_grad()
        mixture = GaussianMixtureParams(weights, means, covariances(roots))
        theta = directions("random", 5, 2, generator=generator)
        sliced_wasserstein(mixture, X, theta).mean().backward()
        descent.step()
    mixture = GaussianMixtureParams(
        weights, means.detach() + torch.from_numpy(origin), covariances(roots.detach())
    )
    return DifferentiableGaussianMixture(K, **EM, **as_start(mixture)).fit(X.numpy() + origin)


def covariances(roots):
    """Positive definite matrices."""
    return roots @ roots.mT + 1e-6 * torch.eye(2, dtype=roots.dtype)


def em(X, seed, **start):
    """EM from one of scikit-learn's starts."""
    return DifferentiableGaussianMixture(K, random_state=seed, **EM, **start).fit(X)


#: Methods by name: functions of samples and seed that return a fitted mixture.
METHODS = {
    "EM, random responsibilities": lambda X, seed: em(X, seed, init_params="random"),
    "EM, k-means++": lambda X, seed: em(X, seed, init_params="k-means++"),
    "EM, k-means": lambda X, seed: em(X, seed, init_params="kmeans"),
    "EM, bad starts": lambda X, seed: em(X, seed, **bad_start(X, seed)),
    "published recipe then EM, bad starts": published_recipe,
    "sliced, bad starts": lambda X, seed: SlicedWassersteinGMM(
        K, random_state=seed, **bad_start(X, seed)
    ).fit(X),
    "sliced then EM, bad starts": lambda X, seed: SlicedWassersteinGMM(
        K, refine="em", random_state=seed, **bad_start(X, seed)
    ).fit(X),
    "sliced then EM, k-means++": lambda X, seed: SlicedWassersteinGMM(
        K, refine="em", random_state=seed
    ).fit(X),
}


def start_rows(draws, n_starts, only):
    """Run every method from every start on every draw; yield the table as it grows."""
    table = []
    for draw in draws:
        X, _ = make_ring_square_line(random_state=draw)
        losses, spent = {}, {}
        for name, method in METHODS.items():
            if only not in name:
                continue
            began = time.perf_counter()
            losses[name] = np.array(
                [
                    -method(X, seed).score(X)
                    for seed in tqdm(range(n_starts), desc=f"{draw}: {name}")
                ]
            )
            spent[name] = (time.perf_counter() - began) / n_starts
        best = min(values.min() for values in losses.values())
        for name, values in losses.items():
            shares = {f"within {m}": float((values < best + m).mean()) for m in MARGINS}
            table.append(
                {
                    "draw": draw,
                    "method": name,
                    "starts": n_starts,
                    **shares,
                    "best": float(best),
                    "median above best": float(np.median(values) - best),
                    "worst above best": float(values.max() - best),
                    "seconds a fit": spent[name],
                }
            )
        yield table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a method's name")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", type=int, default=100)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    torch.set_num_threads(1)
    for table in start_rows(args.draws, args.starts, args.only):
        print(*markdown(table), sep="\n", flush=True)


if __name__ == "__main__":
    main()
