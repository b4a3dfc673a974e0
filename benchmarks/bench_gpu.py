"""All that is heavy on one GPU, in eight minutes: tests, EM, k-means, distances, gradients, maps.

Written to be run once where a GPU is lent, without anything to prepare. Each question is a function
that yields rows; the table is written after each of them, with the card's name. Times are medians
after a warm-up, with the device synchronised. What a pass could at best take is reckoned from its
flops and its bytes, and from the card's own speed at one large product and one large copy:

    share of roofline = max(flops / measured flops/s, bytes / measured bytes/s) / time

    python benchmarks/bench_gpu.py                # a GPU, everything
    python benchmarks/bench_gpu.py --only e_step  # questions whose name contains 'e_step'
    python benchmarks/bench_gpu.py --cpu-smoke --out DIR    # tiny sizes on the CPU: no results

Writes ``results/bench_gpu.csv`` and ``.md`` beside this file, or into ``--out``. Flash-GMM's
published times of the E-step alone are 18, 152 and 1,519 ms on an A100, at n = 1e5, 1e6 and 1e7.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from _common import RESULTS, machine, markdown, seconds, write_csv

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein, OTMap
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.kmeans import kmeans
from skgmmot.fitting.samples import InMemory
from skgmmot.functional import GaussianMixtureParams, fit_em
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics import blocks

#: Seconds after which no further question is begun.
BUDGET = 420
F32, F64 = torch.float32, torch.float64
#: Passes over an array of K numbers a sample in an E-step: both products, the largest, its
#: difference, floor, exponential, sum and normalisation read it, and five of them write it.
ELEMENTWISE_PASSES = 12
#: Covariance type, n, d and K of EM, and n of the E-step alone (spherical, d = 128, K = 1024).
ITERATIONS = [
    ("full", 1_000_000, 16, 32),
    ("full", 100_000, 64, 10),
    ("diag", 1_000_000, 128, 1024),
    ("spherical", 1_000_000, 128, 1024),
]
E_STEPS, FLASH_GMM_MS = (100_000, 1_000_000, 10_000_000), (18.0, 152.0, 1519.0)


class Bench:
    """Where things run, how large they are, and the clock."""

    def __init__(self, device: str, smoke: bool):
        self.device, self.smoke = torch.device(device), smoke

    def size(self, n: int, most: int) -> int:
        """A size, or a small one."""
        return min(n, most) if self.smoke else n

    def synchronise(self):
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def time(self, function, repeats=3):
        """Median seconds of a call."""

        def call():
            function()
            self.synchronise()

        call()
        return statistics.median(seconds(call) for _ in range(1 if self.smoke else repeats))

    def samples(self, n, d, K, dtype):
        """Samples of an overlapping mixture, made on the device in blocks; its centres."""
        generator = torch.Generator(self.device).manual_seed(0)
        options = {"dtype": dtype, "device": self.device, "generator": generator}
        X, centres = torch.randn(n, d, **options), torch.randn(K, d, **options)
        for rows in X.split(2**16):
            at = torch.randint(K, (len(rows),), device=self.device, generator=generator)
            rows.add_(centres[at])
        return X, centres

    def mixture(self, name, centres):
        """A start near the samples."""
        (K, d), to = centres.shape, {"dtype": F64, "device": centres.device}
        covariances = torch.ones(COVARIANCE_TYPES[name].shape(K, d), **to)
        if name in ("full", "tied"):
            covariances = torch.eye(d, **to).expand(covariances.shape).clone()
        weights = torch.full((K,), 1 / K, **to)
        return GaussianMixtureParams(weights, 0.9 * centres.double(), covariances, name)

    def em(self, X):
        """One iteration of EM over samples."""
        return EM(InMemory(X), blocks.origin(X, None), 1e-6)

    def time_iterations(self, em, theta):
        """Median seconds of an iteration, each from where the last one ended."""

        def iterate():
            nonlocal theta
            theta, _ = em(theta)

        with em.at_work():
            return self.time(iterate)

    @functools.cache  # noqa: B019
    def peaks(self, dtype):
        """Measured flops and bytes a second, of one large product and one large copy."""
        n = self.size(8192, 256)
        A = torch.randn(n, n, dtype=dtype, device=self.device)
        flops = 2 * n**3 / self.time(lambda: A @ A)
        B = torch.empty(self.size(2**28, 2**16), dtype=torch.uint8, device=self.device)
        C = torch.empty_like(B)
        return flops, 2 * B.numel() / self.time(lambda: C.copy_(B))

    def roofline(self, name, n, d, K, dtype, spent):
        """The columns of flops and bytes of a pass of EM."""
        width = d + 1 + COVARIANCE_TYPES[name].n_quadratic(d)
        flops = 4 * n * K * width
        moved = n * dtype.itemsize * (d + 2 * width + ELEMENTWISE_PASSES * K)
        most_flops, most_bytes = self.peaks(dtype)
        best = max(flops / most_flops, moved / most_bytes)
        rates = {"Tflop/s": flops / spent / 1e12, "GB/s": moved / spent / 1e9}
        return {**rates, "share of roofline": best / spent}


def row(work, n, d, K, dtype=None, **columns):
    """A row of the table."""
    kind = None if dtype is None else str(dtype).removeprefix("torch.")
    return {"work": work, "n": n, "d": d, "K": K, "dtype": kind, **columns}


# --- the questions -------------------------------------------------------------------------------


def gpu_tests(bench):
    """The tests on the GPU."""
    root = Path(__file__).parent.parent
    tests = [root / "tests" / "test_devices.py", root / "tests" / "estimators" / "mixtures"]
    arguments = ["--version"] if bench.smoke else ["-q", "-k", "cuda or gpu", *map(str, tests)]
    command, began = [sys.executable, "-m", "pytest", *arguments], time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=150, cwd=root
    )
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]
    yield row(
        "tests", None, None, None, **{"ms": 1e3 * (time.perf_counter() - began), "what": last}
    )


def em_iterations(bench):
    """EM by the iteration, against the same code on the host's CPU."""
    for name, n, d, K in ITERATIONS:
        n, K = bench.size(n, 2000), bench.size(K, 8)
        for dtype in (F64, F32):
            X, centres = bench.samples(n, d, K, dtype)
            em = bench.em(X)
            theta = bench.mixture(name, centres).translated(-em.origin)
            spent = bench.time_iterations(em, theta)
            # the CPU does a share of the samples: its time is proportional to them
            m = min(n, max(1000, int(4e9 / (K * d * (d if name == "full" else 1)))))
            on_cpu = bench.em(X[:m].cpu())
            there = theta.to(device="cpu")
            cpu = bench.time_iterations(on_cpu, there)
            times = {"ms": 1e3 * spent, "cpu ms": 1e3 * cpu * n / m}
            rest = bench.roofline(name, n, d, K, dtype, spent)
            yield row(f"iteration, {name}", n, d, K, dtype, **times, **rest)


def e_step(bench):
    """The E-step alone, as Flash-GMM measures it; with other lengths of blocks, too."""
    d, K = 128, bench.size(1024, 16)
    before = blocks.BLOCK_SIZE["other"]
    for n, theirs in zip(E_STEPS, FLASH_GMM_MS, strict=True):
        n = bench.size(n, 2000)
        X, centres = bench.samples(n, d, K, F32)
        em = bench.em(X)
        theta = bench.mixture("spherical", centres).translated(-em.origin)
        sizes = (2**22, before, 2**26) if n == E_STEPS[1] or bench.smoke else (before,)
        for size in sizes:
            blocks.BLOCK_SIZE["other"] = size
            try:
                with em.at_work():
                    step = em.fastest(theta)
                    spent = bench.time(lambda em=em, step=step: em.sums(step))
            finally:
                blocks.BLOCK_SIZE["other"] = before
            times = {"ms": 1e3 * spent, "flash-gmm ms (A100)": theirs}
            rest = bench.roofline("spherical", n, d, K, F32, spent)
            yield row("e_step, spherical", n, d, K, F32, **times, **rest, block=size)


def whole_fits(bench):
    """Whole fits with k-means, and k-means alone."""
    n, d, K = bench.size(1_000_000, 2000), 16, bench.size(32, 4)
    for dtype in (F64, F32):
        X, _ = bench.samples(n, d, K, dtype)
        model = DifferentiableGaussianMixture(K, random_state=0, max_iter=20, tol=0)
        spent = bench.time(lambda X=X, model=model: model.set_params(device=X.device).fit(X), 1)
        yield row("fit, k-means, 20 iterations", n, d, K, dtype, ms=1e3 * spent)
        centred = X - X.mean(0)
        spent = bench.time(lambda X=centred: kmeans(X, K, _generator()), 1)
        yield row("k-means", n, d, K, dtype, ms=1e3 * spent)


def _generator():
    from numpy.random import RandomState

    return RandomState(0)


def distances(bench):
    """MW2 between two mixtures."""
    K, d = bench.size(100, 8), bench.size(64, 4)
    sides = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        B = torch.randn(K, d, d, dtype=F64, generator=generator)
        weights = torch.rand(K, dtype=F64, generator=generator)
        means = torch.randn(K, d, dtype=F64, generator=generator)
        covariances = B @ B.mT / d + 0.3 * torch.eye(d, dtype=F64)
        tensors = (weights / weights.sum(), means, covariances)
        sides.append(tuple(t.to(bench.device) for t in tensors))
    on_cpu = [tuple(t.cpu() for t in side) for side in sides]
    distance = MixtureWasserstein()
    spent, cpu = bench.time(lambda: distance(*sides)), bench.time(lambda: distance(*on_cpu))
    yield row("MW2", None, d, K, F64, **{"ms": 1e3 * spent, "cpu ms": 1e3 * cpu})


def gradients(bench):
    """The implicit gradient of a fit."""
    n, d, K = bench.size(1_000_000, 2000), 8, bench.size(10, 3)
    X, centres = bench.samples(n, d, K, F64)
    X.requires_grad_()
    start = bench.mixture("full", 3 * centres)
    X = (X + 0).detach().requires_grad_()

    def backward():
        solution = fit_em(start, X, tol=1e-5)
        torch.autograd.grad(solution.value.means.square().sum(), X)

    yield row("fit and implicit gradient", n, d, K, F64, ms=1e3 * bench.time(backward, 1))


def maps(bench):
    """A map of a megapixel."""
    n, d, K = bench.size(2**20, 2000), 3, bench.size(20, 4)
    for dtype in (F64, F32):
        X, centres = bench.samples(n, d, K, dtype)
        source, target = (bench.mixture("full", by * centres) for by in (1, 2))
        mapping = OTMap(tuple(target)).fit(tuple(source))
        spent = bench.time(lambda X=X, mapping=mapping: mapping.transform(X))
        yield row("map", n, d, K, dtype, ms=1e3 * spent)


QUESTIONS = (gpu_tests, em_iterations, e_step, whole_fits, distances, gradients, maps)


# --- the table -----------------------------------------------------------------------------------


def write(table, out, where):
    """Write all results so far."""
    out.mkdir(parents=True, exist_ok=True)
    write_csv(table, out / "bench_gpu.csv")
    lines = [
        "# One GPU",
        "",
        f"Written by `python benchmarks/bench_gpu.py` on {where}; torch {torch.__version__}.",
        "cpu ms: the same code on the host's CPU, reckoned from a share of the samples where they",
        "are many. share of roofline: see the head of the script.",
        "",
        *markdown(table),
    ]
    (out / "bench_gpu.md").write_text("\n".join(lines) + "\n")


def main(arguments=None):
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a question's name")
    parser.add_argument("--cpu-smoke", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--out", type=Path, help="where to write the table")
    args = parser.parse_args(arguments)
    if not args.cpu_smoke and not torch.cuda.is_available():
        parser.error("a GPU is needed. Use --cpu-smoke to see that the script runs.")
    if args.cpu_smoke and args.out is None:
        parser.error("--cpu-smoke needs --out, so that no measured table is overwritten.")
    warnings.simplefilter("ignore")
    bench = Bench("cpu" if args.cpu_smoke else "cuda", args.cpu_smoke)
    where = "the CPU, at tiny sizes: these are no results" if args.cpu_smoke else machine()
    table, began = [], time.perf_counter()
    for question in (q for q in QUESTIONS if args.only in q.__name__):
        if time.perf_counter() - began > BUDGET:
            table.append(row(f"{question.__name__}: left out, no time", None, None, None))
            continue
        try:
            for found in question(bench):
                table.append(found)
                print(*markdown([found])[2:], flush=True)
                write(table, args.out or RESULTS, where)
        except (RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
            # one that fails must not cost the others, which may have this GPU only once
            table.append(row(f"{question.__name__}: failed, {error}"[:200], None, None, None))
            print(table[-1]["work"], flush=True)
        write(table, args.out or RESULTS, where)
    return table


if __name__ == "__main__":
    main()
