"""Semi-discrete transport: plans onto an image, and mixtures fitted by the distance.

Four tables. *Plans*: an image of 64 x 64 pixels onto 200, 2,000 and 10,000 random points: CPU
time, Newton steps, mass error and memory, beside one convex hull of the lifted points alone
(SciPy's Qhull), which every Newton step needs at least once, and beside the compiled program sdot
where it is installed: ``pip install sdot jax``, with Python 3.12 or later. *Fits*: EM, the sliced
fit and the semi-discrete fit on ring-square-line data and on clusters with 10 % uniform outliers,
all from k-means starts: time, W2 and log-likelihood on held-out data without outliers, and
agreement of the labels with the clusters. *Quantisation*: both ways of the quantiser against
k-means. *Large*: what is solved by discrete transport from the last potentials, beside the simplex
of all pairs each time (some steps of it where all would take minutes).

    python benchmarks/bench_semidiscrete.py            # everything, about five minutes on one core
    python benchmarks/bench_semidiscrete.py --quick    # small sizes and one seed, about a minute
    python benchmarks/bench_semidiscrete.py --only large    # one table, about two minutes

Writes ``results/bench_semidiscrete*.csv``, ``.md`` and ``.png`` beside this file.
"""

import argparse
import json
import math
import platform
import time
import warnings
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import scipy
import torch
from _common import RESULTS, machine, markdown, peak_during, peak_memory, read_csv, write_csv
from scipy.spatial import ConvexHull
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from skgmmot import (
    DifferentiableGaussianMixture,
    GridDensity,
    SemidiscreteGMM,
    SlicedWassersteinGMM,
    WassersteinQuantizer,
    semidiscrete_distance,
)
from skgmmot.datasets import make_ring_square_line
from skgmmot.transport.discrete import column_generation
from skgmmot.transport.semidiscrete.plan import exact_plan

N_POINTS = (200, 2_000, 10_000)
#: Bound on a plan's sum of ``|mass - b|``.
TOL = 1e-8


# --- plans ---------------------------------------------------------------------------------------


def image(name):
    """A density of 64 x 64 pixels on the unit square."""
    side = (np.arange(64) + 0.5) / 64
    x, y = np.meshgrid(side, side)
    bumps = sum(np.exp(-50 * ((x - c) ** 2 + (y - c) ** 2)) for c in (0.25, 0.75))
    values = {
        "two bumps": bumps,
        "two bumps on 10 %": bumps + 0.1,
        "noise": np.random.default_rng(1).random((64, 64)),
    }[name]
    return GridDensity(torch.as_tensor(values), origin="lower")


def points(n):
    """Uniform points in the unit square, and their equal weights."""
    y = torch.as_tensor(np.random.default_rng(0).random((n, 2)))
    return y, torch.ones(n, dtype=torch.float64)


def timed(function, *arguments):
    """CPU time of one call in ms, and what it returns."""
    began = time.process_time()
    found = function(*arguments)
    return 1e3 * (time.process_time() - began), found


def cpu_ms(function, *arguments):
    """CPU time of one call."""
    return timed(function, *arguments)[0]


def sdot_plan(density, y):
    """A function that solves for sdot's plan of equal masses; None where there is no sdot."""
    if find_spec("sdot") is None:
        return None
    import sdot

    values = density.values.numpy().T  # its first axis is x

    def solve():
        points = sdot.SumOfDiracs(y.numpy())
        return sdot.ot_solve(points, sdot.Image(values), tol=TOL / len(y))

    return solve


def sdot_columns(found, theirs, ms, cost):
    """What a row says of sdot: time of a call and of its compiled part, and its cost."""
    return {
        f"sdot {version('sdot')} ms": theirs,
        "its compiled part ms": 1e3 * float(found.stats["t_total"]),
        "ratio": theirs / ms,
        "its steps": int(found.stats["nb_iter"]),
        "costs differ by": abs(float(np.asarray(found.cost)) / cost - 1),
    }


def plan_rows(sizes, repeats):
    """Time one plan of each image onto each number of points, in turns with the peers."""
    for name in ("two bumps", "two bumps on 10 %", "noise"):
        density = image(name)
        for n in sizes:
            y, b = points(n)
            lifted = np.column_stack([y, (y**2).sum(1)])
            solve = sdot_plan(density, y)
            ours = partial(exact_plan, density, y, b, tol=TOL)
            work = [ours, partial(ConvexHull, lifted), *([solve] if solve else [])]
            for call in work:
                call()  # loads and compiles
            rounds = [[timed(call) for call in work] for _ in range(repeats)]
            plan, _, *found = (answer for _, answer in rounds[-1])
            ms, hull, *sdots = np.median([[t for t, _ in each] for each in rounds], axis=0)
            row = {
                "image": name,
                "points": n,
                "CPU ms": float(ms),
                "Newton steps": plan.n_iter,
                "mass error": float((plan.masses - b / b.sum()).abs().sum()),
                "peak MB": peak_memory(__file__, name, n),
                "one hull ms": float(hull),
                "hulls' worth": float(ms / hull),
            }
            if solve:
                row |= sdot_columns(*found, *map(float, sdots), float(ms), float(plan.cost))
            yield row


def print_memory(name, n):
    """Print the peak memory of one plan."""
    density, (y, b) = image(name), points(n)
    exact_plan(density, *points(50))  # libraries are loaded
    print(peak_during(lambda: exact_plan(density, y, b)))


# --- fits ----------------------------------------------------------------------------------------


def clusters_with_outliers(seed, n=800):
    """Five Gaussian clusters with 10 % uniform outliers, and held-out data without."""
    X, y = make_blobs(2 * n, centers=5, cluster_std=0.7, center_box=(-6, 6), random_state=seed)
    rng = np.random.default_rng(seed)
    train = X[:n].copy()
    low, high = train.min(0), train.max(0)
    outlying = rng.choice(n, n // 10, replace=False)
    middle, half = (low + high) / 2, (high - low) / 2
    train[outlying] = rng.uniform(middle - 1.5 * half, middle + 1.5 * half, (n // 10, 2))
    return train, X[n:], y[n:]


def ring_square_line(seed, n=850):
    """The ring, the strip and the frame, and as many held out."""
    X, shape = make_ring_square_line(2 * n, random_state=seed)
    return X[:n], X[n:], shape[n:]


def fit_rows(seeds):
    """Fit mixtures by each method."""
    methods = {
        "EM": lambda K, s: DifferentiableGaussianMixture(K, random_state=s, max_iter=500),
        "sliced": lambda K, s: SlicedWassersteinGMM(K, random_state=s, init_params="kmeans"),
        "semi-discrete": lambda K, s: SemidiscreteGMM(K, random_state=s),
    }
    for data, make, K in [
        ("ring-square-line", ring_square_line, 10),
        ("clusters, 10 % outliers", clusters_with_outliers, 5),
    ]:
        found = {name: [] for name in methods}
        for seed in seeds:
            X, held_out, labels = make(seed)
            for name, method in methods.items():
                model = method(K, seed)
                ms = cpu_ms(model.fit, X)
                found[name].append(
                    (
                        ms,
                        semidiscrete_distance(model, held_out),
                        model.score(held_out),
                        adjusted_rand_score(labels, model.predict(held_out)),
                        model.n_iter_,
                    )
                )
        for name, values in found.items():
            ms, distance, score, agreement, n_iter = np.median(values, axis=0)
            yield {
                "data": data,
                "K": K,
                "method": name,
                "seeds": len(seeds),
                "CPU ms": float(ms),
                "steps": float(n_iter),
                "W2 held out": float(distance),
                "log-likelihood held out": float(score),
                "ARI": float(agreement),
            }


# --- quantisation --------------------------------------------------------------------------------


def quantiser_rows(n_clusters):
    """Points for samples and for the image they are drawn from."""
    density = image("two bumps")
    rng = np.random.default_rng(0)
    values = density.values.numpy().ravel()
    pixel = rng.choice(values.size, 5_000, p=values / values.sum())
    X = (np.stack([pixel % 64, pixel // 64], axis=1) + rng.random((5_000, 2))) / 64
    start = X[:n_clusters]
    options = {"init": start, "tol": 1e-4, "max_iter": 300}
    for name, model, data in [
        ("k-means of samples", KMeans(n_clusters, n_init=1, init=start, max_iter=300), X),
        ("free, samples", WassersteinQuantizer(n_clusters, masses="free", **options), X),
        ("uniform, samples", WassersteinQuantizer(n_clusters, **options), X),
        ("free, image", WassersteinQuantizer(n_clusters, masses="free", **options), density),
        ("uniform, image", WassersteinQuantizer(n_clusters, **options), density),
    ]:
        ms = cpu_ms(model.fit, data)
        centres = torch.as_tensor(np.asarray(model.cluster_centers_, dtype=np.float64))
        equal = torch.ones(n_clusters, dtype=torch.float64)
        yield {
            "quantiser": name,
            "points": n_clusters,
            "CPU ms": ms,
            "steps": model.n_iter_,
            "W2 of the image to them, equal masses": float(
                exact_plan(density, centres, equal).cost.sqrt()
            ),
        }


# --- large problems by discrete transport ---------------------------------------------------------


def large_rows(quick):
    """Whole fits of many samples, with candidate pairs and with all pairs."""
    rng = np.random.default_rng(0)
    blobs, _ = make_blobs(4_000, n_features=3, centers=5, cluster_std=1.5, random_state=0)
    # samples, features, points, and the most steps with all pairs
    full = [(20_000, 2, 1_000, 2), (8_000, 2, 20, 300), (20_000, 3, 5, 300)]
    sizes = [(4_000, 2, 200, 2)] if quick else full
    cases = [
        (
            f"WassersteinQuantizer, {n} x {d}, {n_clusters} points",
            partial(WassersteinQuantizer, n_clusters),
            rng.normal(size=(n, d)),
            most,
        )
        for n, d, n_clusters, most in sizes
    ]
    by_nodes = partial(SemidiscreteGMM, 5)
    cases.append(("SemidiscreteGMM by nodes, 2000 x 3, K = 5", by_nodes, blobs[:2_000], 200))
    for name, make, X, most in cases:
        model = make(random_state=0)
        ms, few = cpu_ms(model.fit, X), column_generation.MIN_COSTS
        column_generation.MIN_COSTS = math.inf
        all_pairs = make(random_state=0, max_iter=min(most, model.n_iter_))
        slow_ms = cpu_ms(all_pairs.fit, X)
        column_generation.MIN_COSTS = few
        yield {
            "fit": name,
            "CPU s": ms / 1e3,
            "steps": model.n_iter_,
            "distance": float(model.distance_),
            "CPU s, all pairs": slow_ms / 1e3,
            "steps, all pairs": all_pairs.n_iter_,
            "distance, all pairs": float(all_pairs.distance_),
            "POT": version("POT"),
            "SciPy": scipy.__version__,
            "torch": torch.__version__,
            "Python": platform.python_version(),
            "measured": datetime.now(UTC).date().isoformat(),
        }


# --- results -------------------------------------------------------------------------------------


def write(tables):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    lines = [
        "# Semi-discrete transport: plans, fits, quantisation",
        "",
        f"Last written by `python benchmarks/bench_semidiscrete.py` on {machine()}; SciPy",
        f"{scipy.__version__}, one thread; tables of other days: README.md. Medians of CPU time.",
        "*one hull*: SciPy's `ConvexHull` of the lifted points, in the same run. *sdot*: its whole",
        "call, in turns with ours and to the same mass error; *ratio*: its time over ours. Mass",
        "error: the sum of `|mass - b|`.",
    ]
    for name, table in tables.items():
        table = table or read_csv(RESULTS / f"bench_semidiscrete_{name}.csv")
        if table:
            lines += ["", f"## {name.capitalize()}", "", *markdown(table)]
            write_csv(table, RESULTS / f"bench_semidiscrete_{name}.csv")
    (RESULTS / "bench_semidiscrete.md").write_text("\n".join(lines) + "\n")
    if tables["plans"]:
        write_plot(tables["plans"])


def write_plot(table):
    """CPU time over the number of points."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    (peer,) = {k for k in table[0] if k.startswith("sdot")} or {None}
    for color, name in enumerate(dict.fromkeys(row["image"] for row in table)):
        rows = [row for row in table if row["image"] == name]
        n, line = [row["points"] for row in rows], {"color": f"C{color}"}
        ax.loglog(n, [row["CPU ms"] for row in rows], "o-", label=name, **line)
        if peer:
            ax.loglog(n, [row[peer] for row in rows], "x:", label=f"{name}, {peer[:-3]}", **line)
    ax.loglog(n, [row["one hull ms"] for row in rows], "k--", label="one hull")
    ax.set(xlabel="points", ylabel="CPU time / ms", title="An image of 64 x 64 onto points")
    ax.legend()
    figure.savefig(RESULTS / "bench_semidiscrete.png", dpi=100)
    plt.close(figure)


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and one seed")
    parser.add_argument("--only", default="", help="one table: plans, fits, quantisation or large")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # of NumPy and SciPy
    if args.memory:
        print_memory(*json.loads(args.memory))
        return
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    work = {
        "plans": lambda: plan_rows(N_POINTS[: 2 if args.quick else 3], 3 if args.quick else 7),
        "fits": lambda: fit_rows(range(1 if args.quick else 20)),
        "quantisation": lambda: quantiser_rows(50 if args.quick else 200),
        "large": lambda: large_rows(args.quick),
    }
    tables = {name: [] for name in work}
    for name, rows in work.items():
        if args.only in name:
            for row in tqdm(rows(), desc=name):
                tables[name].append(row)
                tqdm.write(markdown([row])[2])
                write(tables)  # as it grows: an interrupted run is not lost


if __name__ == "__main__":
    main()
