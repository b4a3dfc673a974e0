"""How often EM ends at the best likelihood, from plain starts and from Sinkhorn-EM's.

Three studies. *Ring, square, line*: ten components on 850 samples, from starts that are bad on
purpose (means in a small square, random thin covariances) and from the usual ones; a run counts if
its negative log-likelihood per sample is within .01, .05 or .1 of the best that any run found on
that draw of the data. As one start of EM is cheaper than one of Sinkhorn-EM, the time is compared
with that of as many starts of EM as reach the same share. *Stretched blobs*: two clusters whose
first axis is stretched, and how well fits from the two kinds of start find them. *Groups apart*:
what the starts cost where groups of unequal sizes are far apart, so that equal shares split some.

    python benchmarks/bench_sinkhorn.py            # everything, ten minutes on one core
    python benchmarks/bench_sinkhorn.py --apart    # groups apart alone, two minutes
    python benchmarks/bench_sinkhorn.py --quick    # ten starts on one draw, five blobs

Writes ``results/bench_sinkhorn*.csv``, ``.md`` and ``.png`` beside this file.
"""

import argparse
import datetime
import math
import time
import warnings

import numpy as np
import sklearn
import torch
from _common import RESULTS, cpu_seconds, machine, markdown, write_csv
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture
from skgmmot.datasets import make_ring_square_line

K = 10
#: All fits stop alike: far enough for a difference of .01 to mean another optimum.
FIT = {"tol": 1e-4, "max_iter": 1000}
#: Draws of the data, and starts on each.
DRAWS, N_STARTS = (41, 42, 43), 50
STRETCHES, N_BLOBS = (5, 10, 20, 40), 30
#: Samples, features and groups; standard deviations of the centres in those of a group; draws.
APART, SPREADS, N_APART = (4000, 4, 20), (1, 3, 8, 25), 5
WITHIN = (0.01, 0.05, 0.1)

BAD, KMEANS, SINKHORN = "EM, bad starts", "EM, k-means", "Sinkhorn-EM, then EM"
#: What is run: whether the bad start is given, and the other parameters.
METHODS = {
    BAD: (True, {}),
    KMEANS: (False, {"init_params": "kmeans"}),
    "EM, k-means++": (False, {"init_params": "k-means++"}),
    **{
        f"{SINKHORN}, bad starts{also}": (True, {"init_params": "sinkhorn", "n_init": n_init})
        for n_init, also in ((1, ""), (2, ", n_init=2"), (4, ", n_init=4"))
    },
    SINKHORN: (False, {"init_params": "sinkhorn"}),
    f"{SINKHORN}, n_init=4": (False, {"init_params": "sinkhorn", "n_init": 4}),
    "e_step='sinkhorn', bad starts": (True, {"e_step": "sinkhorn"}),
}


def bad_start(X, seed):
    """Means in a square of side two amid the data, and random thin covariances."""
    rng = np.random.default_rng(seed)
    factors = 0.1 * rng.uniform(size=(K, 2, 2))
    covariances = factors @ factors.mT + 1e-3 * np.eye(2)
    return {
        "weights_init": np.full(K, 1 / K),
        "means_init": X.mean(0) + rng.uniform(-1, 1, size=(K, 2)),
        "precisions_init": np.linalg.inv(covariances),
    }


def run(X, seed, name):
    """One fit: its negative log-likelihood per sample, and its seconds."""
    given, params = METHODS[name]
    start = bad_start(X, seed) if given else {}
    model = DifferentiableGaussianMixture(K, random_state=seed, **FIT, **params, **start)
    began = time.perf_counter()
    model.fit(X)
    spent = time.perf_counter() - began
    return -model.score(X), spent


def ring_runs(draws, n_starts):
    """All runs of all methods, interleaved."""
    for draw in draws:
        X, _ = make_ring_square_line(random_state=draw)
        for seed in tqdm(range(n_starts), desc=f"draw {draw}"):
            for name in METHODS:
                nll, spent = run(X, seed, name)
                yield {"draw": draw, "start": seed, "method": name, "nll": nll, "seconds": spent}


def excess(runs):
    """Each run's distance to the best of its draw; fixed weights are a model of their own."""
    best = {}

    def key(row):
        return row["draw"], row["method"].startswith("e_step")

    for row in runs:
        best[key(row)] = min(best.get(key(row), math.inf), row["nll"])
    found = {name: [] for name in METHODS}
    for row in runs:
        found[row["method"]].append(row["nll"] - best[key(row)])
    return {name: np.array(values) for name, values in found.items() if values}


def starts_for(share, single):
    """How many starts reach a share if one does with probability ``single``."""
    if single >= share:
        return 1
    return math.ceil(math.log1p(-share) / math.log1p(-single)) if single > 0 else None


def ring_table(runs):
    """Shares and times of each method, against EM with as many starts as reach the same share."""
    distances = excess(runs)
    seconds = {
        name: float(np.median([r["seconds"] for r in runs if r["method"] == name]))
        for name in distances
    }
    shares = {name: [float((d <= w).mean()) for w in WITHIN] for name, d in distances.items()}
    for name, found in shares.items():
        row = {"method": name}
        row |= {f"within {w}": share for w, share in zip(WITHIN, found, strict=True)}
        row["ms"] = 1e3 * seconds[name]
        for label, plain in (("bad", BAD), ("k-means", KMEANS)):
            row |= against(label, found, seconds[name], shares[plain], seconds[plain], len(runs))
        yield row


def against(label, found, spent, plain, seconds, n_runs):
    """The columns that compare with EM from as many starts as reach the same share within .01."""
    # all of n runs tell no more than a share of 1 - 1 / (n + 1)
    n_runs //= len(METHODS)
    n_init = starts_for(min(found[0], n_runs / (n_runs + 1)), plain[0])
    return {
        f"n_init of EM, {label}": n_init,
        f"time over its, {label}": None if n_init is None else spent / (n_init * seconds),
    }


def stretched_blobs(seed, stretch):
    """Two round clusters, six standard deviations apart along the second axis, then stretched."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=400)
    X = rng.normal(size=(400, 2)) + np.outer(6 * y, [0.0, 1.0])
    return X * [stretch, 1.0], y


def blob_rows(n_seeds):
    """The adjusted Rand index of fits to stretched blobs."""
    for stretch in STRETCHES:
        found = {"kmeans": [], "kmeans, whitened": [], "sinkhorn": []}
        for seed in range(n_seeds):
            X, y = stretched_blobs(seed, stretch)
            white = PCA(whiten=True).fit_transform(X)
            for start, scores in found.items():
                init_params, *whitened = start.split(", ")
                model = DifferentiableGaussianMixture(
                    2, init_params=init_params, random_state=seed, **FIT
                )
                labels = model.fit_predict(white if whitened else X)
                scores.append(adjusted_rand_score(y, labels))
        for start, scores in found.items():
            yield {
                "stretch": stretch,
                "start": start,
                "mean ARI": float(np.mean(scores)),
                "worst ARI": float(np.min(scores)),
                "share above .9": float(np.mean(np.array(scores) > 0.9)),
            }


BLOBS = (
    f"{N_BLOBS} seeds. 'kmeans, whitened' is EM on whitened samples: Sinkhorn-EM's start measures "
    "in the data's own metric too."
)


def apart_rows(n_draws):
    """Fits from the two kinds of start to groups that are more and more apart."""
    n, d, K = APART
    for spread in SPREADS:
        spent, scores = {"kmeans": [], "sinkhorn": []}, {"kmeans": [], "sinkhorn": []}
        for seed in range(n_draws):
            rng = np.random.default_rng(seed)
            centres = spread * rng.normal(size=(K, d))
            X = centres[rng.integers(K, size=n)] + rng.normal(size=(n, d))
            for start in spent:
                model = DifferentiableGaussianMixture(K, init_params=start, random_state=seed)
                spent[start].append(cpu_seconds(lambda m=model, X=X: m.fit(X)))
                scores[start].append(model.score(X))
        gained = np.subtract(scores["sinkhorn"], scores["kmeans"])
        yield {
            "spread of centres": spread,
            **{f"{start} ms": 1e3 * float(np.median(v)) for start, v in spent.items()},
            "mean log-likelihood gained by sinkhorn, median": float(np.median(gained)),
            "worst": float(gained.min()),
            "best": float(gained.max()),
        }


def write_markdown(ring, blobs, runs, path):
    """Both tables, with where they come from."""
    n_draws = len({r["draw"] for r in runs})
    n_starts = len(runs) // max(1, n_draws * len(METHODS))
    lines = [
        "# How often EM ends at the best likelihood",
        "",
        f"Written by `python benchmarks/bench_sinkhorn.py` on {machine()}; "
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, one thread.",
        "",
        "## Ring, square, line",
        "",
        f"{n_draws} draws of 850 samples, {n_starts} starts on each, K = {K}, full covariances, "
        f"tol = {FIT['tol']:g}. Shares of",
        "runs whose negative log-likelihood per sample is within .01, .05, .1 of the best found",
        "on that draw (of fixed uniform weights: of the best of these). ms: median time of a fit.",
        "n_init of EM: how many of its starts reach the same share within .01, by its share for",
        "one start, `1 - (1 - p)^n` (empty: it never got there); then this method's time over",
        "that of those starts.",
        "",
        *markdown(ring),
    ]
    if blobs:
        lines += ["", "## Stretched blobs", "", BLOBS, "", *markdown(blobs)]
    path.write_text("\n".join(lines) + "\n")


def write_apart(table):
    """Write the table of groups apart."""
    lines = [
        "# Starts where groups are apart",
        "",
        f"Written by `python benchmarks/bench_sinkhorn.py --apart` on {datetime.date.today()}, on",
        f"{machine()}; torch {torch.__version__}, one thread.",
        "{} samples of {} features in {} groups of one spread, default fits,".format(*APART),
        f"{N_APART} draws; CPU times of whole fits, medians.",
        "",
        *markdown(table),
    ]
    write_csv(table, RESULTS / "bench_sinkhorn_apart.csv")
    (RESULTS / "bench_sinkhorn_apart.md").write_text("\n".join(lines) + "\n")


def write_plot(runs, blobs, path):
    """How far runs end from the best, and the blobs."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.5), layout="constrained")
    for name, distances in excess(runs).items():
        share = np.arange(1, len(distances) + 1) / len(distances)
        left.step(np.sort(distances).clip(min=1e-4), share, where="post", label=name)
    left.axvline(0.01, color="black", linewidth=0.8)
    left.set(xscale="log", xlabel="negative log-likelihood above the best", ylabel="share of runs")
    left.set(title="ring, square, line", xlim=(1e-4, 1), ylim=(0, 1.02))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    for start in dict.fromkeys(row["start"] for row in blobs):
        chosen = [row for row in blobs if row["start"] == start]
        right.plot(
            [r["stretch"] for r in chosen], [r["mean ARI"] for r in chosen], "o-", label=start
        )
    right.set(xlabel="stretch", ylabel="mean adjusted Rand index", title="stretched blobs")
    right.set(ylim=(-0.05, 1.05), xscale="log", xticks=STRETCHES, xticklabels=STRETCHES)
    right.minorticks_off()
    right.legend(title="start")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def write(runs, blobs):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    ring = list(ring_table(runs))
    write_csv(ring, RESULTS / "bench_sinkhorn.csv")
    write_markdown(ring, blobs, runs, RESULTS / "bench_sinkhorn.md")
    write_plot(runs, blobs, RESULTS / "bench_sinkhorn.png")
    if blobs:
        write_csv(blobs, RESULTS / "bench_sinkhorn_blobs.csv")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few starts, written nowhere")
    parser.add_argument("--apart", action="store_true", help="groups apart alone")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=sklearn.exceptions.ConvergenceWarning)
    torch.set_num_threads(1)
    if args.apart or not args.quick:
        with threadpool_limits(1):
            apart = list(apart_rows(N_APART))
        print(*markdown(apart), sep="\n")
        write_apart(apart)
    if args.apart:
        return
    draws, n_starts, n_blobs = (DRAWS[:1], 10, 5) if args.quick else (DRAWS, N_STARTS, N_BLOBS)
    runs = []
    with threadpool_limits(1):
        for row in ring_runs(draws, n_starts):
            runs.append(row)
            if not args.quick and len(runs) % (len(METHODS) * N_STARTS) == 0:
                write(runs, [])  # as it grows: an interrupted run is not lost
        print(*markdown(list(ring_table(runs))), sep="\n")
        blobs = list(blob_rows(n_blobs))
        print(*markdown(blobs), sep="\n")
    if not args.quick:
        write(runs, blobs)


if __name__ == "__main__":
    main()
