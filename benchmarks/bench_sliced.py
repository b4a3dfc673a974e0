"""The sliced fit: how often it ends near the best likelihood, and what one of its steps costs.

Four tables. *Starts*: mixtures of ten components fitted to ring-square-line data from a hundred
starts, and the share that ends within 0.01, 0.05 and 0.1 of the best negative log-likelihood per
sample that any run of any method found. *Steps*: time and memory of the sliced distance with its
gradients, beside projecting and sorting alone, exact quantile cells, and the published program's
way, cumulative distributions on a grid. *Errors*: value and gradients of each against exact cells.
*Data*: fits of tables of data beside EM's, by sliced distance and likelihood of rows held out.

    python benchmarks/bench_sliced.py             # everything, about half an hour on one core
    python benchmarks/bench_sliced.py --quick     # a few starts and small samples, a minute
    python benchmarks/bench_sliced.py --only data # one table alone, a few minutes

Writes ``results/bench_sliced*.csv``, ``.md`` and ``.png`` beside this file.
"""

import argparse
import json
import math
import time
import warnings

import numpy as np
import torch
from _common import (
    RESULTS,
    machine,
    markdown,
    peak_during,
    peak_memory,
    read_csv,
    seconds,
    write_csv,
)
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
)
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot.datasets import make_ring_square_line
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.metrics import sliced_wasserstein_distance
from skgmmot.numerics.minimise import rmsprop
from skgmmot.transport.sliced.directions import directions
from skgmmot.transport.sliced.distance import sliced_wasserstein, wasserstein_on_lines
from skgmmot.transport.sliced.slices import slice_samples, slices

K = 10
#: EM runs to its end everywhere, so that only the optimum it ends in counts.
EM = {"tol": 1e-6, "max_iter": 1000}
#: Runs of EM that take about as long as a sliced fit with its two runs and EM after it.
SAME_TIME = 25
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


def published_descent(X, seed, n_steps=175):
    """The published fit: five random directions a step, a constant learning rate, fixed weights.

    (Its gradients come from a grid; here they are ours.)
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
    return GaussianMixtureParams(
        weights, means.detach() + torch.from_numpy(origin), covariances(roots.detach())
    )


def published_recipe(X, seed):
    """EM from the end of the published fit, as all fits here end."""
    start = as_start(published_descent(X, seed))
    return DifferentiableGaussianMixture(K, **EM, **start).fit(X)


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
    "EM, k-means++, as long as sliced": lambda X, seed: em(
        X, seed, init_params="k-means++", n_init=SAME_TIME
    ),
    "EM, bad starts": lambda X, seed: em(X, seed, **bad_start(X, seed)),
    "Sinkhorn-EM then EM": lambda X, seed: em(X, seed, init_params="sinkhorn"),
    "Sinkhorn-EM then EM, bad starts": lambda X, seed: em(
        X, seed, init_params="sinkhorn", **bad_start(X, seed)
    ),
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


# --- data --------------------------------------------------------------------------------------


def tables():
    """Yield names, rows and numbers of components."""
    yield "standard normal, 30 features", np.random.default_rng(0).normal(size=(1000, 30)), 1
    yield "iris", load_iris().data, 3
    yield "wine", load_wine().data, 3
    yield "diabetes", load_diabetes().data, 2
    yield "breast cancer", load_breast_cancer().data, 2
    for axes in (10, 30):
        axes_of = PCA(axes, random_state=0).fit_transform(load_digits().data)
        yield f"digits, {axes} principal axes", axes_of, 10


def compared(X, n_components, scaled, seed):
    """Held-out distances and likelihoods of the sliced fit and of EM's, and the fit's seconds."""
    parts = train_test_split(X, random_state=seed)
    if scaled:
        scaler = StandardScaler().fit(parts[0])
        parts = [scaler.transform(part) for part in parts]
    inside, outside = parts
    reference = DifferentiableGaussianMixture(n_components, random_state=seed).fit(inside)
    began = time.process_time()
    mixture = SlicedWassersteinGMM(n_components, random_state=seed).fit(inside)
    spent = time.process_time() - began
    distances = [
        sliced_wasserstein_distance(m, outside, n_projections=1000, random_state=1000 + seed)
        for m in (mixture, reference)
    ]
    return *distances, mixture.score(outside), reference.score(outside), spent


def data_rows(n_splits):
    """Compare the sliced fit with EM on every table; yields rows."""
    for name, X, n_components in tables():
        for scaled in (False, True):
            found = np.array(
                [
                    compared(X, n_components, scaled, seed)
                    for seed in tqdm(range(n_splits), desc=name)
                ]
            )
            ours, theirs = found[:, 0], found[:, 1]
            mean = found.mean(0)
            yield {
                "data": name,
                "features": "scaled" if scaled else "raw",
                "K": n_components,
                "splits": n_splits,
                "distance": mean[0],
                "distance, EM": mean[1],
                "ratio": mean[0] / mean[1],
                "standard error": float(np.std(ours / theirs, ddof=1) / math.sqrt(n_splits)),
                "log-likelihood": mean[2],
                "log-likelihood, EM": mean[3],
                "least log-likelihood": found[:, 2].min(),
                "CPU seconds a fit": mean[4],
            }


def write_data(rows):
    """Write the table of data so far."""
    RESULTS.mkdir(exist_ok=True)
    write_csv(rows, RESULTS / "bench_sliced_data.csv")
    lines = [
        "# Sliced fits of tables of data",
        "",
        f"Written by `python benchmarks/bench_sliced.py --only data` on {machine()}.",
        "",
        "Defaults of `SlicedWassersteinGMM` and of EM, fitted to three quarters of the rows, on",
        "one thread. Sliced distance (1000 directions) and mean log-likelihood of the rest, means",
        "over random splits; the ratio of the distances with the standard error over splits.",
        "",
        *markdown(rows),
    ]
    (RESULTS / "bench_sliced_data.md").write_text("\n".join(lines) + "\n")


# --- steps and errors --------------------------------------------------------------------------


def problem(n, d):
    """Samples, and a mixture that fits them half-way."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    A = torch.randn(K, d, d, **options)
    mixture = GaussianMixtureParams(
        torch.rand(K, **options).softmax(0),
        torch.randn(K, d, **options),
        A @ A.mT / (2 * d) + 0.05 * torch.eye(d, dtype=torch.float64),
    )
    return mixture, 1.2 * torch.randn(n, d, **options)


def on_a_grid(mixture, X, theta, n_grid=2000):
    """The published way: distributions on a grid, the map and the potential by interpolation."""
    costs = []
    for block in theta.split(max(1, 2**20 // n_grid)):
        y = np.sort((block @ X.mT).numpy(), axis=1)
        lines = slices(mixture, block)
        w, m, s = (t.detach().unsqueeze(-1).numpy() for t in lines)
        costs += [on_a_line(y[l], w[:, 0], m[l], s[l], n_grid, lines, l) for l in range(len(y))]
    return torch.stack(costs)


def on_a_line(y, w, m, s, n_grid, lines, l):
    """One line of `on_a_grid`: a scalar whose gradient holds the potential fixed."""
    low, high = min(y[0], (m - 5 * s).min()), max(y[-1], (m + 5 * s).max())
    t = np.linspace(low, high, n_grid)
    dt = t[1] - t[0]
    density = (w / (s[:, 0] * math.sqrt(2 * math.pi))) @ np.exp(-(((t - m) / s) ** 2) / 2)
    F = np.cumsum(density) * dt
    G = np.searchsorted(y, t, side="right") / len(y)
    image = np.interp(F, G, t)
    psi = torch.from_numpy(np.cumsum(2 * (t - image)) * dt)
    value = float((((t - image) ** 2) * density).sum() * dt)
    z = (torch.from_numpy(t) - lines.means[l].unsqueeze(-1)) / lines.deviations[l].unsqueeze(-1)
    weights = (lines.weights / (lines.deviations[l] * math.sqrt(2 * math.pi))).unsqueeze(-1)
    linear = ((weights * torch.exp(-z.square() / 2)).sum(0) * psi).sum() * dt
    return value + linear - linear.detach()


def with_gradients(cost, mixture):
    """Mean cost and its gradients in weights (along the simplex), means and covariances."""
    leaves = [t.clone().requires_grad_() for t in mixture]
    value = cost(GaussianMixtureParams(*leaves)).mean()
    found = torch.autograd.grad(value, leaves)
    weights = found[0] - found[0].mean()
    return (value.detach(), weights, *found[1:])


def ways(X, theta, grid):
    """What is timed: functions of a mixture that return costs ``(L,)``."""
    samples = slice_samples(X, theta)
    return {
        "splines": lambda mixture: sliced_wasserstein(mixture, X, theta),
        "splines, sorted before": lambda mixture: wasserstein_on_lines(
            slices(mixture, theta), samples
        ),
        "28 nodes": lambda mixture: sliced_wasserstein(mixture, X, theta, n_nodes=28),
        "28 nodes, sorted before": lambda mixture: wasserstein_on_lines(
            slices(mixture, theta), samples, n_nodes=28
        ),
        "exact cells": lambda mixture: sliced_wasserstein(mixture, X, theta, exact=True),
        **{
            f"grid of {size}": lambda mixture, size=size: on_a_grid(mixture, X, theta, size)
            for size in grid
        },
    }


def step_rows(sizes, n_directions, repeats):
    """Time value and gradients by each way, with its errors; yields rows."""
    for n, d in sizes:
        mixture, X = problem(n, d)
        theta = directions("quasi", n_directions, d, generator=torch.Generator().manual_seed(0))
        found, spent = {}, {"project and sort": [], "project and sort, torch": []}
        timed = ways(X, theta, grid=(250, 2000, 20_000))
        for repeat in range(repeats):
            spent["project and sort"].append(
                seconds(lambda X=X, theta=theta: np.sort((theta @ X.mT).numpy(), axis=1))
            )
            spent["project and sort, torch"].append(
                seconds(lambda X=X, theta=theta: (theta @ X.mT).sort(dim=1))
            )
            for name, cost in timed.items():
                if repeat and name == "exact cells":
                    continue  # slow, and the reference only
                began = time.perf_counter()
                found[name] = with_gradients(cost, mixture)
                spent.setdefault(name, []).append(time.perf_counter() - began)
        medians = {name: float(np.median(values)) for name, values in spent.items()}
        for name, median in medians.items():
            row = {"n": n, "d": d, "K": K, "directions": n_directions, "way": name}
            row |= {
                "ms": 1e3 * median,
                "times project and sort": median / medians["project and sort"],
            }
            if name in found:
                row |= errors(found[name], found["exact cells"])
                row["MB"] = peak_memory(__file__, name, n, d, n_directions)
            yield row


def errors(found, exact):
    """Largest errors relative to the largest entry."""
    names = ("value", "weights", "means", "covariances")
    return {
        f"error, {name}": float((a - b).abs().max() / b.abs().max())
        for name, a, b in zip(names, found, exact, strict=True)
    }


def print_memory(name, n, d, n_directions):
    """Print the peak memory of one way beyond the samples, in MB."""
    mixture, X = problem(n, d)
    theta = directions("quasi", n_directions, d, generator=torch.Generator().manual_seed(0))
    small = problem(100, d)[1]
    with_gradients(ways(small, theta[:2], (250, 2000, 20_000))[name], mixture)  # load libraries
    print(peak_during(lambda: with_gradients(ways(X, theta, (250, 2000, 20_000))[name], mixture)))


# --- results -----------------------------------------------------------------------------------


def write(starts, steps):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    lines = [
        "# The sliced fit",
        "",
        f"Written by `python benchmarks/bench_sliced.py` on {machine()}.",
    ]
    if starts:
        write_csv(starts, RESULTS / "bench_sliced_starts.csv")
        lines += [
            "",
            "## Starts",
            "",
            "Share of starts whose fit of ten components to a draw of ring-square-line data (seed",
            "`draw`) ends within 0.01, 0.05 and 0.1 of the best negative log-likelihood per sample",
            "of any fit of any method. Bad starts: small components around the middle of the data.",
            "",
            *markdown(starts),
        ]
    if steps:
        write_csv(steps, RESULTS / "bench_sliced_steps.csv")
        lines += [
            "",
            "## Steps",
            "",
            "Value and gradients of the mean over directions in weights, means and covariances,",
            "one thread, medians of interleaved repeats; the sort included unless said.",
            "Errors against exact cells, relative to the largest entry. Splines: 48 nodes a",
            "component alone, fewer where they overlap. Grid: the published way.",
            "",
            *markdown(steps),
        ]
    (RESULTS / "bench_sliced.md").write_text("\n".join(lines) + "\n")
    plot(starts, steps, RESULTS / "bench_sliced.png")


def plot(starts, steps, path):
    """Shares as bars, and errors against time."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 4.5), layout="constrained")
    names = list(dict.fromkeys(row["method"] for row in starts))
    for i, margin in enumerate(MARGINS):
        shares = [
            np.mean([row[f"within {margin}"] for row in starts if row["method"] == name])
            for name in names
        ]
        left.barh(np.arange(len(names)) - 0.27 * i, shares, 0.25, label=f"within {margin}")
    left.set(yticks=range(len(names)), xlabel="share of starts, mean over draws", xlim=(0, 1))
    left.set_yticklabels(names)
    left.invert_yaxis()
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    chosen = [row for row in steps if row["d"] == 2 and row.get("error, means")]
    for row in chosen:
        at = row["ms"], max(row["error, means"], row["error, covariances"])
        right.loglog(*at, "o")
        right.annotate(row["way"], at, (4, 4), textcoords="offset points", rotation=20, fontsize=8)
    right.margins(0.25)
    right.set(xlabel="ms, value and gradients", ylabel="relative error of gradients")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["starts", "steps", "data"], help="one of the tables")
    parser.add_argument("--methods", default="", help="part of a method's name")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--splits", type=int, default=32, help="of each table of data")
    parser.add_argument("--quick", action="store_true", help="few starts, small samples")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    torch.set_num_threads(1)
    if args.memory:
        print_memory(*json.loads(args.memory))
        return
    sizes = [(10_000, 2), (60_000, 128)]
    if args.quick:
        args.draws, args.starts, sizes = args.draws[:1], 3, [(2000, 2)]
        args.splits = 2
    if args.only in (None, "data"):
        rows = []
        for row in data_rows(args.splits):
            rows.append(row)
            print(*markdown([row])[2:], flush=True)
            write_data(rows)
    # what is not measured again stays
    starts = read_csv(RESULTS / "bench_sliced_starts.csv") if args.only == "steps" else []
    steps = read_csv(RESULTS / "bench_sliced_steps.csv") if args.only == "starts" else []
    if args.only in (None, "steps"):
        for row in step_rows(sizes, 50, repeats=7):
            steps.append(row)
            print(*markdown([row])[2:], flush=True)
            write(starts, steps)
    if args.only in (None, "starts"):
        for table in start_rows(args.draws, args.starts, args.methods):
            starts[:] = table
            print(*markdown(table), sep="\n", flush=True)
            write(starts, steps)


if __name__ == "__main__":
    main()
