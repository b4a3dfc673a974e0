"""What gradients of a fit cost and how exact they are, against plain torch in the same run.

"Plain torch" is EM as one would write it with autograd: all samples at once, on the tape. One unit
is one forward iteration of it. Repeats of the programs are interleaved and their medians compared;
peak memory beyond the data is read in a process of its own.

    python benchmarks/bench_gradient.py              # everything, about twenty minutes
    python benchmarks/bench_gradient.py --quick      # small sizes, a minute
    python benchmarks/bench_gradient.py --only flow  # one part: accuracy, cost, ends, large, flow

Writes ``results/bench_gradient*.csv``, ``bench_gradient.md`` and ``.png`` beside this file.
"""

import argparse
import json
import math
import time
import warnings
from typing import NamedTuple

import numpy as np
import torch
from _common import (
    RESULTS,
    cpu_seconds,
    machine,
    markdown,
    peak_during,
    peak_memory,
    read_csv,
    write_csv,
)

from skgmmot.fitting.em.rows import EM
from skgmmot.fitting.samples import InMemory
from skgmmot.functional import GaussianMixtureParams, WarmStart, fit_em
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.numerics import blocks
from skgmmot.transport.mixtures.distance import transport_plan

F64 = torch.float64


# --- problems ----------------------------------------------------------------------------------


def data(n, d, K, seed=0, spread=1.5):
    """Samples of an overlapping mixture, and its means."""
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(K, d))
    X = centres[rng.integers(K, size=n)] + rng.normal(size=(n, d))
    return torch.from_numpy(X), torch.from_numpy(centres)


def start(name, means):
    """A mixture of unit covariances about given means."""
    K, d = means.shape
    shape = COVARIANCE_TYPES[name].shape(K, d)
    S = torch.eye(d, dtype=F64).expand(shape) if len(shape) == 3 else torch.ones(shape, dtype=F64)
    return GaussianMixtureParams(torch.full((K,), 1 / K, dtype=F64), means, S.clone())


def loss(theta):
    """A function of all parameters."""
    return theta.weights.square().sum() + (theta.means**3).sum() + theta.covariances.square().sum()


def relative(found, expected):
    """Relative mean squared error."""
    return float((found - expected).square().sum() / expected.square().sum())


# --- plain torch -------------------------------------------------------------------------------


def plain_step(theta, X, reg_covar=1e-6):
    """One EM iteration with full covariances, as one would write it."""
    w, m, S = theta
    L = torch.linalg.cholesky(S)
    white = torch.linalg.solve_triangular(L, (X - m.unsqueeze(1)).mT, upper=False)  # (K, d, n)
    log_det = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    joint = w.log().unsqueeze(1) - log_det.unsqueeze(1) - white.square().sum(1) / 2
    resp = torch.softmax(joint, dim=0)  # (K, n)
    mass = resp.sum(1)
    means = resp @ X / mass.unsqueeze(1)
    centred = X - means.unsqueeze(1)
    S = (centred * resp.unsqueeze(-1)).mT @ centred / mass[:, None, None]
    identity = torch.eye(X.shape[1], dtype=X.dtype)
    return GaussianMixtureParams(mass / len(X), means, S + reg_covar * identity)


def plain_automatic(theta0, X, n_iter):
    """Gradient through all iterations on the tape."""
    theta = theta0
    for _ in range(n_iter):
        theta = plain_step(theta, X)
    return torch.autograd.grad(loss(theta), X)[0]


# --- how exact ---------------------------------------------------------------------------------


def accuracy_rows(quick):
    """Implicit and one_step against automatic at convergence, for each covariance type."""
    n, seeds = (300, 2) if quick else (1000, 5)
    for name in COVARIANCE_TYPES:
        for fixed_weights in (False, True):
            found = [compare(name, n, seed, fixed_weights) for seed in range(seeds)]
            columns = {key: [row[key] for row in found] for key in found[0]}
            yield {
                "covariance": name,
                "weights": "fixed" if fixed_weights else "free",
                "implicit, largest rel. MSE": max(columns["implicit"]),
                "one_step, median rel. MSE": float(np.median(columns["one_step"])),
                "one_step error, median": float(np.median(np.sqrt(columns["one_step"]))),
                "its estimate, median": float(np.median(columns["estimate"])),
                "spectral radius, median": float(np.median(columns["radius"])),
                "largest": max(columns["radius"]),
                "iterations of automatic, at most": max(columns["iterations"]),
            }


def compare(name, n, seed, fixed_weights):
    """One problem: errors of both gradients, and what the adjoint expected."""
    X, centres = data(n, 3, 3, seed, spread=2.2)
    X.requires_grad_()
    options = {"fixed_weights": fixed_weights, "reg_covar": 1e-6}
    end = fit_em(start(name, centres), X.detach(), tol=1e-13, max_iter=20_000, **options).value

    def gradient(**more):
        solution = fit_em(end, X, **options, **more)
        return torch.autograd.grad(loss(solution.value), X)[0], solution

    implicit, solution = gradient(gradient_tol=1e-9)
    n_iter = iterations_needed(solution.adjoint.spectral_radius)
    automatic, _ = gradient(gradient="automatic", tol=0.0, max_iter=n_iter)
    one_step, _ = gradient(gradient="one_step", tol=0.0, max_iter=1)
    return {
        "implicit": relative(implicit, automatic),
        "one_step": relative(one_step, automatic),
        "estimate": solution.adjoint.one_step_error,
        "radius": solution.adjoint.spectral_radius,
        "iterations": n_iter,
    }


def iterations_needed(radius, share=1e-9):
    """Iterations until the part of the gradient that automatic leaves out is a share of it."""
    return min(20_000, math.ceil(math.log(share) / math.log(radius)) + 100)


# --- what it costs -----------------------------------------------------------------------------

#: Gradients compared: what runs after the fit, by name. That of a default fit polishes it first.
DEFAULT = "implicit, default fit"
PROGRAMS = ["one_step", "implicit", DEFAULT, "automatic, 30", "plain torch, 30"]


def problem(n, d, K):
    """Samples on a graph, and fits to start from: converged, or with the default tolerance."""
    X, centres = data(n, d, K)
    rough = fit_em(start("full", centres), X, tol=1e-3).value
    theta = fit_em(rough, X, tol=1e-7, max_iter=2000).value
    return X.requires_grad_(), dict.fromkeys(PROGRAMS, theta) | {DEFAULT: rough}


def forward(program, theta, X):
    """The fitted mixture on the graph of ``X``."""
    if program.startswith("implicit"):
        return fit_em(theta, X, max_iter=0)
    name = program.split(",")[0]
    return fit_em(theta, X, gradient=name, tol=0.0, max_iter=1 if name == "one_step" else 30)


def cost_rows(quick, repeats):
    """Time and memory of each gradient, in units of one plain iteration."""
    sizes = [(1000, 2, 4), (2000, 4, 6)] if quick else [(2000, 2, 5), (20_000, 8, 8)]
    for n, d, K in sizes:
        X, starts = problem(n, d, K)
        theta = starts["implicit"]
        plain, ours = iterations(theta, X.detach(), repeats)
        exact = torch.autograd.grad(loss(fit_em(theta, X, gradient_tol=1e-10).value), X)[0]
        times = time_programs(starts, X, repeats)
        for program in PROGRAMS:
            gradient, adjoint = gradient_of(program, starts[program], X)
            before, backward = times[program]
            yield {
                "n": n,
                "d": d,
                "K": K,
                "gradient": program,
                "plain unit ms": 1e3 * plain,
                "our iteration ms": 1e3 * ours,
                "forward, units": before / plain,
                "backward, units": backward / plain,
                "backward, our iterations": backward / ours,
                "both, units": (before + backward) / plain,
                "both, our iterations": (before + backward) / ours,
                "products": adjoint.n_products if adjoint else None,
                "rel. error": relative(gradient, exact) ** 0.5,
                "MB": peak_memory(__file__, program, n, d, K),
            }


def iterations(theta, X, repeats):
    """Median CPU seconds of one forward iteration, plain and ours."""
    origin = blocks.origin(X, None)
    about = theta.translated(-origin)
    others = (about, about._replace(means=about.means + 1e-9))  # so that nothing is remembered
    plain, ours = [], []
    with torch.no_grad(), blocks.workers(X.device) as pool:
        em = EM(InMemory(X, None, pool), origin, 1e-6)
        for repeat in range(10 * repeats):
            plain.append(cpu_seconds(lambda: plain_step(theta, X)))
            ours.append(cpu_seconds(lambda r=repeat: em(others[r % 2])))
    return float(np.median(plain)), float(np.median(ours))


def time_programs(starts, X, repeats):
    """Median CPU seconds before backward and of it, interleaved."""
    found = {program: [] for program in PROGRAMS}
    for _ in range(repeats):
        for program in PROGRAMS:
            found[program].append(time_program(program, starts[program], X))
    return {program: np.median(times, axis=0) for program, times in found.items()}


def time_program(program, theta, X):
    began = time.process_time()
    if program.startswith("plain"):
        mixture = theta
        for _ in range(30):
            mixture = plain_step(mixture, X)
    else:
        mixture = forward(program, theta, X).value
    value = loss(mixture)
    middle = time.process_time()
    torch.autograd.grad(value, X)
    return middle - began, time.process_time() - middle


def gradient_of(program, theta, X):
    """The gradient, and what the adjoint noted."""
    if program.startswith("plain"):
        return plain_automatic(theta, X, 30), None
    solution = forward(program, theta, X)
    return torch.autograd.grad(loss(solution.value), X)[0], solution.adjoint


def print_memory(program, n, d, K):
    """Print the peak memory beyond the data, in MB, of one gradient."""
    X, centres = data(n, d, K)
    theta = start("full", centres)
    theta = fit_em(theta, X, tol=1e-3 if program == DEFAULT else 1e-7, max_iter=2000).value
    small, starts = problem(50 * K, d, K)
    gradient_of("implicit", starts["implicit"], small)  # so that libraries are loaded
    X.requires_grad_()
    print(peak_during(lambda: gradient_of(program, theta, X)))


# --- a million samples -------------------------------------------------------------------------


def large_rows(quick):
    """The implicit gradient of a large fit."""
    n, d, K = (50_000, 8, 10) if quick else (1_000_000, 8, 10)
    X, centres = data(n, d, K)
    theta0 = start("full", centres)
    X.requires_grad_()
    began = time.perf_counter()
    solution = fit_em(theta0, X)
    value = loss(solution.value)
    middle = time.perf_counter()
    torch.autograd.grad(value, X)
    ended = time.perf_counter()
    peak = peak_memory(__file__, DEFAULT, n, d, K)
    yield {
        "n": n,
        "d": d,
        "K": K,
        "fit and polish s": middle - began,
        "backward s": ended - middle,
        "products": solution.adjoint.n_products,
        "distance": solution.distance,
        "MB beyond data": peak,
        "MB of the gradient itself": 8 * n * d / 2**20,
        "MB beyond both": peak - 8 * n * d / 2**20,
    }


# --- a flow ------------------------------------------------------------------------------------

#: Ways to move samples towards a target mixture: the paper's four, and those of samples that carry
#: their responsibilities to the next fit.
FLOWS = {
    "warm_start": {},
    "one_step": {"gradient": "one_step", "max_iter": 30, "tol": 1e-6},
    "implicit": {"gradient": "implicit", "max_iter": 1, "gradient_tol": 1.0},
    "automatic": {"gradient": "automatic", "max_iter": 30, "tol": 1e-6},
    "warm_start, carry": {"carry": True},
    "implicit, carry": {"gradient": "implicit", "max_iter": 1, "gradient_tol": 1.0, "carry": True},
    "natural, carry": {"gradient": "natural", "max_iter": 1, "gradient_tol": 0.3, "carry": True},
}


def random_of(seed):
    """``normal(*shape)`` and ``uniform(*shape)`` of a seed."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=F64, generator=generator)

    def uniform(*shape):
        return torch.rand(*shape, dtype=F64, generator=generator)

    return normal, uniform


def scattered(seed, n=200, K=3):
    """Three clouds of any shape at random places, and three such components elsewhere."""
    normal, _ = random_of(seed)
    centres, factors = 3 * normal(K, 2), normal(K, 2, 2) / 2
    X = centres[torch.arange(n) % K] + normal(n, 2) @ (torch.eye(2, dtype=F64) + normal(2, 2) / 2)
    covariances = factors @ factors.mT + 0.3 * torch.eye(2, dtype=F64)
    return X, centres, 6 + 3 * normal(K, 2), covariances


def overlapping(seed, n=200, K=3, side=2.0, distance=3.0):
    """Three clouds of width one at the corners of a triangle of a side, and three others."""
    normal, uniform = random_of(seed)

    def triangle():
        angle = 2 * math.pi * (uniform(1) + torch.arange(K, dtype=F64) / K)
        factors = torch.eye(2, dtype=F64) + normal(K, 2, 2) / 5
        return side / math.sqrt(3) * torch.stack([angle.cos(), angle.sin()], 1), factors

    (centres, factors), (others, shapes) = triangle(), triangle()
    label = torch.arange(n) % K
    X = centres[label] + (factors[label] @ normal(n, 2, 1)).squeeze(-1)
    others = others + distance * torch.nn.functional.normalize(normal(1, 2))
    return X, centres, others, shapes @ shapes.mT


def touching(seed):
    """The same at twice the side: EM converges at a rate of about 0.8, there at 0.95."""
    return overlapping(seed, side=4.0)


def flow_problem(clouds, seed):
    """Samples, a target of three components of equal weight, and the first fit."""
    X, centres, means, covariances = clouds(seed)
    target = GaussianMixtureParams(torch.full((3,), 1 / 3, dtype=F64), means, covariances)
    reg_covar = 1e-4 * float(torch.linalg.eigvalsh(covariances).max())
    options = {"fixed_weights": True, "reg_covar": reg_covar}
    first = fit_em(start("full", centres), X, tol=1e-8, max_iter=2000, **options).value
    return X, target, first, options


#: The clouds of the flows.
CLOUDS = [scattered, touching, overlapping]
#: Their rates. Where the fit follows at once, a loss falls by ``(1 - rate)^2`` a step.
RATES = (0.05, 0.2, 0.7, 1.0)
#: Shares of the first loss that flows are followed to; at the last they end.
SHARES = (1e-2, 1e-3, 1e-4, 1e-6)
#: Whose losses are drawn, and the share by which each way has its best rate.
SHOWN, GOAL = touching, 1e-4


class Flow(NamedTuple):
    """What became of a flow."""

    losses: list
    """The loss of each step, as the flow saw it."""
    times: list
    """CPU seconds of each step."""
    fitted: float
    """Loss of a full fit to its last samples, from its last mixture, over the first loss."""


def flow(name, clouds, seed, n_steps, rate):
    """Follow one flow to the last share; shorter if a fit came to nothing."""
    X, target, first, options = flow_problem(clouds, seed)
    em = WarmStart(first, **options, **FLOWS[name])
    losses, times = [], []
    for _ in range(n_steps):
        before = X.requires_grad_()
        began = time.process_time()
        try:
            cost = transport_plan(em(X), target).cost
        except ValueError:  # samples flung so far that a covariance has collapsed
            return Flow(losses, times, math.inf)
        (gradient,) = torch.autograd.grad(cost, X)
        X = (X - rate * len(X) / 2 * gradient).detach()
        times.append(time.process_time() - began)
        losses.append(float(cost.detach()))
        if losses[-1] < SHARES[-1] * losses[0]:
            break
    tight = {"tol": 1e-12, "max_iter": 3000, "acceleration": "squarem"}
    fitted = fit_em(em.theta, before.detach(), **options, **tight).value
    return Flow(losses, times, float(transport_plan(fitted, target).cost) / losses[0])


def flow_rows(quick, flows):
    """Each way at each rate for a few clouds: time of a step, steps to shares of the loss."""
    length, seeds = (2, 2) if quick else (9, 8)
    for clouds in CLOUDS:
        for rate in RATES:
            n_steps = max(20, round(length / rate))
            for seed in range(seeds):
                for name in FLOWS:  # interleaved
                    runs = flows.setdefault((clouds, name, rate), [])
                    runs.append(flow(name, clouds, seed, n_steps, rate))
            for name in FLOWS:
                yield flow_row(flows, clouds, name, rate)


def best_rows(flows):
    """Each way at the rate at which most of its flows arrive, and soonest."""
    for clouds in CLOUDS if flows else ():
        for name in FLOWS:
            yield flow_row(flows, clouds, name, best_rate(flows, clouds, name))


def best_rate(flows, clouds, name):
    """The rate at which most flows come to the goal, and of these the one of fewest steps."""

    def rank(rate):
        arrived = [first_below(run.losses, GOAL) for run in flows[clouds, name, rate]]
        steps = [step for step in arrived if step is not None]
        return len(steps), -np.median(steps) if steps else 0.0

    return max((rate for c, n, rate in flows if (c, n) == (clouds, name)), key=rank)


def flow_row(flows, clouds, name, rate):
    """What to say of one way at one rate, beside warm starts of the same clouds and rate."""
    runs = flows[clouds, name, rate]
    medians, carried, plain = (
        [np.median(run.times) for run in flows[clouds, n, rate]]
        for n in (name, "warm_start, carry", "warm_start")
    )
    times = [time_to(GOAL, run) for run in runs]
    return {
        "clouds": clouds.__name__,
        "rate": rate,
        "flow": name,
        "CPU ms a step, median": 1e3 * float(np.median(medians)),
        "times warm_start": float(np.median(np.divide(medians, plain))),
        "times warm_start, carry": float(np.median(np.divide(medians, carried))),
        **{f"steps to {share:g} (reached it)": steps_to(share, runs) for share in SHARES},
        f"CPU ms to {GOAL:g}, median": 1e3 * float(np.median(times)),
        f"below {GOAL:g} by a full fit": f"{sum(r.fitted < GOAL for r in runs)} of {len(runs)}",
    }


def time_to(share, run):
    """CPU seconds until the loss is below a share of the first."""
    step = first_below(run.losses, share)
    return math.inf if step is None else sum(run.times[: step + 1])


def steps_to(share, runs):
    """Median over all flows of the first step below a share, and how many came there."""
    reached = [first_below(run.losses, share) for run in runs]
    median = np.median([math.inf if r is None else r for r in reached])
    return f"{median:g} ({sum(r is not None for r in reached)} of {len(runs)})"


def first_below(losses, share):
    """The first step whose loss is below a share of the first."""
    return next((i for i, value in enumerate(losses) if value < share * losses[0]), None)


# --- where polishing ends ------------------------------------------------------------------------


def end_rows(quick):
    """Polished fits against plain EM run on from the same default fit, in flat problems."""
    for name in ("full", "tied", "diag", "spherical"):
        seeds = range(4 if quick else 30)
        ends = [polished_end(name, seed) for seed in seeds]
        gains = np.array([gain for gain, _ in ends])
        yield {
            "covariance": name,
            "problems": len(seeds),
            "the same": int((np.abs(gains) <= 1e-6).sum()),
            "higher": int((gains > 1e-6).sum()),
            "lower": int((gains < -1e-6).sum()),
            "warned": sum(warned for _, warned in ends),
            "largest fall": float(-gains.min()),
        }


def polished_end(name, seed):
    """How much higher a polished fit ends than plain EM, and whether it warned."""
    rng = np.random.default_rng([seed, *name.encode()])
    d, K, n = rng.integers(1, 5), rng.integers(2, 7), rng.choice([60, 150, 400])
    centres = rng.choice([0.0, 1.0, 2.0]) * rng.normal(size=(K, d))
    X = torch.from_numpy(rng.normal(size=(n, d)) + centres[rng.integers(K, size=n)])
    options = {"reg_covar": 1e-3}
    theta = start(name, X[rng.choice(n, K, replace=False)])
    theta = fit_em(theta, X, tol=1e-3, max_iter=500, **options).value
    settled = fit_em(theta, X, tol=1e-12, max_iter=20_000, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        polished = fit_em(theta, X.requires_grad_(), max_iter=0, **options)
    return polished.objective - settled.objective, bool(caught)


# --- results -----------------------------------------------------------------------------------

TITLES = {
    "accuracy": "How exact: against automatic at convergence, (n, 3, 3), several data sets",
    "cost": "What it costs, after a fit: forward is polishing or iterating, then backward",
    "ends": "Where polishing ends in flat problems, against plain EM run on",
    "large": "A large fit",
    "best": "Flows, each way at its best rate: where most arrive at 0.0001, and soonest",
    "flow": "Flows of 200 samples in the plane to three components, fixed uniform weights",
}

NOTES = {
    "ends": [
        "Few samples, 60 to 400, of up to six overlapping components in up to four dimensions. The",
        "same: within 1e-6 in the mean log-likelihood of plain EM from the same default fit, to",
        "tol=1e-12 or 20,000 iterations. It ends higher where EM stops on a plateau.",
        "",
    ],
    "cost": [
        "CPU times of one thread. The fit before is one to tol=1e-7; of that of a default fit,",
        "one to 1e-3, which is polished further.",
        "",
    ],
    "flow": [
        "At rate 1 separated clouds would jump there; flows end at 1e-6, so that all steps are on",
        "the way. Numbers are medians over eight flows: of their median steps, of those over the",
        "warm start's on the same clouds, of steps and time until they arrive. With carry each fit",
        "starts from the samples' last responsibilities (natural: from where it asked for). EM's",
        "rate of convergence is about 0.8 on touching clouds, 0.95 on overlapping ones, up to 1 on",
        "the way.",
        "",
    ],
}


def result(name):
    """Where the table of one part is kept."""
    return RESULTS / f"bench_gradient_{name}.csv"


def write(tables, flows):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    lines = [
        "# Gradients of a fit",
        "",
        f"Written by `python benchmarks/bench_gradient.py` on {machine()};",
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s). Medians of interleaved",
        "repeats in one run. One unit is a forward EM iteration in plain torch; MB is peak memory",
        "beyond the data, the gradient itself included.",
    ]
    for name, table in tables.items():
        if table:
            write_csv(table, result(name))
            lines += ["", f"## {TITLES[name]}", "", *NOTES.get(name, ()), *markdown(table)]
    (RESULTS / "bench_gradient.md").write_text("\n".join(lines) + "\n")
    if flows or not tables["best"]:
        write_plot(tables["cost"], flows, RESULTS / "bench_gradient.png")


def write_plot(costs, flows, path):
    """Backward times and memory as bars, losses of flows as curves."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 3.6), layout="constrained")
    labels = [f"{r['gradient']} ({r['n']:.0e}, {r['d']}, {r['K']})" for r in costs]
    for ax, column in zip(axes, ("backward, units", "MB"), strict=False):
        bars = ax.barh(labels, [r[column] for r in costs])
        ax.bar_label(bars, fmt="%.3g", padding=3)
        ax.set(xscale="log" if costs else "linear", title=column)
        ax.invert_yaxis()
        ax.margins(x=0.3)
    axes[1].set_yticklabels([])
    if (SHOWN, "warm_start", RATES[-1]) in flows:
        for name in FLOWS:
            rate = best_rate(flows, SHOWN, name)
            runs = [np.divide(run.losses, run.losses[0]) for run in flows[SHOWN, name, rate]]
            longest = max(map(len, runs))  # those that have arrived stay there
            losses = [np.pad(x, (0, longest - len(x)), mode="edge") for x in runs]
            line = axes[2].loglog(range(1, longest + 1), np.median(losses, axis=0))
            line[0].set_label(f"{name}, rate {rate}")
        axes[2].set(xlabel="step", title=f"{SHOWN.__name__} clouds: MW2² / first", ylim=(1e-7, 2))
        axes[2].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the benchmark")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*scalar may lead")
    torch.set_num_threads(args.threads)
    if args.memory:
        print_memory(*json.loads(args.memory))
        return
    flows = {}
    parts = {
        "accuracy": accuracy_rows(args.quick),
        "cost": cost_rows(args.quick, repeats=2 if args.quick else 5),
        "ends": end_rows(args.quick),
        "large": large_rows(args.quick),
        "flow": flow_rows(args.quick, flows),
        "best": best_rows(flows),
    }
    run = [name for name in parts if args.only in (name, "")]
    run += ["best"] if run == ["flow"] else []
    tables = {name: [] if name in run else read_csv(result(name)) for name in parts}
    for name in run:
        for row in parts[name]:
            tables[name].append(row)
            print(*markdown([row])[2:], flush=True)
            write(tables, flows)  # as it grows: an interrupted run is not lost


if __name__ == "__main__":
    main()
