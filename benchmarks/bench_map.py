"""Move the pixels of a picture by the maps between two mixtures, against POT in the same run.

The samples are pixels of one of scikit-learn's photographs, drawn again to the number asked for,
with a camera's noise; the mixtures are fitted to it and to the other photograph. Both programs get
the same mixtures and the same plan. Repeats are interleaved and their medians compared (POT's
random map takes half a minute: it runs once). Peak memory is read in a process of its own, beyond
the samples and the images.

    python benchmarks/bench_map.py            # everything, about ten minutes on two cores
    python benchmarks/bench_map.py --quick    # 20,000 pixels, seconds

Writes ``results/bench_map.csv``, ``.md`` and ``.png`` beside this file.
"""

import argparse
import json
import warnings
from functools import partial

import numpy as np
import ot
import torch
from _common import RESULTS, machine, markdown, peak_during, peak_memory, seconds, write_csv
from threadpoolctl import threadpool_limits

from skgmmot import DifferentiableGaussianMixture, ot_map
from skgmmot.datasets import load_photograph

#: What is run: method and components of each mixture.
MAPS = [("mean", 10), ("mean", 30), ("random", 10), ("random", 30)]
THEIRS = {"mean": "bary", "random": "rand"}


def pixels(name, n, dtype=np.float64):
    """As many pixels of a photograph, with noise."""
    rng = np.random.default_rng(0)
    picture = load_photograph(name).reshape(-1, 3)
    drawn = picture[rng.integers(len(picture), size=n)]
    return (drawn + rng.uniform(-0.5, 0.5, size=drawn.shape) / 255).astype(dtype)


def programs(method, K):
    """Both maps as functions of samples, between the same mixtures and by the same plan."""
    fitted = [
        DifferentiableGaussianMixture(K, reg_covar=1e-4, random_state=0).fit(pixels(name, 20_000))
        for name in ("china", "flower")
    ]
    ours = ot_map(*fitted, strategy=method, random_state=0)
    names = ("means_", "covariances_", "weights_")
    arguments = [getattr(m, name) for name in names for m in fitted]

    def theirs(X, convert):
        given = [convert(array) for array in (X, *arguments, ours.plan_)]
        with torch.no_grad():
            return np.asarray(
                ot.gmm.gmm_ot_apply_map(*given[:-1], plan=given[-1], method=THEIRS[method], seed=0)
            )

    def as_tensor(array):
        return torch.from_numpy(array.astype(np.float64))

    maps = {"POT": partial(theirs, convert=np.asarray)}
    if method == "mean":  # POT's random map takes half a minute: once is enough
        maps["POT torch"] = partial(theirs, convert=as_tensor)
    return {**maps, "skgmmot": ours.transform}


def time_maps(method, K, n, dtype, repeats):
    """Median seconds of each program, interleaved, and the largest difference of mean images."""
    X, maps = pixels("china", n, dtype), programs(method, K)
    for move in maps.values():
        move(X[:1000])  # so that libraries are loaded
    found = {name: [] for name in maps}
    for repeat in range(repeats):
        for name, move in maps.items():
            if repeat == 0 or not (method == "random" and name == "POT"):
                found[name].append(seconds(lambda m=move: m(X)))
    apart = None
    if method == "mean":
        apart = float(np.abs(maps["POT"](X[:10_000]) - maps["skgmmot"](X[:10_000])).max())
    return {name: float(np.median(values)) for name, values in found.items()}, apart


def print_memory(name, method, K, n, dtype):
    """Print the peak memory beyond samples and images, in MB."""
    X, move = pixels("china", n, dtype), programs(method, K)[name]
    move(X[:1000])
    images = X.nbytes / 2**20
    print(peak_during(lambda: move(X)) - images)


def on_gpu(method, K, n, dtype, repeats):
    """Median seconds of our map on the GPU, or None without one."""
    if not torch.cuda.is_available():
        return None
    X, move = torch.tensor(pixels("china", n, dtype), device="cuda"), programs(method, K)["skgmmot"]

    def run():
        move(X)
        torch.cuda.synchronize()

    return float(np.median([seconds(run) for _ in range(repeats + 1)][1:]))


def memory(method, K, n, dtype, measured):
    """Peak memory of both programs, where it is measured; POT's random map takes too long twice."""
    runs = {"skgmmot MB": ("skgmmot", n), "skgmmot MB at 4 n": ("skgmmot", 4 * n)}
    if method == "mean":
        runs = {"POT MB": ("POT", n), **runs}
    return {
        column: peak_memory(__file__, program, method, K, size, dtype) if measured else None
        for column, (program, size) in runs.items()
    }


def rows(n, repeats, threads, measured):
    """Time each map."""
    for method, K in MAPS:
        for dtype in (np.float64, np.float32):
            name = np.dtype(dtype).name
            spent, apart = time_maps(method, K, n, dtype, repeats)
            gpu = on_gpu(method, K, n, dtype, repeats)
            yield {
                "method": method,
                "n": n,
                "K": K,
                "dtype": name,
                "threads": threads,
                **{f"{program} ms": 1e3 * value for program, value in spent.items()},
                "ratio": min(v for k, v in spent.items() if k != "skgmmot") / spent["skgmmot"],
                "largest difference": apart,
                **memory(method, K, n, name, measured),
                "gpu ms": None if gpu is None else 1e3 * gpu,
            }


def write(table):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    write_csv(table, RESULTS / "bench_map.csv")
    lines = [
        "# Moving pixels by the maps between two mixtures, against POT",
        "",
        f"Written by `python benchmarks/bench_map.py` on {machine()};",
        f"torch {torch.__version__}, POT {ot.__version__}. Medians of interleaved repeats in one",
        "run (POT's random map: once). ratio: POT's best time over ours. largest difference: of",
        "the images of 10,000 pixels, whose range is 1. MB: peak memory beyond samples and images;",
        "at 4 n, for four times as many.",
        "",
        *markdown(table),
    ]
    (RESULTS / "bench_map.md").write_text("\n".join(lines) + "\n")
    write_plot(table, RESULTS / "bench_map.png")


def write_plot(table, path):
    """The ratios as bars."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    labels = [f"{r['method']}, K={r['K']}, {r['dtype']}, {r['threads']} thread(s)" for r in table]
    figure, ax = plt.subplots(figsize=(9, 0.28 * len(table) + 1.2), layout="constrained")
    colors = ["C0" if r["method"] == "mean" else "C1" for r in table]
    bars = ax.barh(labels[::-1], [r["ratio"] for r in table][::-1], color=colors[::-1])
    ax.bar_label(bars, fmt="%.0f", padding=3)
    ax.set(xlabel="times faster than POT", xscale="log", title=f"Moving {table[0]['n']:,} pixels")
    ax.margins(x=0.1)
    ax.set_xlim(1, 1.5 * max(r["ratio"] for r in table))  # from where both take as long
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pixels, one thread, no memory")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "overflow", RuntimeWarning, module="ot")
    if args.memory:
        print_memory(*json.loads(args.memory))
        return
    n, repeats, threads = (20_000, 3, [1]) if args.quick else (10**6, 5, args.threads)
    table = []
    for count in threads:
        torch.set_num_threads(count)
        with threadpool_limits(count):
            for row in rows(n, repeats, count, measured=not args.quick):
                table.append(row)
                print(*markdown([row])[2:], flush=True)
                write(table)  # as it grows: an interrupted run is not lost


if __name__ == "__main__":
    main()
