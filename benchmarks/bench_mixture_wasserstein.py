"""The distance MW2 between mixtures, against POT in the same run, float64.

POT computes it by ``ot.gmm.gmm_ot_loss``, on numpy arrays or on tensors; ours is
``MixtureWasserstein``, its validation included, on arrays, and on tensors for gradients. Repeats
are interleaved and their medians compared. Ours computes only the costs that the plan can use,
so components come in three arrangements: *apart*, with means spread by twice the deviations;
*concentric*, all means equal, where nothing can be left out; and *patches*, fitted to patches of
two photographs. Peak memory is read in a process of its own. Errors are against sixty digits.

    python benchmarks/bench_mixture_wasserstein.py            # everything, about half an hour
    python benchmarks/bench_mixture_wasserstein.py --quick    # small sizes, one thread, a minute
    python benchmarks/bench_mixture_wasserstein.py --only pairwise

Writes ``results/bench_mixture_wasserstein.csv``, ``_errors.csv``, ``.md`` and ``.png``.
"""

import argparse
import functools
import itertools
import json
import warnings

import mpmath
import numpy as np
import ot
import torch
from _common import RESULTS, machine, markdown, peak_during, peak_memory, seconds, write_csv
from sklearn.decomposition import PCA
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from skgmmot import MixtureWasserstein
from skgmmot.datasets import load_photograph
from skgmmot.transport.discrete.solvers import solve

#: Sizes (K0, K1, d), and how often each program runs at most.
SIZES = {(10, 10, 2): 200, (50, 50, 16): 15, (256, 256, 8): 5, (100, 100, 64): 3}
QUICK = {(10, 10, 2): 50, (20, 20, 8): 5}
#: Calls that take longer than this many seconds are made once.
LONG = 20
SPREADS = {"apart": 2.0, "concentric": 0.0}


def mixture(K, d, spread, seed):
    """Weights, means and covariances of a random mixture."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(K, d, d)) / np.sqrt(d)
    covariances = factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(d)
    return rng.dirichlet(np.full(K, 5.0)), spread * rng.normal(size=(K, d)), covariances


@functools.cache
def fitted(K0, K1, d):
    """Mixtures fitted to patches of two photographs, 6 x 6 pixels, in their main directions."""
    patches = [
        extract_patches_2d(load_photograph(name), (6, 6), max_patches=20_000, random_state=0)
        for name in ("china", "flower")
    ]
    patches = [p.reshape(len(p), -1) for p in patches]
    directions = PCA(d, random_state=0).fit(np.vstack(patches))
    models = [
        GaussianMixture(K, reg_covar=1e-4, random_state=0).fit(directions.transform(p))
        for K, p in zip((K0, K1), patches, strict=True)
    ]
    return [(m.weights_, m.means_, m.covariances_) for m in models]


def pair(K0, K1, d, arrangement):
    """Two mixtures."""
    if arrangement == "patches":
        return fitted(K0, K1, d)
    spread = SPREADS[arrangement]
    return mixture(K0, d, spread, 1), mixture(K1, d, spread, 2)


def tensors(mixtures, requires_grad=False):
    """Mixtures as tensors."""
    return [tuple(torch.tensor(t, requires_grad=requires_grad) for t in m) for m in mixtures]


def pot_loss(source, target):
    """POT's distance, squared."""
    (w0, m0, S0), (w1, m1, S1) = source, target
    return ot.gmm.gmm_ot_loss(m0, m1, S0, S1, w0, w1)


OURS = MixtureWasserstein(squared=True)


def with_gradient(loss, mixtures):
    """The distance and its gradients in all parameters."""
    leaves = tensors(mixtures, requires_grad=True)
    value = loss(*leaves)
    value.backward()
    return value.item()


def distance_programs(*shape):
    """Three programs for the distance."""
    mixtures = pair(*shape)
    as_tensors = tensors(mixtures)
    return {
        "POT numpy": lambda: float(np.real(pot_loss(*mixtures))),
        "POT torch": lambda: float(pot_loss(*as_tensors)),
        "skgmmot": lambda: OURS(*mixtures),
    }


def gradient_programs(*shape):
    """Two programs for the distance and its gradients."""
    mixtures = pair(*shape)
    return {
        "POT torch": lambda: with_gradient(pot_loss, mixtures),
        "skgmmot": lambda: with_gradient(OURS, mixtures),
    }


def diagonal_programs(*shape):
    """The distance between mixtures without correlations: POT has them as matrices."""
    mixtures = pair(*shape)
    variances = [np.diagonal(S, axis1=1, axis2=2).copy() for _, _, S in mixtures]
    ours = [(w, m, v, "diag") for (w, m, _), v in zip(mixtures, variances, strict=True)]
    theirs = [(w, m, np.stack([np.diag(v) for v in vs])) for w, m, vs, _ in ours]
    return {
        "POT numpy": lambda: float(np.real(pot_loss(*theirs))),
        "skgmmot": lambda: OURS(*ours),
    }


def pairwise_programs(K, M, d, arrangement):
    """All distances between M mixtures."""
    mixtures = [mixture(K, d, SPREADS[arrangement], seed) for seed in range(M)]

    def loop():
        return sum(float(np.real(pot_loss(a, b))) for a, b in itertools.combinations(mixtures, 2))

    return {"POT numpy": loop, "skgmmot": lambda: float(OURS.pairwise(mixtures).sum()) / 2}


#: What is timed, by name; another row of the benchmark is another entry.
PROGRAMS = {
    "distance": distance_programs,
    "distance and gradient": gradient_programs,
    "distance, diagonal": diagonal_programs,
    "pairwise": pairwise_programs,
}


def time_programs(programs, repeats):
    """Median seconds of each program, interleaved, and the largest relative difference."""
    found, values = {name: [] for name in programs}, {}
    for _ in range(repeats + 1):  # the first round loads libraries
        for name, program in programs.items():
            if found[name] and found[name][0] > LONG:
                continue
            found[name].append(seconds(lambda n=name, run=program: values.update({n: run()})))
    medians = {name: float(np.median(v[1:] or v)) for name, v in found.items()}
    ours = values["skgmmot"]
    return medians, max(abs(v / ours - 1) for v in values.values())


def timed_rows(quick):
    """What is run: the name of the work, the shape, and how often."""
    sizes = QUICK if quick else SIZES
    for name in ("distance", "distance and gradient"):
        for arrangement, (shape, repeats) in itertools.product(SPREADS, sizes.items()):
            yield name, (*shape, arrangement), repeats
        yield name, ((20, 20, 8) if quick else (50, 50, 16)) + ("patches",), 15
    yield "distance, diagonal", ((20, 20, 8) if quick else (50, 50, 16)) + ("apart",), 15
    for arrangement in SPREADS:
        yield "pairwise", (10, 10 if quick else 100, 8, arrangement), 3


def distance_rows(quick, threads, only):
    """Time the programs and measure their memory."""
    for name, shape, repeats in timed_rows(quick):
        if only not in f"{name} {shape}":
            continue
        spent, apart = time_programs(PROGRAMS[name](*shape), repeats)
        columns = ("K", "M", "d") if name == "pairwise" else ("K0", "K1", "d")
        row = {"work": name, **dict(zip((*columns, "components"), shape, strict=True))}
        row |= {"threads": threads}
        row |= {f"{program} ms": 1e3 * value for program, value in spent.items()}
        for program in set(spent) - {"skgmmot"}:
            row[f"times {program}"] = spent[program] / spent["skgmmot"]
        row["difference"] = apart
        if not quick and threads == 1:
            for program, value in spent.items():
                if value < LONG:
                    row[f"{program} MB"] = peak_memory(__file__, name, shape, program)
        yield row


def print_memory(name, shape, program):
    """Print the peak memory of one call, in MB."""
    small = (3, 3, *shape[2:])
    PROGRAMS[name](*small)[program]()  # so that libraries are loaded
    call = PROGRAMS[name](*shape)[program]
    print(peak_during(call))


def solver_rows(quick):
    """Discrete problems with penalties: times, and how far the plans are apart."""
    K = 20 if quick else 50
    (a, *_), (b, *_) = source, target = pair(K, K, 8, "apart")
    C = OURS.cost(source, target)
    problem = [torch.from_numpy(t) for t in (a, b, C)]
    limits = {"numItermax": 100_000, "stopThr": 1e-9}
    entropic = functools.partial(ot.sinkhorn, a, b, C, 0.1, method="sinkhorn_log", **limits)
    unbalanced = functools.partial(ot.unbalanced.mm_unbalanced, a, b, C, 10.0, div="kl", **limits)
    for name, theirs, penalties in (
        ("entropic, reg=0.1", entropic, {"reg": 0.1}),
        ("unbalanced, reg_m=10", unbalanced, {"reg_m": 10.0}),
    ):
        plans = {"POT": theirs(), "skgmmot": solve(*problem, **penalties).coupling.numpy()}
        theirs_spent = seconds(theirs)
        ours = functools.partial(solve, *problem, **penalties)
        ours_spent = float(np.median([seconds(ours) for _ in range(5)]))
        yield {
            "problem": f"{name}, {K} x {K}",
            "POT ms": 1e3 * theirs_spent,
            "skgmmot ms": 1e3 * ours_spent,
            "times POT": theirs_spent / ours_spent,
            "largest difference of plans": float(np.abs(plans["POT"] - plans["skgmmot"]).max()),
        }


def exact_bures(source, target):
    """The squared Bures distance with sixty digits."""
    with mpmath.workdps(60):
        roots, trace = [], 0
        for S in (source, target):
            values, vectors = mpmath.eigsy(mpmath.matrix(S.tolist()))
            trace += sum(max(v, 0) for v in values)
            roots.append(vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]))
        singular = mpmath.svd_r(roots[0].T * roots[1], compute_uv=False)
        return float(trace - 2 * sum(singular))


def conditioned(K, d, condition, seed):
    """Covariances of a condition number, in random axes; None is exactly of half the rank."""
    rng = np.random.default_rng(seed)
    if condition is None:  # integers: no rounding makes it regular
        factors = rng.integers(-8, 9, size=(K, d, d // 2)).astype(float)
        return factors @ factors.transpose(0, 2, 1)
    axes = np.linalg.qr(rng.normal(size=(K, d, d))).Q
    covariances = (axes * np.geomspace(1, 1 / condition, d)) @ axes.transpose(0, 2, 1)
    return (covariances + covariances.transpose(0, 2, 1)) / 2


def error_rows(quick):
    """Relative errors of the squared distance, and the distance of a covariance to itself."""
    K, d = (2, 4) if quick else (6, 8)
    mean = np.zeros((1, d))
    one = np.ones(1)
    for condition in (1e1, 1e4, 1e8, 1e12, None):
        source, target = (conditioned(K, d, condition, seed)[:, None] for seed in (1, 2))
        programs = {
            "POT numpy": lambda S, T: np.real(pot_loss((one, mean, S), (one, mean, T))),
            "POT torch": lambda S, T: pot_loss(*tensors([(one, mean, S), (one, mean, T)])),
            "skgmmot": lambda S, T: OURS((one, mean, S), (one, mean, T)),
        }
        row = {"condition": "rank deficient" if condition is None else f"{condition:.0e}"}
        for name, program in programs.items():
            errors, selves = [], []
            for S, T in zip(source, target, strict=True):
                exact = exact_bures(S[0], T[0])
                errors.append(abs(attempt(program, S, T) / exact - 1))
                selves.append(abs(attempt(program, S, S.copy())) / np.trace(S[0]))
            row[name] = float(np.max(errors))
            row[f"{name}, to itself"] = float(np.max(selves)) ** 0.5
        yield row


def attempt(program, S, T):
    """A program's value; NaN where it fails."""
    try:
        return float(program(S, T))
    except np.linalg.LinAlgError:
        return np.nan


def write(table, solvers, errors, path=RESULTS / "bench_mixture_wasserstein"):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    lines = [
        "# The distance MW2 between mixtures, against POT",
        "",
        "Written by `python benchmarks/bench_mixture_wasserstein.py` on",
        f"{machine()}; torch {torch.__version__}, POT {ot.__version__}.",
        "Medians of interleaved repeats in one run, float64. times: their time over ours, which",
        "includes the validation of the mixtures. difference: the largest relative one between the",
        "values. MB: peak memory of a call. Components are apart (means spread by twice the",
        "deviations), concentric (all means equal: every cost is needed) or fitted to patches of",
        "photographs.",
        "",
        *markdown(table),
        "",
        "Maps of pixels are in `bench_map.md`.",
    ]
    write_csv(table, path.with_suffix(".csv"))
    if solvers:
        lines += ["", "## Discrete problems with penalties", "", *markdown(solvers)]
    if errors:
        write_csv(errors, path.with_name(f"{path.name}_errors.csv"))
        lines += [
            "",
            "## Errors of the squared distance between Gaussians, by conditioning",
            "",
            "Largest relative error; and the distance of a Gaussian to itself in units of its",
            "deviation, which should be 0.",
            "",
            *markdown(errors),
        ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    if table:
        write_plot(table, path.with_suffix(".png"))


def write_plot(table, path):
    """The ratios as bars."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    bars = []
    for row in table:
        size = ", ".join(f"{n}={row[n]}" for n in ("K0", "K1", "K", "M", "d") if n in row)
        label = f"{row['work']}, {row['components']} ({size}), {row['threads']} thread(s)"
        for program, color in (("POT numpy", "C0"), ("POT torch", "C1")):
            if f"times {program}" in row:
                bars.append((f"{label}: {program}", row[f"times {program}"], color))
    labels, values, colors = zip(*bars[::-1], strict=True)
    figure, ax = plt.subplots(figsize=(11, 0.22 * len(bars) + 1.2), layout="constrained")
    ax.bar_label(ax.barh(labels, values, color=colors), fmt="%.1f", padding=3, fontsize=8)
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set(xlabel="times faster than POT", xscale="log", title="MW2")
    ax.tick_params(axis="y", labelsize=8)
    ax.margins(x=0.1, y=0.01)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one thread")
    parser.add_argument("--only", default="", help="part of a row's name and shape")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="ot")
    if args.memory:
        torch.set_num_threads(1)
        print_memory(*json.loads(args.memory))
        return
    table, solvers, errors = [], [], []
    for count in [1] if args.quick else args.threads:
        torch.set_num_threads(count)
        with threadpool_limits(count):
            for row in distance_rows(args.quick, count, args.only):
                table.append(row)
                print(*markdown([row])[2:], flush=True)
                write(table, solvers, errors)  # as it grows: an interrupted run is not lost
    torch.set_num_threads(1)
    for name, rows, results in (
        ("solvers", solver_rows, solvers),
        ("errors", error_rows, errors),
    ):
        if args.only in name:
            for row in rows(args.quick):
                results.append(row)
                print(*markdown([row])[2:], flush=True)
                write(table, solvers, errors)


if __name__ == "__main__":
    main()
