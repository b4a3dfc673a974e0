"""A hundred random starts: likelihood and sliced distance of what EM and sliced fits end with.

Figure 3 of Kolouri, Rohde and Hoffmann 2018: ten components fitted to ring-square-line data from
the paper's random starts. Every method has one run from each start; EM has also as many runs, from
further starts of the kind, as end in the CPU time of the sliced fit with EM after it, of which the
likeliest is kept. The negative log-likelihood and the sliced distance (200 directions that no fit
has seen) of each are kept, not only their means.

    python benchmarks/bench_sliced_histograms.py             # a quarter of an hour on one core
    python benchmarks/bench_sliced_histograms.py --quick     # three starts, half a minute
    python benchmarks/bench_sliced_histograms.py --draw-only # the figure and table again

Writes ``results/bench_sliced_histograms.csv``, ``.md`` and ``.png`` beside this file.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from _common import RESULTS, machine, markdown, read_csv, write_csv
from bench_sliced import MARGINS, K, as_start, bad_start, em, published_descent, published_recipe
from sklearn.exceptions import ConvergenceWarning
from tqdm import trange

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot.datasets import make_ring_square_line
from skgmmot.metrics import sliced_wasserstein_distance

NAME = "bench_sliced_histograms"
DRAW, N_STARTS, N_PROJECTIONS = 0, 100, 200
#: The method whose time EM has, in several runs.
TIMED, EQUAL_TIME = "sliced then EM", "EM, in the time of sliced then EM"


def sliced(X, seed, **options):
    """One run of the sliced fit from a start of the paper."""
    options |= {"n_init": 1, "random_state": seed}
    return SlicedWassersteinGMM(K, **options, **bad_start(X, seed)).fit(X)


def published(X, seed):
    """The published fit alone, as an estimator."""
    start = as_start(published_descent(X, seed))
    return DifferentiableGaussianMixture(K, max_iter=0, **start).fit(X)


#: Methods of one run, by name: functions of samples and seed that return a fitted mixture.
METHODS = {
    "EM": lambda X, seed: em(X, seed, **bad_start(X, seed)),
    "sliced, published": published,
    "sliced, published, then EM": published_recipe,
    "sliced": sliced,
    TIMED: lambda X, seed: sliced(X, seed, refine="em"),
    "EM, k-means": lambda X, seed: em(X, seed),
}


def em_for(X, seed, seconds):
    """The likeliest of the runs of EM from random starts that so much CPU time allows; how many.

    The first start is that of the other methods.
    """
    best, n_runs, began = None, 0, time.process_time()
    while best is None or time.process_time() - began < seconds:
        fit = em(X, seed, **bad_start(X, seed + 1000 * n_runs))
        n_runs += 1
        if best is None or fit.lower_bound_ > best.lower_bound_:
            best = fit
    return best, n_runs


def judged(fit, X, start, method, seconds, n_runs=1):
    """A row of the table."""
    return {
        "start": start,
        "method": method,
        "negative log-likelihood": -fit.score(X),
        "sliced distance": sliced_wasserstein_distance(
            fit, X, n_projections=N_PROJECTIONS, random_state=0
        ),
        "CPU seconds": seconds,
        "runs": n_runs,
    }


def rows_of(X, start):
    """Yield the rows of one start."""
    for name, method in METHODS.items():
        began = time.process_time()
        fit = method(X, start)
        spent = time.process_time() - began
        yield judged(fit, X, start, name, spent)
        if name == TIMED:
            began = time.process_time()
            fit, n_runs = em_for(X, start, spent)
            yield judged(fit, X, start, EQUAL_TIME, time.process_time() - began, n_runs)


def by_method(rows, column):
    """Arrays of a column, by method."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    return {n: np.array([row[column] for row in rows if row["method"] == n]) for n in names}


def summary(rows):
    """Medians, quartiles and shares near the best, a row for each method."""
    losses, distances, spent, runs = (
        by_method(rows, column)
        for column in ("negative log-likelihood", "sliced distance", "CPU seconds", "runs")
    )
    best = min(values.min() for values in losses.values())
    for name, values in losses.items():
        yield {
            "method": name,
            "starts": len(values),
            "runs a start": float(np.median(runs[name])),
            **quartiles("negative log-likelihood", values, 3),
            **{f"within {m}": float((values < best + m).mean()) for m in MARGINS},
            **quartiles("sliced distance", distances[name], 4),
            "CPU seconds": float(np.median(spent[name])),
        }


def quartiles(name, values, digits):
    """Median, and quartiles in brackets."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {name: f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"}


def write(rows):
    """Write the table, its summary and the figure."""
    RESULTS.mkdir(exist_ok=True)
    write_csv(rows, RESULTS / f"{NAME}.csv")
    lines = [
        "# Sliced fits and EM from random starts",
        "",
        f"Written by `python benchmarks/{NAME}.py` on {machine()}, on one thread.",
        "",
        "Ten components, one draw of 850 ring-square-line samples, the paper's random starts (the",
        "last method has its own). Median over the starts, quartiles in brackets; shares of starts",
        "that end within 0.01, 0.05 and 0.1 of the least negative log-likelihood per sample that",
        "any method found. *Sliced, published*: 175 steps of five random directions, weights",
        "fixed. *Sliced*: `SlicedWassersteinGMM` to its end, one run. EM, alone or after another",
        "method, runs to its end.",
        "",
        *markdown(list(summary(rows))),
    ]
    (RESULTS / f"{NAME}.md").write_text("\n".join(lines) + "\n")
    plot(rows, RESULTS / f"{NAME}.png")


def plot(rows, path):
    """Histograms of both criteria, a row of axes for each method."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    columns = ("negative log-likelihood", "sliced distance")
    found = [by_method(rows, column) for column in columns]
    figure, axes = plt.subplots(
        len(found[0]), 2, figsize=(9, 9), sharex="col", sharey=True, layout="constrained"
    )
    for column, values in enumerate(found):
        everything = np.concatenate(list(values.values()))
        bins = np.linspace(everything.min(), np.quantile(everything, 0.995), 41)
        for i, (ax, (name, found_by)) in enumerate(
            zip(axes[:, column], values.items(), strict=True)
        ):
            ax.hist(np.clip(found_by, bins[0], bins[-1]), bins, color=f"C{i}")
            ax.axvline(np.median(found_by), color="black", linewidth=0.8)
            if column == 0:
                ax.set_title(name, loc="left", fontsize=10)
                ax.set_ylabel("starts")
        axes[-1, column].set_xlabel(f"{columns[column]} (line: median)")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three starts")
    parser.add_argument("--draw-only", action="store_true", help="write what the table says again")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    torch.set_num_threads(1)
    if args.draw_only:
        write(read_csv(RESULTS / f"{NAME}.csv"))
        return
    X, _ = make_ring_square_line(random_state=DRAW)
    rows = []
    for start in trange(3 if args.quick else N_STARTS, desc="starts"):
        rows += rows_of(X, start)
    write(rows)


if __name__ == "__main__":
    main()
