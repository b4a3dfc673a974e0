"""One EM iteration, and whole fits, against scikit-learn's in the same run.

Both start from the same given weights, means and precisions and make the same iterations. The time
of one iteration is the difference between a long and a short fit, over the iterations between them;
repeats of the two programs are interleaved and their medians compared. Peak memory beyond the data
is read in a process of its own for each program. With a GPU, ours is also run there.

    python benchmarks/bench_em.py                # everything, about fifteen minutes on two cores
    python benchmarks/bench_em.py --only full    # configurations whose name contains 'full'

Writes ``results/bench_em.csv``, ``.md`` and ``.png`` beside this file.
"""

import argparse
import csv
import json
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from skgmmot import DifferentiableGaussianMixture

RESULTS = Path(__file__).parent / "results"

#: What is run: covariance type, samples, features, components, and the ratios to reach (issue 3).
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


def seconds(function):
    """Wall time of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def time_iterations(covariance_type, n, d, K, dtype, repeats, n_iter, reference_dtype):
    """Median seconds of one iteration of each program, interleaved."""
    X, means = data(n, d, K, dtype)
    samples = {"sklearn": X.astype(reference_dtype), "skgmmot": X}
    found = {name: [] for name in samples}
    for repeat in range(repeats + 1):
        for name, model in estimators(covariance_type, d, K, means).items():
            lengths = [(1, samples[name]), (1 + n_iter, samples[name])]
            short, long = (
                seconds(lambda m=model, i=i, x=x: m.set_params(max_iter=i).fit(x))
                for i, x in lengths
            )
            if repeat:  # the first is a warm-up
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


def peak_memory(name, covariance_type, n, d, K, dtype):
    """Peak memory beyond the data, in MB, of a two-iteration fit in a process of its own."""
    arguments = json.dumps([name, covariance_type, n, d, K, np.dtype(dtype).name])
    command = [sys.executable, __file__, "--memory", arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_memory(name, covariance_type, n, d, K, dtype):
    """Print what `peak_memory` reads: Linux's high-water mark, reset once the data is there."""
    X, means = data(n, d, K, dtype)
    model = estimators(covariance_type, d, K, means, max_iter=2)[name]
    # a tiny fit first, so that libraries are loaded and threads have run
    model.fit(data(100 * K, d, K, dtype)[0])
    status = Path("/proc/self/status")

    def read(field):
        line = next(s for s in status.read_text().splitlines() if s.startswith(field))
        return int(line.split()[1]) / 1024

    Path("/proc/self/clear_refs").write_text("5")
    before = read("VmRSS")
    model.fit(X)
    print(read("VmHWM") - before)


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


def rows(only, threads):
    """Run everything and yield one row of the table at a time."""
    for covariance_type, n, d, K in ITERATIONS:
        if only not in f"{covariance_type} {n} {d} {K}":
            continue
        big = n * d * K > 1e8
        repeats, n_iter = (3, 2) if big else (7, 10)
        for dtype in (np.float64, np.float32):
            # at the largest size, float32 is compared with scikit-learn's float64
            reference = np.float64 if big else dtype
            spent = time_iterations(
                covariance_type, n, d, K, dtype, repeats, n_iter, reference_dtype=reference
            )
            memory = {
                name: peak_memory(
                    name, covariance_type, n, d, K, reference if name == "sklearn" else dtype
                )
                for name in spent
            }
            yield {
                "work": "iteration",
                "covariance": covariance_type,
                "n": n,
                "d": d,
                "K": K,
                "dtype": np.dtype(dtype).name,
                "threads": threads,
                "sklearn ms": 1e3 * spent["sklearn"],
                "skgmmot ms": 1e3 * spent["skgmmot"],
                "ratio": spent["sklearn"] / spent["skgmmot"],
                "sklearn MB": memory["sklearn"],
                "skgmmot MB": memory["skgmmot"],
                "gpu ms": 1e3
                * (on_gpu(covariance_type, n, d, K, dtype, repeats, n_iter) or np.nan),
            }
    for covariance_type, n, d, K, n_init in FITS:
        if only not in f"fit {covariance_type}":
            continue
        for dtype in (np.float64, np.float32):
            spent = time_fits(covariance_type, n, d, K, n_init, dtype, repeats=3)
            yield {
                "work": f"fit, k-means, n_init={n_init}",
                "covariance": covariance_type,
                "n": n,
                "d": d,
                "K": K,
                "dtype": np.dtype(dtype).name,
                "threads": threads,
                "sklearn ms": 1e3 * spent["sklearn"],
                "skgmmot ms": 1e3 * spent["skgmmot"],
                "ratio": spent["sklearn"] / spent["skgmmot"],
            }


def write_markdown(table, path):
    """The table for people."""
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    versions = f"torch {torch.__version__}, scikit-learn {sklearn.__version__}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    lines = [
        "# One EM iteration, and whole fits, against scikit-learn",
        "",
        f"Written by `python benchmarks/bench_em.py` on {machine}; {versions}.",
        "Medians of interleaved repeats in one run; ratio: scikit-learn's time over ours; MB: peak",
        "memory beyond the data.",
        "",
    ]
    names = list(table[0])
    lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in table:
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in map(row.get, names)]
        lines.append("| " + " | ".join("" if c in ("nan", "None") else c for c in cells) + " |")
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
    table = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            for row in rows(args.only, threads):
                table.append(row)
                shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()}
                print(shown, flush=True)
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / "bench_em.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    write_markdown(table, RESULTS / "bench_em.md")
    write_plot(table, RESULTS / "bench_em.png")


if __name__ == "__main__":
    main()
