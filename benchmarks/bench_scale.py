"""Data that does not fit into memory: one question and one table each.

    python benchmarks/bench_scale.py              # all questions but Spark
    python benchmarks/bench_scale.py block_sizes  # some
    python benchmarks/bench_scale.py --quick      # less data, nothing is written

Writes ``results/bench_scale_QUESTION.csv`` for each, and all tables to ``bench_scale.md``. Files of
up to 4 GB are written to the folder for temporary files, or to ``--folder``, and removed.
"""

import argparse
import contextlib
import datetime
import gc
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import sklearn
import torch
from _common import (
    RESULTS,
    cpu_seconds,
    machine,
    markdown,
    peak_during,
    read_csv,
    seconds,
    write_csv,
)
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot._inputs.dask.blocks import DaskBlocks
from skgmmot.estimators.mixtures._checkpoint import KINDS, VERSION, WHAT
from skgmmot.numerics import archive

FEATURES, COMPONENTS = 8, 10


def rows(n, seed=0):
    """Samples of a mixture, float32."""
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(0).normal(size=(COMPONENTS, FEATURES)).astype("f4")
    noise = rng.standard_normal(size=(n, FEATURES), dtype="f4")
    return centres[rng.integers(COMPONENTS, size=n)] + noise


def write_rows(path, n):
    """The same in a file, part by part."""
    array = np.lib.format.open_memmap(path, "w+", dtype="f4", shape=(n, FEATURES))
    for i in range(0, n, 2**20):
        array[i : i + 2**20] = rows(min(2**20, n - i), seed=i)
    array.flush()


def model(max_iter, **parameters):
    """A mixture that starts from given parameters and makes so many iterations."""
    given = {
        "weights_init": np.full(COMPONENTS, 1 / COMPONENTS),
        "means_init": rows(COMPONENTS),
        "precisions_init": np.stack([np.eye(FEATURES)] * COMPONENTS),
    }
    return DifferentiableGaussianMixture(
        COMPONENTS, max_iter=max_iter, tol=0.0, random_state=0, **{**given, **parameters}
    )


def per_iteration(X, n_iter, repeats):
    """CPU seconds of one iteration: a longer fit less one of a single iteration."""
    found = []
    for _ in range(repeats):
        fits = [partial(model(k).fit, X) for k in (1, 1 + n_iter)]
        short, long = map(cpu_seconds, fits)
        found.append((long - short) / n_iter)
    return float(np.median(found))


# --- samples in blocks ---------------------------------------------------------------------------


def memory_map(quick, folder):
    """A memory-mapped file: peak memory of one process.

    8 features in float32, 10 components, start by k-means, two iterations; MB beyond what the
    process takes before, from Linux's high-water mark; process: that mark itself. result: what a
    prediction returns. Time is by the clock, with two threads.
    """
    n = 2**25 + 2**24 if quick else 2**27
    path = folder / "samples.npy"
    write_rows(path, n)
    for work in ("fit", "score", "predict"):
        found = in_own_process("map", work, str(path))
        yield {"work": work, "n": n, "GB": path.stat().st_size / 1e9, **found}


def in_own_process(*what):
    """What one of `MEASURED` prints in a process of its own."""
    command = [sys.executable, __file__, "--memory", json.dumps(what)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure_map(work, path):
    """Print the peak memory and the time of work on a memory-mapped file."""
    X = np.load(path, mmap_mode="r")
    start = dict.fromkeys(("weights_init", "means_init", "precisions_init"))
    mixture = model(2, **start)
    if work != "fit":
        mixture.fit(np.array(X[:10_000]))
    done = []
    began = time.perf_counter()
    peak = peak_during(lambda: done.append(getattr(mixture, work)(X)))
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text().splitlines()
    process = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    result = getattr(done[0], "nbytes", 0) / 2**20
    found = {"peak MB": peak, "result MB": result, "process MB": process, "seconds": seconds}
    print(json.dumps(found))


def starts(quick, folder):
    """Samples in memory: peak memory of a fit of one iteration, from each start.

    1,000,000 rows of 48 features in float32, 192 MB; 10 components with full covariances; a process
    each, one thread. MB beyond the samples, from Linux's high-water mark. k-means is scikit-learn's
    in both: a copy of the samples, and as much again for their variances.
    """
    n = 100_000 if quick else 1_000_000
    for start in ("random_from_data", "k-means++", "random", "kmeans"):
        mb, cpu_s = in_own_process("start", "skgmmot", start, n)
        their_mb, their_cpu_s = in_own_process("start", "scikit-learn", start, n)
        yield {
            "start": start,
            "skgmmot MB": mb,
            "scikit-learn MB": their_mb,
            "skgmmot CPU s": cpu_s,
            "scikit-learn CPU s": their_cpu_s,
            "ratio": their_cpu_s / cpu_s,
        }


def measure_start(program, start, n):
    """Print the peak memory in MB and the CPU time of a fit of one iteration."""
    torch.set_num_threads(1)
    X = np.random.default_rng(0).standard_normal((n, 48), dtype="f4")
    X[: n // 2] += 3
    mixture = {"skgmmot": DifferentiableGaussianMixture, "scikit-learn": GaussianMixture}[program]
    model = mixture(10, init_params=start, max_iter=1, random_state=0)
    clone(model).fit(X[:1000])  # libraries are loaded
    with threadpool_limits(1):
        began = time.process_time()
        peak = peak_during(lambda: model.fit(X))
        print(json.dumps([peak, time.process_time() - began]))


#: What is measured in processes of their own.
MEASURED = {"map": measure_map, "start": measure_start}


def linear(quick, folder):
    """Samples in a file: CPU seconds of one iteration, and of a million rows.

    8 features in float32, 10 components; blocks of 100,000 rows of a memory-mapped file, one
    thread. Median of three differences between a fit of one iteration and one of more.
    """
    for n in [10**5, 10**6] if quick else [10**5, 10**6, 10**7]:
        path = folder / "samples.npy"
        write_rows(path, n)
        X = np.load(path, mmap_mode="r")
        spent = per_iteration(in_blocks(X, 10**5), max(2, 2 * 10**6 // n), 1 if quick else 3)
        yield {"n": n, "CPU s": spent, "CPU s of 1e6 rows": spent / n * 1e6}


def in_blocks(X, size):
    """A function that returns blocks of rows."""
    return lambda: (np.asarray(X[i : i + size]) for i in range(0, len(X), size))


def block_sizes(quick, folder):
    """Sizes of blocks: the same result, and CPU seconds of one iteration.

    1,000,000 rows of 8 features in float64, 10 components, in memory and in blocks of them, one
    thread. difference: the largest of any fitted weight, mean, covariance or lower bound from those
    of the fit in memory, after ten iterations. Median of three.
    """
    X = rows(10**5 if quick else 10**6).astype("f8")
    memory = model(10).fit(X)
    for size in [None, 10**3, 10**4, 10**5, 10**6]:
        samples = X if size is None else in_blocks(X, size)
        found = model(10).fit(samples)
        names = ("weights_", "means_", "covariances_", "lower_bound_")
        apart = (np.abs(getattr(found, k) - getattr(memory, k)).max() for k in names)
        spent = per_iteration(samples, 5, 1 if quick else 3)
        yield {"block": size or "memory", "difference": float(max(apart)), "CPU s": spent}


# --- stepwise: one pass of partial_fit against fit -----------------------------------------------

#: Data by name: components, features, distance of the centres in units of the spread, type.
STREAMS = {
    "apart": (10, 8, 3.0, "full"),
    "overlapping": (10, 8, 0.7, "full"),
    "overlapping plane": (5, 2, 1.0, "full"),
    "tied": (6, 4, 1.5, "tied"),
    "diag, many numbers": (20, 16, 1.5, "diag"),
    "spherical fitted to stretched": (30, 3, 2.0, "spherical"),
    "ring": (10, 2, None, "full"),
    "heavy tails": (5, 4, None, "full"),
}


def stream(name, n, seed):
    """Samples of one of the data sets in random order."""
    K, d, spread, _ = STREAMS[name]
    rng = np.random.default_rng(seed)
    if name == "ring":
        angle = rng.uniform(0, 2 * np.pi, n)
        return 3 * np.c_[np.cos(angle), np.sin(angle)] + 0.3 * rng.normal(size=(n, 2))
    if name == "heavy tails":
        return rng.standard_t(4, size=(n, d))
    weights, centres = rng.dirichlet(np.full(K, 5.0)), spread * rng.normal(size=(K, d))
    A = rng.normal(size=(K, d, d)) / d**0.5 + 0.5 * np.eye(d)
    k, X = rng.choice(K, size=n, p=weights), rng.normal(size=(n, d))
    for j in range(K):
        X[k == j] = centres[j] + X[k == j] @ A[j].T
    return X


def stepwise(quick, _folder):
    """One pass of partial_fit against fit: mean log-likelihood and CPU seconds.

    100 blocks of 10,000 rows, and 20 more that no model has seen; one thread.
    fit: mean log-likelihood of `fit` on all samples at the default tol, from the k-means of the
    first block, whose time is not counted; iterations: of it. The other columns are differences
    from it, on the same samples and on those held out. partial_fit: one pass, of which the first
    block is fitted, from k-means. fit of a tenth: `fit` on the first ten blocks, from the same
    start. warm starts: scikit-learn's `GaussianMixture(warm_start=True, max_iter=1).fit` on each
    block, which forgets all earlier ones; scikit-learn has no `partial_fit` of mixtures. Large
    differences are other local maxima.
    """
    n_blocks, n = (20, 1000) if quick else (100, 10_000)
    for name, (K, d, _, covariance_type) in STREAMS.items():
        for seed in range(1 if quick else 3):
            X = stream(name, (n_blocks + 20) * n, seed)
            X, held = X[: n_blocks * n], X[n_blocks * n :]
            blocks = np.split(X, n_blocks)
            options = {"covariance_type": covariance_type, "random_state": seed}

            def pass_over(model, learn, blocks=blocks):
                return cpu_seconds(lambda: [learn(model, block) for block in blocks])

            # from where partial_fit starts, so that both climb the same hill
            start = DifferentiableGaussianMixture(K, max_iter=0, **options).fit(blocks[0])
            given = {f"{p}_init": getattr(start, f"{p}_") for p in ("weights", "means")}
            given["precisions_init"] = start.precisions_
            batch = DifferentiableGaussianMixture(K, **options, **given)
            took = {"fit s": cpu_seconds(lambda m=batch, X=X: m.fit(X))}
            models = {
                "partial_fit": DifferentiableGaussianMixture(K, **options),
                "fit of a tenth": DifferentiableGaussianMixture(K, **options, **given),
                "warm starts": GaussianMixture(K, max_iter=1, warm_start=True, **options),
            }
            took["partial_fit s"] = pass_over(
                models["partial_fit"], DifferentiableGaussianMixture.partial_fit
            )
            took["fit of a tenth s"] = cpu_seconds(
                lambda m=models["fit of a tenth"], X=X: m.fit(X[: len(X) // 10])
            )
            took["warm starts s"] = pass_over(models["warm starts"], GaussianMixture.fit)
            row = {"data": name, "n": len(X), "d": d, "K": K, "seed": seed}
            row |= {"iterations": batch.n_iter_, "fit": batch.score(X)}
            for model_name, model in models.items():
                row[f"{model_name} - fit"] = model.score(X) - batch.score(X)
                row[f"{model_name} - fit, held out"] = model.score(held) - batch.score(held)
            yield row | took


# --- checkpoint, kills: what keeping the state of a fit costs, and that it is never lost ----------


def checkpoint(quick):
    """What a checkpoint costs: milliseconds of an iteration, or of an epoch of ten steps.

    The same fit without a checkpoint, twice, and with one written after every iteration (epoch);
    medians of alternating fits. CPU: of one thread. writing: wall time of one
    writing alone, most of which is until the disk has it; file: its size.
    """
    fits = [
        ("EM", 10**6, 8, 10, 10, 5),
        ("EM", 10**4, 8, 10, 20, 9),
        ("EM", 500, 2, 3, 20, 41),
        ("EM, full, many numbers", 10**5, 64, 30, 5, 3),
        ("sliced", 10**4, 2, 3, 100, 5),
    ]
    for name, n, d, K, n_iter, repeats in fits:
        n, repeats = (n // 10, 1) if quick else (n, repeats)
        X = np.random.default_rng(0).normal(size=(n, d))
        options = {"tol": 0.0, "max_iter": n_iter, "random_state": 0, "n_init": 1}
        if name == "sliced":
            mixture, n_iter = SlicedWassersteinGMM(K, n_projections=20, **options), n_iter // 10
        else:
            mixture = DifferentiableGaussianMixture(K, init_params="random_from_data", **options)
        with tempfile.TemporaryDirectory() as folder:
            path, took = Path(folder) / "fit.npz", {}
            for _ in range(repeats):
                for column, where in (("none", None), ("none again", None), ("every", path)):
                    path.unlink(missing_ok=True)
                    mixture.set_params(checkpoint=where)
                    took.setdefault(column, []).append(cpu_seconds(partial(mixture.fit, X)))
            kept = archive.read(path, what=WHAT, version=VERSION, kinds=KINDS)
            write_again = partial(
                archive.write, path, kept, what=WHAT, version=VERSION, kinds=KINDS
            )
            writing = [seconds(write_again) for _ in range(20)]
            row = {"fit": name, "n": n, "d": d, "K": K, "iterations": n_iter}
            for column, times in took.items():
                row[f"{column}: CPU ms"] = 1e3 * np.median(times) / n_iter
            yield row | {
                "writing: ms": 1e3 * np.median(writing),
                "file: kB": path.stat().st_size / 1e3,
            }


def kills(quick):
    """Fits that are killed at random times, 20 times in a row, and then end.

    Each process is killed (SIGKILL) after a random time of up to an eighth of what the whole fit
    takes, and the next one continues from its checkpoint, written after every iteration (epoch);
    s: seconds of the whole fit. ended before: fits that were done before their
    kill. torn: checkpoints that could not be read. same bits: whether the end has the bits of a fit
    that was never killed.
    """
    n, rng = (300 if quick else 3000), np.random.default_rng(0)
    centres = 2 * rng.normal(size=(5, 3))
    X = np.vstack([c + rng.normal(size=(n // 5, 3)) for c in centres])
    em = partial(DifferentiableGaussianMixture, 5, tol=0.0, random_state=0)
    sliced = partial(SlicedWassersteinGMM, 3, n_projections=20, random_state=0)
    fits = {
        "EM, n_init=3": (em(max_iter=60, n_init=3, init_params="random_from_data"), X),
        "EM, squarem": (em(max_iter=180, acceleration="squarem"), X),
        "EM, float32": (em(max_iter=180), X.astype(np.float32)),
        "sliced, n_init=2": (sliced(tol=0.0, max_iter=400), X),
        "sliced, batches": (sliced(tol=0.0, max_iter=400, batch_size=200, refine="em"), X),
    }
    for name, (mixture, samples) in fits.items():
        with tempfile.TemporaryDirectory() as folder:
            whole, took = _ended(mixture, samples, f"{folder}/whole.npz")
            path, torn, early = f"{folder}/fit.npz", 0, 0
            for _ in range(2 if quick else 20):
                early += _killed(mixture, samples, path, rng.uniform(0.0, took / 8))
                torn += os.path.exists(path) and not _is_whole(path)
            end, _ = _ended(mixture, samples, path)
            row = {"fit": name, "s": took, "kills": 2 if quick else 20, "ended before": early}
            yield row | {"torn": torn, "same bits": end == whole}


def _ended(mixture, X, path):
    """The numbers of a fit with a checkpoint, and how long it took."""
    fitted = clone(mixture).set_params(checkpoint=path)
    took = seconds(lambda: fitted.fit(X))
    names = "weights_", "means_", "covariances_", "n_iter_"
    return [np.asarray(getattr(fitted, name)).tobytes() for name in names], took


def _killed(mixture, X, path, after):
    """Whether a fit in a process of its own had ended when it was killed."""
    process = os.fork()
    if not process:
        _ended(mixture, X, path)
        os._exit(0)
    time.sleep(after)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def _is_whole(path):
    """Whether a checkpoint can be read."""
    try:
        archive.read(path, what=WHAT, version=VERSION, kinds=KINDS)
    except archive.ArchiveError:
        return False
    return True


# --- dask: a task a block ------------------------------------------------------------------------


def clouds(i, n, K=10, d=8):
    """The i-th block of samples of K clouds."""
    rng = np.random.default_rng(i)
    return 3 * np.random.default_rng(0).normal(size=(K, d))[rng.integers(K, size=n)] + rng.normal(
        size=(n, d)
    )


def start_of(block, K=10, **options):
    """A mixture that starts at what k-means finds in a block."""
    found = DifferentiableGaussianMixture(K, max_iter=0, random_state=0).fit(block[:20_000])
    given = {"weights_init": found.weights_, "means_init": found.means_}
    given["precisions_init"] = found.precisions_
    return DifferentiableGaussianMixture(K, tol=0.0, random_state=0, **given, **options)


def same_mixture(left, right):
    """Whether two fits have the same bits."""
    names = ("weights_", "means_", "covariances_", "lower_bounds_")
    return all(np.array_equal(getattr(left, n), getattr(right, n)) for n in names)


@contextlib.contextmanager
def cluster(n_workers, memory):
    """A client of some workers of one thread each, and a function that gives their CPU seconds."""
    from distributed import Client, LocalCluster

    options = {"dashboard_address": ":0", "memory_limit": memory, "silence_logs": 50}
    local = LocalCluster(n_workers=n_workers, threads_per_worker=1, **options)
    with local, Client(local) as client:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        yield client, lambda: sum(sum(p.cpu_times()[:2]) for p in processes)


def high_water():
    """Peak and present memory of this process in MB; the peak is reset."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")
    return [int(lines[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS")]


def dask_iterations(quick, _folder):
    """An iteration of EM on dask against one in memory.

    1e6 samples, d = 8, K = 10, full covariances, float64; persisted blocks, one thread a worker;
    on two cores. Medians of five rounds, in each of which all rows take turns;
    an iteration is a tenth of a fit of ten, less a fit of none.
    CPU s: of the client, the scheduler and all workers, which also run idle while the fit in memory
    is timed. In memory: by as many threads as there are workers. CPU over memory: median of the
    rounds; least: of the least CPU s. tasks: of a pass. kB: on the wire, all that went through
    the machine's loopback, least of the rounds (none where traffic of other work is subtracted), of
    which back: sums. MB in a worker: the most beyond what it held before the fit.
    Same bits: as the same blocks in memory.
    """
    import dask.array as da

    n, d, K, n_iter, repeats = 10**5 if quick else 10**6, 8, 10, 10, 1 if quick else 5
    X = clouds(1, n)
    first = start_of(X)

    def model(max_iter):
        return sklearn.base.clone(first).set_params(max_iter=max_iter)

    def spent(cpu, max_iter, samples):
        counters = cpu, time.perf_counter, on_loopback
        before = [now() for now in counters]
        model(max_iter).fit(samples)
        return np.array([now() - was for now, was in zip(counters, before, strict=True)])

    for n_workers in (1, 2):
        with cluster(n_workers, "2GiB") as (client, cpu):
            places, memory = {1: X}, {}
            for n_blocks in (4, 8, 16, 32):
                x = places[n_blocks] = da.from_array(X, chunks=(n // n_blocks, d)).persist()
                model(1).fit(x)
                client.run(high_water)
                model(n_iter).fit(x)
                memory[n_blocks] = max(a - b for a, b in client.run(high_water).values())
            found = {n_blocks: [] for n_blocks in places}
            for _ in range(repeats):
                for n_blocks, x in places.items():
                    torch.set_num_threads(n_workers if n_blocks == 1 else 1)
                    none, ten = (spent(cpu, k, x) for k in (0, n_iter))
                    found[n_blocks].append((ten - none) / n_iter)
            torch.set_num_threads(1)
            found = {n_blocks: np.array(rounds) for n_blocks, rounds in found.items()}
            for n_blocks, x in places.items():
                (cpu_s, wall, _), least = np.median(found[n_blocks], 0), found[n_blocks].min(0)
                row = {"where": "memory", "workers": n_workers, "blocks": n_blocks}
                row |= {"CPU s": cpu_s, "s": wall}
                if n_blocks > 1:
                    over = np.median(found[n_blocks][:, 0] / found[1][:, 0])
                    back = n_blocks * 8 * (K * (1 + d + d * (d + 1) // 2) + 1) / 1e3
                    blocks = np.split(X, n_blocks)
                    expected = model(n_iter).fit(lambda b=blocks: iter(b))
                    row |= {
                        "where": "dask",
                        "CPU over memory %": 100 * (over - 1),
                        "least %": 100 * (least[0] / found[1][:, 0].min() - 1),
                        "tasks": len(DaskBlocks(x)._groups(range(n_blocks))),
                        "kB": least[2] / 1e3 if least[2] / 1e3 > back else None,
                        "of it back": back,
                        "MB in a worker": memory[n_blocks],
                        "same bits": same_mixture(model(n_iter).fit(x), expected),
                    }
                yield row


def on_loopback():
    """Bytes that went through this machine's own network."""
    return psutil.net_io_counters(pernic=True)["lo"].bytes_sent


def dask_files(quick, folder):
    """2.5 GB of samples in files, and two workers of 1 GB.

    4e7 samples, d = 8, K = 10, full covariances, float64, in blocks of 250,000 rows (16 MB), two
    workers of one thread and a memory limit of 1 GB each, on two shared cores.
    Three iterations, and passes for validation and start. Peak MB of a worker: of its process. MB
    beyond a block: the peak beyond what the worker held before, less one block, for reading the
    blocks alone, and for the fit. Same bits: as the same blocks, read by this process.
    """
    import dask
    import dask.array as da
    import dask.dataframe as dd
    import pandas as pd
    import zarr

    n_blocks, rows, names = 4 if quick else 160, 250_000, [f"x{j}" for j in range(8)]
    with tempfile.TemporaryDirectory(dir=folder) as folder:
        path, first = f"{folder}/X.zarr", start_of(clouds(0, rows), max_iter=3)

        def blocks():
            return (array[i * rows : (i + 1) * rows] for i in range(n_blocks))

        for kind in ("zarr", "parquet"):
            if kind == "zarr":
                shape, chunks = (n_blocks * rows, 8), (rows, 8)
                array = zarr.create_array(
                    path, shape=shape, chunks=chunks, dtype=float, compressors=None
                )
                for i in range(n_blocks):
                    array[i * rows : (i + 1) * rows] = clouds(i, rows)
                expected = sklearn.base.clone(first).fit(blocks)
            else:
                for i, block in enumerate(blocks()):
                    frame = pd.DataFrame(block, columns=names)
                    frame.to_parquet(f"{folder}/{i:03d}.parquet", compression=None)
                shutil.rmtree(path)
            with cluster(2, "1GB") as (client, cpu):
                x = da.from_zarr(path) if kind == "zarr" else dd.read_parquet(f"{folder}/*.parquet")
                sklearn.base.clone(first).fit(x.partitions[:2])  # imports
                client.run(gc.collect)
                now = {w: rss for w, (_, rss) in client.run(high_water).items()}
                list(
                    dask.compute(*(dask.delayed(len)(block) for block in np.ravel(x.to_delayed())))
                )
                reading = client.run(high_water)
                before, began = cpu(), time.perf_counter()
                fitted = sklearn.base.clone(first).fit(x)
                took, seconds = cpu() - before, time.perf_counter() - began
                fitting = client.run(high_water)
            peaks = [peak for peak, _ in fitting.values()]
            beyond = [
                max(peak - now[w] for w, (peak, _) in found.items()) - rows * 8 * 8 / 2**20
                for found in (reading, fitting)
            ]
            yield {
                "files": kind,
                "GB": n_blocks * rows * 8 * 8 / 1e9,
                "s": seconds,
                "CPU s": took,
                "peak MB of a worker": max(peaks),
                "MB beyond a block: reading": beyond[0],
                "MB beyond a block: fit": beyond[1],
                "same bits": same_mixture(fitted, expected),
            }


def spark(quick, folder):
    """An iteration of EM on dask against one of Spark MLlib's `GaussianMixture`.

    1e6 samples, d = 8, K = 10, full covariances, float64, in eight blocks that are held in memory:
    by two dask workers of one thread each, and by Spark's ``local[2]``. Medians of five rounds, in
    each of which both take turns. An iteration: a tenth of a fit of twelve, less a fit of two, from
    a start of its own each. CPU s: of all processes. Spark found no native BLAS. Needs Java and
    pyspark (4.3.0 here); two cores.
    """
    import dask.array as da
    import pandas as pd
    from pyspark.ml.clustering import GaussianMixture as SparkMixture
    from pyspark.ml.feature import VectorAssembler
    from pyspark.sql import SparkSession

    n, d, K, n_blocks, rounds = 10**4 if quick else 10**6, 8, 10, 8, 1 if quick else 5
    X = clouds(1, n)
    names = [f"x{j}" for j in range(d)]
    pd.DataFrame(X, columns=names).to_parquet(folder / "X.parquet")
    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = session.config("spark.driver.memory", "4g").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    table = session.read.parquet(str(folder / "X.parquet"))
    assembled = VectorAssembler(inputCols=names, outputCol="features").transform(table)
    data = assembled.select("features").repartition(n_blocks).cache()
    data.count()
    java = [p for p in psutil.Process().children(recursive=True) if "java" in p.name()]

    def spark_cpu():
        return sum(sum(p.cpu_times()[:2]) for p in [psutil.Process(), *java])

    with cluster(2, "2GiB") as (_, cpu):
        x = da.from_array(X, chunks=(n // n_blocks, d)).persist()
        first = start_of(X)
        fits = {
            "skgmmot on dask": (cpu, lambda k: clone(first).set_params(max_iter=k).fit(x)),
            "Spark": (spark_cpu, lambda k: SparkMixture(k=K, maxIter=k, tol=0.0, seed=0).fit(data)),
        }

        def spent(now, fit, n_iter):
            before = now(), time.perf_counter()
            fit(n_iter)
            return np.subtract((now(), time.perf_counter()), before)

        found = {name: [] for name in fits}
        for now, fit in fits.values():
            spent(now, fit, 3)  # what is compiled first
        for _ in range(rounds):
            for name, (now, fit) in fits.items():
                found[name].append((spent(now, fit, 12) - spent(now, fit, 2)) / 10)
    session.stop()
    medians = {name: np.median(each, 0) for name, each in found.items()}
    for name, (cpu_s, wall) in medians.items():
        times = cpu_s / medians["skgmmot on dask"][0]
        yield {"program": name, "CPU s": cpu_s, "s": wall, "times ours": times}


QUESTIONS = {
    "memory_map": memory_map,
    "starts": starts,
    "linear": linear,
    "block_sizes": block_sizes,
    "stepwise": stepwise,
    "checkpoint": checkpoint,
    "kills": kills,
    "dask_iterations": dask_iterations,
    "dask_files": dask_files,
    "spark": spark,
}
#: Questions that are about more than one thread.
THREADS = {"memory_map": 2}


def write():
    """Write the tables of all questions that have results."""
    lines = [
        "# Data that does not fit into memory",
        "",
        f"Written by `python benchmarks/bench_scale.py` on {machine()};",
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, one thread unless said.",
    ]
    for name, question in QUESTIONS.items():
        table = read_csv(RESULTS / f"bench_scale_{name}.csv")
        if table:
            title, _, text = inspect.getdoc(question).partition("\n\n")
            dates = sorted({row.pop("date") for row in table})
            lines += ["", f"## {title.rstrip('.')}", "", text, f"Run on {', '.join(dates)}.", ""]
            lines += markdown(table)
    (RESULTS / "bench_scale.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", help="which, of " + ", ".join(QUESTIONS))
    parser.add_argument("--quick", action="store_true", help="less data")
    parser.add_argument("--folder", help="where files of up to 4 GB are written")
    parser.add_argument("--memory", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    if args.memory:
        MEASURED[args.memory[0]](*args.memory[1:])
        return
    unknown = set(args.questions) - set(QUESTIONS)
    if unknown:
        parser.error(f"questions must be of {', '.join(QUESTIONS)}, got {', '.join(unknown)}")
    RESULTS.mkdir(exist_ok=True)
    asked = args.questions or [name for name in QUESTIONS if name != "spark"]
    for name in asked:
        table, n_threads = [], THREADS.get(name, 1)
        torch.set_num_threads(n_threads)
        with threadpool_limits(n_threads), tempfile.TemporaryDirectory(dir=args.folder) as folder:
            for row in QUESTIONS[name](args.quick, Path(folder)):
                table.append(row | {"date": str(datetime.date.today())})
                print(*markdown([row])[2:], flush=True)
        if not args.quick:
            write_csv(table, RESULTS / f"bench_scale_{name}.csv")
    write()


if __name__ == "__main__":
    main()
