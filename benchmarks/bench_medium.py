"""Medium work against its peers, one thread: distances, penalised transport, iterations of EM.

Each line is work of milliseconds to seconds that neither overhead (`bench_small.py`) nor scale
(`bench_em.py`) decides. The programs take turns in one process, and medians of their CPU times are
compared, ours with the best peer. Where programs stop by a tolerance, *excess* is how far a peer's
objective is above ours, relatively; ours has a certified duality gap below 1e-8.

    python benchmarks/bench_medium.py            # everything, about six minutes
    python benchmarks/bench_medium.py --quick    # small sizes, half a minute
    python benchmarks/bench_medium.py --only entropic

Writes ``results/bench_medium.csv`` and ``.md`` beside this file. Distances between Gaussians are
compared with torchmetrics only where that is installed.
"""

import argparse
import datetime
import functools
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import ot
import scipy.linalg
import scipy.special
import sklearn
import torch
from _common import RESULTS, cpu_seconds, machine, markdown, write_csv
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.metrics import bures_wasserstein_distance, frechet_distance
from skgmmot.transport.discrete.solvers import solve

#: A program that has taken so many seconds in all is not repeated.
LONG = 10
OURS = MixtureWasserstein(squared=True)
W2 = functools.partial(bures_wasserstein_distance, squared=True)


class Case(NamedTuple):
    """Work that several programs do."""

    work: str
    size: str
    programs: dict
    """Calls that take nothing, by the name of the program; ours is ``skgmmot``."""
    repeats: int = 7
    excess: Callable | None = None
    """How far the result of a peer is above ours."""


def mixture(K, d, spread, seed):
    """Weights, means and covariances of a random mixture."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(K, d, d)) / np.sqrt(d)
    covariances = factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(d)
    return rng.dirichlet(np.full(K, 5.0)), spread * rng.normal(size=(K, d)), covariances


def gradient(loss, mixtures):
    """The gradients of a loss in all its arrays."""
    leaves = [[torch.tensor(t, requires_grad=True) for t in m] for m in mixtures]
    return torch.autograd.grad(loss(*map(tuple, leaves)), [t for m in leaves for t in m])


def pot_loss(source, target):
    """POT's distance MW2, squared."""
    (a, m0, S0), (b, m1, S1) = source, target
    return ot.gmm.gmm_ot_loss(m0, m1, S0, S1, a, b)


def distance_cases(quick):
    """MW2 where every cost between components is needed."""
    for K, d in [(10, 4)] if quick else [(10, 2), (50, 16)]:
        pair = mixture(K, d, 0.0, 1), mixture(K, d, 0.0, 2)
        programs = {
            "POT torch": functools.partial(gradient, pot_loss, pair),
            "skgmmot": functools.partial(gradient, OURS, pair),
        }
        yield Case("MW2, concentric, and gradient", f"K = L = {K}, d = {d}", programs, 41)


def of_scipy(source, target):
    """The squared Frechet distance by SciPy's matrix square root."""
    (m0, S0), (m1, S1) = source, target
    root = scipy.linalg.sqrtm(S0 @ S1).real
    return ((m0 - m1) ** 2).sum() + np.trace(S0) + np.trace(S1) - 2 * np.trace(root)


def ill_conditioned(d, condition, seed):
    """A mean and a covariance, whose axes are random."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d))).Q
    covariance = axes * np.geomspace(1, 1 / condition, d) @ axes.T
    return rng.normal(size=d), (covariance + covariance.T) / 2


def frechet_programs(d, condition=None):
    """Programs for the value and for the gradient."""
    if condition is None:
        pair = [tuple(t[0] for t in mixture(1, d, 1.0, seed)[1:]) for seed in (1, 2)]
    else:
        pair = [ill_conditioned(d, condition, seed) for seed in (1, 2)]
    values = {"skgmmot": lambda: W2(*pair)}
    if d < 1000:  # it takes a minute there
        values["SciPy"] = lambda: of_scipy(*pair)
    gradients = {"skgmmot": lambda: gradient(W2, pair)}
    if find_spec("torchmetrics"):
        values = {"torchmetrics": lambda: torchmetrics_distance(*pair), **values}
        gradients = {"torchmetrics": lambda: gradient(torchmetrics_distance, pair), **gradients}
    return values, gradients


def torchmetrics_distance(source, target):
    """The squared Frechet distance by torchmetrics."""
    from torchmetrics.image.fid import _compute_fid

    return _compute_fid(*(torch.as_tensor(t) for t in (*source, *target)))


def frechet_cases(quick):
    """The distance between two Gaussians, K = 1: the Frechet inception distance."""
    for d in [64, 128] if quick else [64, 256, 768, 2048]:
        values, gradients = frechet_programs(d)
        yield Case("W2 of Gaussians", f"d = {d}", values)
        yield Case("W2 of Gaussians, and gradient", f"d = {d}", gradients)
    d = 64 if quick else 768
    values, gradients = frechet_programs(d, 1e6)  # as covariances of features are
    yield Case("W2 of Gaussians, condition 1e+06", f"d = {d}", values)
    yield Case("W2 of Gaussians, condition 1e+06, and gradient", f"d = {d}", gradients)
    n, d = (50, 100) if quick else (500, 2048)
    rng = np.random.default_rng(0)
    samples = [torch.from_numpy(rng.normal(size=(n, d)) * np.geomspace(1, 0.1, d)) for _ in "ab"]
    singular = [(X.mean(0).numpy(), np.cov(X.T)) for X in samples]
    by_moments = {"skgmmot": lambda: W2(*singular)}
    by_samples = {"skgmmot": lambda: frechet_distance(*samples, squared=True)}
    if find_spec("torchmetrics"):
        by_moments = {"torchmetrics": lambda: torchmetrics_distance(*singular), **by_moments}
        by_samples = {
            "torchmetrics": lambda: torchmetrics_distance(
                *((X.mean(0), torch.cov(X.T)) for X in samples)
            ),
            **by_samples,
        }
    yield Case(f"W2 of Gaussians, rank {n - 1}", f"d = {d}", by_moments)
    yield Case(f"W2 of Gaussians, from {n} samples each", f"d = {d}", by_samples)


def objective(plan, problem, reg, reg_m=None):
    """What a plan costs, penalties included; a balanced one is first given its marginals."""
    a, b, C = problem
    if reg_m is None:  # scale rows and columns down, and add what is missing
        plan = plan * np.minimum(a / plan.sum(1), 1)[:, None]
        plan = plan * np.minimum(b / plan.sum(0), 1)
        rows, columns = ((w - plan.sum(i)).clip(0) for w, i in ((a, 1), (b, 0)))
        plan = plan + np.outer(rows, columns) / (rows.sum() or 1.0)
    penalties = [(plan, np.outer(a, b), reg)]
    if reg_m is not None:
        penalties += [(plan.sum(1), a, reg_m), (plan.sum(0), b, reg_m)]
    kl = scipy.special.kl_div  # p log(p / q) - p + q
    return (plan * C).sum() + sum(lam * kl(p, q).sum() for p, q, lam in penalties if lam)


def penalised_cases(quick):
    """Entropic and unbalanced transport between the components of two mixtures."""
    K = 100 if quick else 1000
    (a, *_), (b, *_) = source, target = mixture(K, 2, 3.0, 1), mixture(K, 2, 3.0, 2)
    problem = a, b, OURS.cost(source, target)
    sinkhorn = functools.partial(ot.sinkhorn, method="sinkhorn_log", numItermax=5000)
    unbalanced = ot.unbalanced.sinkhorn_unbalanced
    peers = [
        ({"reg": 1.0}, functools.partial(sinkhorn, reg=1.0, stopThr=1e-7)),
        (
            {"reg": 0.1, "reg_m": 10.0},
            functools.partial(unbalanced, reg=0.1, reg_m=10.0, numItermax=5000, stopThr=1e-9),
        ),
        (
            {"reg_m": 10.0},
            functools.partial(ot.unbalanced.mm_unbalanced, reg_m=10.0, numItermax=1000),
        ),
    ]
    for penalties, peer in peers:
        name = ", ".join(f"{name} = {value:g}" for name, value in penalties.items())
        value = functools.partial(objective, problem=problem, **{"reg": 0.0, **penalties})
        ours = functools.partial(solve, *map(torch.from_numpy, problem), **penalties)
        programs = {"POT": functools.partial(peer, *problem), "skgmmot": ours}

        def excess(plan, value=value, ours=ours):
            return float(value(plan) / float(ours().cost) - 1)

        yield Case(f"entropic or unbalanced, {name}", f"K = L = {K}", programs, 3, excess)


def samples(n, d, K, condition=1.0):
    """Samples of an overlapping mixture, and a start near it."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(K, d)) * (1 if d > 2 else K**0.5)
    X = centres[rng.integers(K, size=n)] + rng.normal(size=(n, d))
    start = centres + 0.1 * rng.normal(size=(K, d))
    scale = np.geomspace(1, 1 / condition, d)
    axes = np.linalg.qr(rng.normal(size=(d, d))).Q if condition > 1 else np.eye(d)
    return X * scale @ axes.T, start * scale @ axes.T, (axes / scale) @ (axes / scale).T


PRECISIONS = {
    "full": lambda P, K: np.stack([P] * K),
    "tied": lambda P, K: P,
    "diag": lambda P, K: np.stack([P.diagonal()] * K),
    "spherical": lambda P, K: np.full(K, P[0, 0]),
}


def iterations(new, kind, X, means, P, n_iter):
    """A fit of so many iterations from a given start."""
    K = len(means)
    given = {"means_init": means, "precisions_init": PRECISIONS[kind](P, K)}
    given |= {"weights_init": np.full(K, 1 / K), "tol": 0.0, "reg_covar": 0.0}
    return new(K, covariance_type=kind, max_iter=n_iter, **given).fit(X)


def em_cases(quick):
    """Iterations of EM from a given start: a fit of several, less a fit of one."""
    cases = [
        ("diag", 100_000, 10, 20, 1.0, 5),
        ("spherical", 100_000, 10, 20, 1.0, 5),
        ("full", 20_000, 10, 5, 1e4, 5),
        ("tied", 20_000, 10, 5, 1e4, 5),
        ("full", 4_000, 400, 4, 1e3, 2),
        ("full", 20_000, 2, 1000, 1.0, 2),
        ("diag", 20_000, 2, 1000, 1.0, 2),
    ]
    for kind, n, d, K, condition, n_iter in cases:
        n = max(n // 10, 10 * d * K) if quick else n
        arrays = narrow_samples(n, K) if K == 1000 else samples(n, d, K, condition)
        programs = {
            name: [functools.partial(iterations, new, kind, *arrays, i) for i in (1 + n_iter, 1)]
            for name, new in (
                ("scikit-learn", GaussianMixture),
                ("skgmmot", DifferentiableGaussianMixture),
            )
        }
        work = f"{n_iter} iterations of EM, {kind}"
        work += f", condition {condition**2:.0e}" if condition > 1 else ""
        work += ", narrow components" if K == 1000 else ""
        yield Case(work, f"n = {n}, d = {d}, K = {K}", programs, 3)


def narrow_samples(n, K):
    """Samples of many narrow components in the plane, a start, and precisions."""
    rng = np.random.default_rng(0)
    centres = 1000 * rng.uniform(size=(K, 2))
    X = centres[rng.integers(K, size=n)] + 3 * rng.normal(size=(n, 2))
    return X, centres + 0.3, np.eye(2) / 9


def spent(calls):
    """CPU milliseconds of a call; of two, of the first less the second."""
    if callable(calls):
        return 1e3 * cpu_seconds(calls)
    return spent(calls[0]) - spent(calls[1])


def measure(case):
    """Median CPU milliseconds of programs that take turns, and the best peer's over ours."""
    found = {name: [] for name in case.programs}
    for _ in range(1 + case.repeats):  # the first round loads libraries
        for name, calls in case.programs.items():
            if sum(found[name]) < 1e3 * LONG:
                found[name].append(spent(calls))
    times = {name: float(np.median(v[1:] or v)) for name, v in found.items()}
    ours = times.pop("skgmmot")
    row = {"work": case.work, "size": case.size, "skgmmot ms": ours}
    if times:
        peer = min(times, key=times.get)
        row |= {"peer": peer, "peer ms": times[peer], "ratio": times[peer] / ours}
        if case.excess:
            row["excess"] = case.excess(case.programs[peer]())
    return row


def write(table):
    """Write all results so far; what is slower than a peer stands in bold."""
    RESULTS.mkdir(exist_ok=True)
    write_csv(table, RESULTS / "bench_medium.csv")
    bold = [
        {**row, "ratio": f"**{row['ratio']:.3g}**"} if row.get("ratio", 1) < 1 else row
        for row in table
    ]
    lines = [
        "# Medium work against its peers",
        "",
        f"Written by `python benchmarks/bench_medium.py` on {datetime.date.today()}, on",
        f"{machine()}, one thread; torch {torch.__version__}, scikit-learn {sklearn.__version__},",
        f"POT {ot.__version__}, SciPy {scipy.__version__}"
        + (f", torchmetrics {version('torchmetrics')}" if find_spec("torchmetrics") else "")
        + ".",
        "Medians of CPU times of programs that take turns. ratio: the time of the best peer over",
        "ours, in bold where ours is slower.",
        "excess: how far the peer's objective is above ours, relatively; ours has a certified",
        "duality gap below 1e-8.",
        "",
        *markdown(bold),
    ]
    (RESULTS / "bench_medium.md").write_text("\n".join(lines) + "\n")


CASES = (distance_cases, frechet_cases, penalised_cases, em_cases)


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", default="", help="part of the name of the work")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    warnings.filterwarnings("ignore", module="ot")
    torch.set_num_threads(1)
    table = []
    with threadpool_limits(1):
        for case in (case for make in CASES for case in make(args.quick)):
            if args.only in case.work:
                table.append(measure(case))
                print(*markdown(table[-1:])[2:], flush=True)
                write(table)  # as it grows: an interrupted run is not lost


if __name__ == "__main__":
    main()
