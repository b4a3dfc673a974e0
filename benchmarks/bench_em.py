"""One EM iteration, whole fits, and predictions, against scikit-learn's in the same run.

Both start from the same given weights, means and precisions and make the same iterations. The time
of one iteration is the difference between a long and a short fit, over the iterations between them;
repeats of the two programs are interleaved and their medians compared. Peak memory beyond the data
is read in a process of its own for each program. With a GPU, ours is also run there.

    python benchmarks/bench_em.py                # everything, about twenty minutes on two cores
    python benchmarks/bench_em.py --only full    # configurations whose name contains 'full'

Writes ``results/bench_em.csv``, ``.md`` and ``.png`` beside this file.
"""

import argparse
import itertools
import json
import time
import warnings

import numpy as np
import sklearn
import torch
from _common import (
    RESULTS,
    machine,
    markdown,
    peak_during,
    peak_memory,
    seconds,
    write_csv,
)
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from skgmmot import DifferentiableGaussianMixture
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES

#: What is run: covariance type, samples, features, components (and starts).
ITERATIONS = [
    ("full", 10_000, 2, 10),
    ("full", 100_000, 10, 20),
    ("full", 1_000_000, 16, 32),
    ("full", 100_000, 64, 10),
    ("tied", 100_000, 10, 20),
    ("tied", 100_000, 64, 10),
    ("diag", 100_000, 10, 20),
    ("spherical", 100_000, 10, 20),
]
FITS = [("full", 100_000, 10, 20, 1), ("full", 100_000, 10, 20, 5)]
PREDICTIONS = [(name, 100_000, 10, 20) for name in ("full", "tied", "diag", "spherical")]


def data(n, d, K, dtype):
    """Samples of an overlapping mixture, and a start near it."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(K, d))
    X = centres[rng.integers(K, size=n)] + rng.normal(size=(n, d))
    return X.astype(dtype), centres + 0.1 * rng.normal(size=(K, d))


def estimators(covariance_type, d, K, means, **params):
    """Scikit-learn's and ours, with the same given start."""
    precisions = {
        "full": np.stack([np.eye(d)] * K),
        "tied": np.eye(d),
        "diag": np.ones((K, d)),
        "spherical": np.ones(K),
    }[covariance_type]
    params |= {"means_init": means, "precisions_init": precisions, "tol": 0}
    params |= {"weights_init": np.full(K, 1 / K), "covariance_type": covariance_type}
    return {
        "sklearn": GaussianMixture(K, **params),
        "skgmmot": DifferentiableGaussianMixture(K, **params),
    }


def time_iterations(covariance_type, n, d, K, dtype, repeats, n_iter, reference_dtype, warm_up):
    """Median seconds of one iteration of each program, interleaved."""
    X, means = data(n, d, K, dtype)
    samples = {"sklearn": X.astype(reference_dtype), "skgmmot": X}
    found = {name: [] for name in samples}
    for repeat in range(-warm_up, repeats):
        for name, model in estimators(covariance_type, d, K, means).items():
            # wait for the other program's threads, which spin for a while; then warm up
            time.sleep(0.2)
            _, short, long = (
                seconds(lambda m=model, i=i, x=samples[name]: m.set_params(max_iter=i).fit(x))
                for i in (1, 1, 1 + n_iter)
            )
            if repeat >= 0:
                found[name].append((long - short) / n_iter)
    return {name: float(np.median(values)) for name, values in found.items()}


def time_fits(covariance_type, n, d, K, n_init, dtype, repeats):
    """Median seconds of whole default fits, k-means starts included."""
    X, _ = data(n, d, K, dtype)
    found = {"sklearn": [], "skgmmot": []}
    for _ in range(repeats):
        for name, estimator in [
            ("sklearn", GaussianMixture),
            ("skgmmot", DifferentiableGaussianMixture),
        ]:
            model = estimator(K, covariance_type=covariance_type, n_init=n_init, random_state=0)
            found[name].append(seconds(lambda m=model: m.fit(X)))
    return {name: float(np.median(values)) for name, values in found.items()}


def print_memory(name, covariance_type, n, d, K, dtype):
    """Print the peak memory beyond the data, in MB, of a two-iteration fit."""
    X, means = data(n, d, K, dtype)
    model = estimators(covariance_type, d, K, means, max_iter=2)[name]
    # a tiny fit first, so that libraries are loaded and threads have run
    model.fit(data(100 * K, d, K, dtype)[0])
    print(peak_during(lambda: model.fit(X)))


def on_gpu(covariance_type, n, d, K, dtype, repeats, n_iter):
    """Median seconds of one of our iterations on the GPU, or None without one."""
    if not torch.cuda.is_available():
        return None
    X, means = data(n, d, K, dtype)
    X = torch.tensor(X, device="cuda")
    model = estimators(covariance_type, d, K, means)["skgmmot"]
    found = []
    for _ in range(repeats + 1):
        short, long = (
            seconds(lambda i=i: model.set_params(max_iter=i).fit(X)) for i in (1, 1 + n_iter)
        )
        found.append((long - short) / n_iter)
    return float(np.median(found[1:]))


def floor(covariance_type, n, d, K, dtype, threads):
    """Seconds of one iteration if only its two products and its exponentials took any time."""
    width = d + 1 + COVARIANCE_TYPES[covariance_type].n_quadratic(d)
    b = 2048
    C, phi = torch.randn(K, width).to(dtype), torch.randn(width, b).to(dtype)
    resp = torch.empty(K, b, dtype=dtype)

    def block():
        torch.mm(C, phi, out=resp)
        resp.clamp_(-20, 0).exp_()
        resp @ phi.mT

    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    best = min(seconds(block) for _ in range(50))
    torch.set_num_threads(previous)
    return best * n / b / threads


def iteration_rows(only, threads):
    """Time one iteration of each configuration."""
    for covariance_type, n, d, K in ITERATIONS:
        if only not in f"iteration {covariance_type} {n} {d} {K}":
            continue
        big = n * d * K > 1e8
        repeats, n_iter = (2, 2) if big else (7, 10)
        for dtype in (np.float64, np.float32):
            # at the largest size, float32 is compared with scikit-learn's float64
            reference = np.float64 if big else dtype
            shape = (covariance_type, n, d, K)
            spent = time_iterations(
                *shape, dtype, repeats, n_iter, reference_dtype=reference, warm_up=not big
            )
            dtypes = {"sklearn": reference, "skgmmot": dtype}
            memory = {
                name: peak_memory(__file__, name, *shape, np.dtype(dtypes[name]).name)
                for name in spent
            }
            lowest = floor(*shape, torch.from_numpy(np.empty(0, dtype)).dtype, threads)
            gpu = on_gpu(*shape, dtype, repeats, n_iter)
            yield {
                "work": "iteration",
                **describe(*shape, dtype, threads),
                **compare(spent),
                "share of floor": lowest / spent["skgmmot"],
                "sklearn MB": memory["sklearn"],
                "skgmmot MB": memory["skgmmot"],
                "gpu ms": None if gpu is None else 1e3 * gpu,
            }


def fit_rows(only, threads):
    """Time whole fits."""
    for covariance_type, n, d, K, n_init in FITS:
        if only not in f"fit {covariance_type} {n} {d} {K}":
            continue
        for dtype in (np.float64, np.float32):
            spent = time_fits(covariance_type, n, d, K, n_init, dtype, repeats=3)
            shape = describe(covariance_type, n, d, K, dtype, threads)
            yield {"work": f"fit, k-means, n_init={n_init}", **shape, **compare(spent)}


def prediction_rows(only, threads):
    """Time predictions of one fitted mixture."""
    for covariance_type, n, d, K in PREDICTIONS:
        for dtype, work in itertools.product(
            (np.float64, np.float32), ("predict", "score_samples")
        ):
            if only not in f"{work} {covariance_type} {n} {d} {K}":
                continue
            X, means = data(n, d, K, dtype)
            fitted = estimators(covariance_type, d, K, means, max_iter=2)
            calls = {name: getattr(model.fit(X), work) for name, model in fitted.items()}
            found = {name: [] for name in calls}
            for _ in range(7):
                for name, call in calls.items():
                    time.sleep(0.2)  # as above
                    call(X[:1000])
                    found[name].append(seconds(lambda call=call, X=X: call(X)))
            spent = {name: float(np.median(values)) for name, values in found.items()}
            shape = describe(covariance_type, n, d, K, dtype, threads)
            yield {"work": work, **shape, **compare(spent)}


def describe(covariance_type, n, d, K, dtype, threads):
    """The columns that say what is run."""
    shape = {"covariance": covariance_type, "n": n, "d": d, "K": K}
    return {**shape, "dtype": np.dtype(dtype).name, "threads": threads}


def compare(spent):
    """The columns of two times."""
    times = {f"{name} ms": 1e3 * value for name, value in spent.items()}
    return {**times, "ratio": spent["sklearn"] / spent["skgmmot"]}


def acceleration_rows():
    """Passes over overlapping data until EM changes by less than a tolerance."""
    for n, d, K in [(2000, 2, 5), (3000, 3, 4), (5000, 8, 8), (10_000, 2, 10)]:
        for tol in (1e-5, 1e-8):
            passes, bounds = {None: [], "squarem": []}, {None: [], "squarem": []}
            for seed in range(5):
                rng = np.random.default_rng(seed)
                X = rng.normal(size=(K, d))[rng.integers(K, size=n)] + rng.normal(size=(n, d))
                for acceleration in passes:
                    model = DifferentiableGaussianMixture(
                        K, acceleration=acceleration, tol=tol, max_iter=50_000, random_state=seed
                    ).fit(X)
                    passes[acceleration].append(model.n_iter_)
                    bounds[acceleration].append(model.lower_bound_)
            ratios = np.array(passes[None]) / passes["squarem"]
            gains = np.array(bounds["squarem"]) - bounds[None]
            yield {
                "n": n,
                "d": d,
                "K": K,
                "tol": tol,
                "plain passes": float(np.median(passes[None])),
                "squarem passes": float(np.median(passes["squarem"])),
                "median ratio": float(np.median(ratios)),
                "smallest ratio": float(ratios.min()),
                "smallest gain in log-likelihood": float(gains.min()),
            }


def write_markdown(table, accelerated, path):
    """Both tables, with where they come from."""
    versions = f"torch {torch.__version__}, scikit-learn {sklearn.__version__}"
    lines = [
        "# One EM iteration, whole fits and predictions, against scikit-learn",
        "",
        f"Written by `python benchmarks/bench_em.py` on {machine()}; {versions}.",
        "Medians of interleaved repeats in one run. ratio: scikit-learn's time over ours. share of",
        "floor: the time of the two matrix products and the exponentials alone, over ours. MB:",
        "peak memory beyond the data. At (1e6, 16, 32) float32 is compared with their float64.",
        "",
        *markdown(table),
    ]
    if accelerated:
        lines += [
            "",
            "## Passes over the data, plain and accelerated",
            "",
            "Five overlapping mixtures each, k-means starts; medians, and the worst case.",
            "",
            *markdown(accelerated),
        ]
    path.write_text("\n".join(lines) + "\n")


def write_plot(table, path):
    """The ratios as bars."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    chosen = table[::-1]
    labels = [
        f"{r['work']}, {r['covariance']} ({r['n']:.0e}, {r['d']}, {r['K']}), {r['dtype']}, "
        f"{r['threads']} thread(s)"
        for r in chosen
    ]
    figure, ax = plt.subplots(figsize=(10, 0.28 * len(chosen) + 1), layout="constrained")
    colors = ["C0" if r["dtype"] == "float64" else "C1" for r in chosen]
    bars = ax.barh(labels, [r["ratio"] for r in chosen], color=colors)
    ax.bar_label(bars, fmt="%.1f", padding=3)
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set(xlabel="times faster than scikit-learn", title="EM on the CPU")
    ax.margins(x=0.08)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a configuration's name")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=sklearn.exceptions.ConvergenceWarning)
    if args.memory:
        print_memory(*json.loads(args.memory))
        return
    table, accelerated = [], []
    for threads in args.threads:
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            for make in (iteration_rows, fit_rows, prediction_rows):
                for row in make(args.only, threads):
                    table.append(row)
                    print(*markdown([row])[2:], flush=True)
                    write(table, accelerated)  # as it grows: an interrupted run is not lost
    if args.only in "acceleration":
        for row in acceleration_rows():
            accelerated.append(row)
            print(*markdown([row])[2:], flush=True)
            write(table, accelerated)


def write(table, accelerated):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    write_csv(table, RESULTS / "bench_em.csv")
    write_markdown(table, accelerated, RESULTS / "bench_em.md")
    write_plot(table, RESULTS / "bench_em.png")
    if accelerated:
        write_csv(accelerated, RESULTS / "bench_em_acceleration.csv")


if __name__ == "__main__":
    main()
