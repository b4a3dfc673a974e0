"""EM to its limit: plain, by SQUAREM and by Newton's method, in passes and in time.

    python benchmarks/bench_newton.py                   # everything, about ten minutes
    python benchmarks/bench_newton.py --only agreement  # one part: passes, agreement

A pass-equivalent is one EM iteration. A matrix of derivatives, or a product with them, counts by
its CPU time over that of an iteration, measured on the same problem. Writes
``results/bench_newton*.csv`` and ``bench_newton.md`` beside this file.
"""

import argparse
import math
import time
import warnings
from typing import NamedTuple

import numpy as np
import torch
from _common import RESULTS, cpu_seconds, machine, markdown, read_csv, write_csv
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA

from skgmmot import DifferentiableGaussianMixture
from skgmmot.fitting.em.gradient.derivative import LinearisedEM
from skgmmot.fitting.em.iterations import ACCELERATIONS
from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.numerics import blocks
from skgmmot.numerics.fixed_point import iterate
from skgmmot.numerics.newton.acceleration import DerivativeModel

#: How near the limit of the mean log-likelihood a fit is to come.
NEAR = 1e-8
#: Tolerances of fits to the limit, by acceleration: plain EM is extrapolated from there.
TOL = {None: 1e-12, "squarem": 1e-13, "newton": 1e-12}
TYPES = ("full", "tied", "diag", "spherical")


# --- problems ----------------------------------------------------------------------------------


def overlapping(n, d, K, seed):
    """The mixtures of ``bench_em.py``'s comparison of accelerations."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(K, d))[rng.integers(K, size=n)] + rng.normal(size=(n, d))


def standardised(X):
    """Features of mean zero and variance one."""
    return (X - X.mean(0)) / X.std(0)


def geyser(seed, n=272):
    """Samples like the eruptions of Old Faithful, and the waits for them."""
    rng = np.random.default_rng(seed)
    short = rng.multivariate_normal([2.04, 54.5], [[0.07, 0.44], [0.44, 33.7]], n)
    long = rng.multivariate_normal([4.29, 80.0], [[0.17, 0.94], [0.94, 36.0]], n)
    return np.where((rng.random(n) < 0.36)[:, None], short, long)


def drawn(seed):
    """Samples of a random size from overlapping components, and their number."""
    rng = np.random.default_rng(1000 + seed)
    n, d, K = int(rng.choice([300, 500, 1000, 2000])), int(rng.integers(1, 5)), rng.integers(2, 7)
    centres = 1.5 * rng.normal(size=(K, d))
    return centres[rng.integers(K, size=n)] + rng.normal(size=(n, d)), int(K)


def problems():
    """Two hundred fits: name, samples, K, covariance type and seed of the start."""
    cancer = standardised(load_breast_cancer().data)
    digits = PCA(8, random_state=0).fit_transform(load_digits().data / 4)
    sets = [
        ("iris", lambda s: load_iris().data, (2, 3, 4, 5), 2),
        ("wine", lambda s: standardised(load_wine().data), (2, 3, 4), 1),
        ("breast cancer", lambda s: PCA(6, random_state=0).fit_transform(cancer), (2, 3, 4), 2),
        ("digits", lambda s: digits, (5, 10), 2),
        ("geyser", geyser, (2, 3), 2),
    ]
    for name, samples, sizes, n_seeds in sets:
        for K in sizes:
            for covariance_type in TYPES:
                for seed in range(n_seeds):
                    yield name, samples(seed), K, covariance_type, seed
    for seed in range(100):
        X, K = drawn(seed)
        yield "overlapping", X, K, TYPES[seed % 4], seed


def start(X, K, covariance_type, seed):
    """The iteration over the samples, and the mixture of a k-means start."""
    mixture = DifferentiableGaussianMixture(
        K, covariance_type=covariance_type, max_iter=0, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixture.fit(X)
    X = torch.from_numpy(np.ascontiguousarray(X))
    origin = blocks.origin(X, None)
    theta = mixture._params(dtype=torch.float64).detach().translated(-origin)
    return EM(InMemory(X), origin, 1e-6), theta


# --- fits --------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A fit: after each iteration their number, derivatives, CPU seconds and the objective."""

    steps: list
    converged: bool

    @property
    def end(self):
        """The last objective; of plain EM the limit of what it would still grow by."""
        return self.steps[-1][-1]

    def first(self, limit):
        """The first step near a limit."""
        return next((step for step in self.steps if step[-1] >= limit - NEAR), self.steps[-1])


def run(em, theta, acceleration, tol, max_iter=200_000):
    """Fit to the end."""
    steps, accelerator, step = [], None, em
    if acceleration is not None:
        step, accelerator = ACCELERATIONS[acceleration](em, theta, em.constraint, math.inf)

    def note(solution):
        spent = time.process_time() - began
        n_derivatives = getattr(accelerator, "n_derivatives", 0)
        steps.append((solution.n_iter, n_derivatives, spent, solution.objective))

    with em.at_work():
        began = time.process_time()
        options = {"accelerator": accelerator, "callback": note}
        solution = iterate(step, theta, tol=tol, max_iter=max_iter, **options)
    return Run(steps, solution.converged)


def limit(found):
    """The limit of the objectives of plain EM, which grow like a geometric series at the end."""
    objectives = [step[-1] for step in found.steps]
    changes = np.diff(objectives)[-200:]
    if len(changes) < 3 or not (changes > 0).all():
        return objectives[-1]
    rate = (changes[-1] / changes[0]) ** (1 / (len(changes) - 1))
    return objectives[-1] + (changes[-1] * rate / (1 - rate) if rate < 1 else 0.0)


def derivative_cost(em, theta, repeats=7):
    """CPU time of a matrix of derivatives, or of a product, in EM iterations."""
    others = (theta, theta._replace(means=theta.means + 1e-9))  # so that nothing is remembered
    plain, derivative = [], []
    with em.at_work():
        for repeat in range(repeats):
            plain.append(cpu_seconds(lambda r=repeat: em(others[r % 2])))
            linear = LinearisedEM(em, others[repeat % 2])
            began = time.process_time()
            _, n_passes = DerivativeModel.at(linear)
            derivative.append((time.process_time() - began) / max(n_passes, 1))
    return float(np.median(derivative) / np.median(plain))


# --- tables ------------------------------------------------------------------------------------


def passes_rows():
    """What each way takes to come near its limit."""
    for n, d, K in [(2000, 2, 5), (3000, 3, 4), (5000, 8, 8), (10_000, 2, 10)]:
        for seed in range(5):
            em, theta = start(overlapping(n, d, K, seed), K, "full", seed)
            runs = {name: run(em, theta, name, tol) for name, tol in TOL.items()}
            ends = {name: found.end for name, found in runs.items()} | {None: limit(runs[None])}
            first = {name: found.first(ends[name]) for name, found in runs.items()}
            cost = derivative_cost(em, theta)
            spent = first["newton"][0] + cost * first["newton"][1]
            yield {
                **{"n": n, "d": d, "K": K, "seed": seed},
                "EM": first[None][0],
                "SQUAREM": first["squarem"][0],
                "newton, iterations": first["newton"][0],
                "derivatives": first["newton"][1],
                "cost of one": cost,
                "newton, pass-equivalents": spent,
                "EM / SQUAREM": first[None][0] / first["squarem"][0],
                "EM / newton": first[None][0] / spent,
                **{f"{name or 'EM'}, CPU s": step[2] for name, step in first.items()},
                "EM / newton, CPU": first[None][2] / first["newton"][2],
                "newton's limit - EM's": ends["newton"] - ends[None],
            }


def agreement_rows():
    """Newton's ends against those of plain EM at ``tol=1e-10``, set by set."""
    found = {}
    for name, X, K, covariance_type, seed in problems():
        em, theta = start(X, K, covariance_type, seed)
        plain = run(em, theta, None, 1e-10)
        newton = run(em, theta, "newton", 1e-11)
        cost = derivative_cost(em, theta)
        n_iter, n_derivatives, spent, _ = newton.first(newton.end)
        first = plain.first(limit(plain))
        ratio = first[0] / (n_iter + cost * n_derivatives)
        row = newton.end - plain.end, ratio, first[2] / spent, newton.converged, first[0]
        found.setdefault(name, []).append(row)
    found["all"] = [row for rows in found.values() for row in rows]
    for name, rows in found.items():
        gain, ratio, speed, converged, length = np.array(rows, dtype=float).T
        yield {
            "set": name,
            "fits": len(rows),
            "equal to 1e-9": int((abs(gain) <= 1e-9).sum()),
            "higher, by up to 1e-6": int(((gain > 1e-9) & (gain <= 1e-6)).sum()),
            "higher": int((gain > 1e-6).sum()),
            "lower": int((gain < -1e-9).sum()),
            "lowest": float(gain.min()),
            "converged": int(converged.sum()),
            "EM / newton, median": float(np.median(ratio)),
            "least": float(ratio.min()),
            "median over 200 iterations": median_of(ratio[length > 200]),
            "CPU, EM / newton, the same": median_of(speed[length > 200]),
        }


def median_of(values):
    """The median, None of nothing."""
    return float(np.median(values)) if len(values) else None


# --- results -----------------------------------------------------------------------------------

TITLES = {
    "passes": "To 1e-8 of the limit of the mean log-likelihood, overlapping full mixtures",
    "agreement": "Ends of two hundred fits against plain EM at tol=1e-10",
}


def notes(name, table):
    """What to read in a table."""
    if name == "agreement":
        return [
            "Plain EM at this tolerance can be some 1e-8 below its limit: where Newton's end is",
            "higher by up to 1e-6 both go to the same maximum. Ratios are of pass-equivalents to",
            "1e-8 of the limit of each; where EM is there in 30 iterations, Newton never begins.",
            "",
        ]
    columns = ("EM / SQUAREM", "EM / newton", "EM / newton, CPU")
    lines = []
    for column in columns if table else ():
        values = [row[column] for row in table]
        lines.append(f"{column}: median {np.median(values):.1f}, least {min(values):.1f}.")
    return [*lines, ""]


def write(tables):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    lines = [
        "# Newton's method for EM",
        "",
        f"Written by `python benchmarks/bench_newton.py` on {machine()};",
        f"torch {torch.__version__}, one thread, k-means starts. A pass-equivalent is an EM",
        "iteration; a matrix of derivatives",
        "(small mixtures) or a product with them counts by its CPU time over that of an iteration.",
    ]
    for name, table in tables.items():
        if table:
            write_csv(table, RESULTS / f"bench_newton_{name}.csv")
            lines += ["", f"## {TITLES[name]}", "", *notes(name, table), *markdown(table)]
    (RESULTS / "bench_newton.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the benchmark: passes, agreement")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = {"passes": passes_rows, "agreement": agreement_rows}
    chosen = [name for name in parts if args.only in (name, "")]
    tables = {
        name: [] if name in chosen else read_csv(RESULTS / f"bench_newton_{name}.csv")
        for name in parts
    }
    for name in chosen:
        for row in parts[name]():
            tables[name].append(row)
            print(*markdown([row])[2:], flush=True)
            write(tables)  # as it grows: an interrupted run is not lost


if __name__ == "__main__":
    main()
