"""EM against every program for mixtures of Gaussians that installs: time, memory, likelihood.

Full covariances, one thread, CPU time. All make the same iterations from the same weights, means
and covariances, where a program lets itself be told them (``_peers.py`` says how each is called).
Tables: *given start*: one iteration, a whole fit of thirty, its memory and the mean log-likelihood
that it reaches. *Equal time*: the likelihood after the iterations that fit into the CPU time of
ours. *Own start*: each program as it comes, with its own start and stopping rule. *Growth*: one
iteration at n, d and K over two decades each, and the exponent of the last.

Each program runs in a process of its own. One that fails, or dies, or takes too long, has a row
that says so; so has one that is not installed.

    python benchmarks/bench_peers.py                       # everything, about seven minutes
    python benchmarks/bench_peers.py --quick               # tiny sizes, nothing is written
    python benchmarks/bench_peers.py --only scikit-learn   # ours and some programs

Writes ``results/bench_peers*.csv``, ``.md`` and ``.png`` beside this file, or into ``--out``.
"""

import argparse
import datetime
import math
import multiprocessing
import os
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _common import RESULTS, cpu_seconds, machine, markdown, peak_during, write_csv
from _peers import PROGRAMS
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

OURS = "skgmmot"
#: Set before a program is imported: one thread.
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
TABLES = {
    "given": "Given start",
    "equal": "Equal time",
    "own": "Own start and stopping rule",
    "growth": "How the cost of an iteration grows",
}


class Plan(NamedTuple):
    """What is run: (n, d, K) of the tables, and one axis at a time of the growth."""

    sizes: tuple
    growth: dict
    iterations: int = 30  # of the whole fit
    budgets: tuple = (30, 200)  # iterations of ours whose time the others get
    between: int = 8  # iterations between the short and the long fit, up to 50 where they are fast
    enough: float = 1.0  # CPU seconds after which a measurement is not repeated
    slow: float = 0.5  # CPU seconds of an iteration after which a program's axis ends
    patience: float = 60.0  # wall seconds for an answer


def geometric(first, last, points=5):
    """Whole numbers, evenly spaced in the logarithm."""
    return [round(x) for x in np.geomspace(first, last, points)]


FULL = Plan(
    sizes=((1000, 2, 3), (20_000, 10, 20)),
    growth={
        "n": [(n, 8, 8) for n in geometric(1000, 100_000)],
        "d": [(4000, d, 4) for d in geometric(2, 200)],
        "K": [(5000, 4, K) for K in geometric(2, 200)],
    },
)
QUICK = Plan(
    sizes=((300, 2, 3),),
    growth={"n": [(200, 2, 2), (400, 2, 2)]},
    iterations=3,
    budgets=(3,),
    between=50,
    enough=0.05,
)


def problem(n, d, K, dtype="float64"):
    """Samples of a mixture that overlaps alike in any dimension, and a start near it."""
    rng = np.random.default_rng(0)
    scale = 2 / d**0.5
    centres = scale * rng.normal(size=(K, d))
    X = centres[rng.integers(K, size=n)] + rng.normal(size=(n, d))
    means = centres + 0.3 * scale * rng.normal(size=(K, d))
    return X.astype(dtype), (np.full(K, 1 / K), means, np.stack([2 * np.eye(d)] * K))


def log_likelihood(X, mixture):
    """Mean log-likelihood of samples, in float64 whatever the program's precision."""
    X, *mixture = (np.asarray(t, dtype=np.float64) for t in (X, *mixture))
    joint = []
    for weight, mean, covariance in zip(*mixture, strict=True):
        L = np.linalg.cholesky(covariance)
        z = solve_triangular(L, (X - mean).T, lower=True)
        joint.append(np.log(weight) - 0.5 * (z**2).sum(0) - np.log(np.diag(L)).sum())
    return float(logsumexp(joint, axis=0).mean() - X.shape[1] / 2 * math.log(2 * math.pi))


def medians(call, enough):
    """Medians of what a call returns, over up to five calls while they are cheap."""
    found, began = [], time.process_time()
    while not found or (len(found) < 5 and time.process_time() - began < enough):
        found.append(call())
    return np.median(found, axis=0)


def stands_still(program, X, start, n_iter):
    """Whether the last iteration changes nothing; some programs then stop, whatever is asked."""
    (_, before, _), (_, after, _) = (program.given(X, start, i) for i in (n_iter - 1, n_iter))
    return np.array_equal(before, after)


def time_iteration(program, shape, plan):
    """CPU seconds of one iteration, and of all of a fit but its iterations."""
    X, start = problem(*shape, program.dtype)
    program.given(X, start, 1)  # what is loaded or compiled at the first call
    first = cpu_seconds(lambda: program.given(X, start, 1))
    between = 1 if first > 2 * plan.slow else max(plan.between, min(50, int(0.1 / first)))
    if program.compiles:
        program.given(X, start, 1 + between)  # and it goes on where nothing changes
    elif between > 1 and stands_still(program, X, start, 1 + between):
        raise RuntimeError(f"stopped before iteration {1 + between}: none could be timed")

    def once():
        short, long = (
            cpu_seconds(lambda i=i: program.given(X, start, i)) for i in (1, 1 + between)
        )
        return (long - short) / between, short

    iteration, short = medians(once, plan.enough)
    if iteration <= 0:
        raise RuntimeError("the clock saw no difference between a short and a long fit")
    return {"seconds": float(iteration), "rest": max(0.0, float(short - iteration))}


def whole_fit(program, shape, n_iter, plan):
    """CPU seconds and peak memory of a fit from the given start, and its likelihood."""
    X, start = problem(*shape, program.dtype)
    if program.compiles:
        program.given(X, start, n_iter)
    found = []
    spent = medians(
        lambda: cpu_seconds(lambda: found.append(program.given(X, start, n_iter))), plan.enough
    )
    memory = peak_during(lambda: program.given(X, start, min(n_iter, 3)))
    reached = log_likelihood(X, found[-1])
    return {"fit": float(spent), "MB": memory, "log-likelihood": reached}


def own_fit(program, shape, plan):
    """Medians over up to three seeds of fits with the program's own start and stopping rule."""
    X, _ = problem(*shape, program.dtype)
    seeds = iter(range(3))
    program.own(X[:1000], shape[-1], 0)  # libraries are loaded and threads have run

    def once():
        found = []

        def fit():
            found.append(program.own(X, shape[-1], next(seeds)))

        spent = []
        memory = peak_during(lambda: spent.append(cpu_seconds(fit)))
        return spent[0], memory, log_likelihood(X, found[0])

    rows = [once()]
    while len(rows) < 3 and sum(row[0] for row in rows) < 5 * plan.enough:
        rows.append(once())
    spent, memory, reached = np.median(rows, axis=0)
    return {"fit": spent, "MB": memory, "log-likelihood": reached, "seeds": len(rows)}


def equal_time(program, shape, n_iter):
    """Likelihood after some iterations from the given start."""
    X, start = problem(*shape, program.dtype)
    mixture = program.given(X, start, n_iter) if n_iter else start
    return {"log-likelihood": log_likelihood(X, mixture)}


TASKS = {f.__name__: f for f in (time_iteration, whole_fit, own_fit, equal_time)}


def serve(connection, name):
    """Answer tasks about one program, in a process of its own."""
    warnings.filterwarnings("ignore")
    for stream in (1, 2):  # some programs print progress
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    torch.set_num_threads(1)
    while True:
        task, *arguments = connection.recv()
        try:
            connection.send(TASKS[task](PROGRAMS[name], *arguments))
        except Exception as error:  # whatever a program raises is its result
            message = " ".join(str(error).split())[:100]
            connection.send({"failed": f"{type(error).__name__}: {message}"})


class Worker:
    """A program in a process of its own, which is begun anew when it died or was too slow."""

    def __init__(self, name, patience):
        self.name, self.patience, self.process = name, patience, None

    def ask(self, *task):
        """The answer, or a row that says why there is none."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs, self.name), daemon=True)
            self.process.start()
            theirs.close()
        self.connection.send(task)
        if not self.connection.poll(self.patience):
            self.stop()
            return {"failed": f"no answer in {self.patience:.0f} s"}
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            self.stop()
            return {"failed": f"its process died (exit code {code})"}

    def stop(self):
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def describe(shape):
    """The columns that say what is run."""
    return dict(zip(("n", "d", "K"), shape, strict=True))


def given_rows(name, worker, plan):
    """One iteration and a whole fit from the given start."""
    for shape in plan.sizes:
        row = {**describe(shape), "program": name, "start": PROGRAMS[name].start}
        timed = worker.ask("time_iteration", shape, plan)
        if "failed" in timed:
            yield row | timed
            continue
        row["iteration ms"] = 1e3 * timed["seconds"]
        row["rest"] = timed["rest"]
        fitted = worker.ask("whole_fit", shape, plan.iterations, plan)
        row["fit ms"] = 1e3 * fitted.pop("fit") if "fit" in fitted else None
        yield row | fitted


def own_rows(name, worker, plan):
    """Fits as the program comes."""
    for shape in plan.sizes:
        fitted = worker.ask("own_fit", shape, plan)
        spent = {"fit ms": 1e3 * fitted.pop("fit")} if "fit" in fitted else {}
        yield {**describe(shape), "program": name, **spent, **fitted}


def growth_rows(name, worker, plan):
    """One iteration along each axis, until it is slow or fails."""
    for axis, shapes in plan.growth.items():
        for shape in shapes:
            row = {"axis": axis, **describe(shape), "program": name}
            timed = worker.ask("time_iteration", shape, plan)
            if "failed" in timed:
                yield row | timed
                break
            yield row | {"iteration ms": 1e3 * timed["seconds"]}
            if timed["seconds"] > plan.slow:
                break


def equal_rows(name, worker, plan, given):
    """The likelihood in the time of so many iterations of ours, for each of the budgets."""
    known = {(r["program"], r["n"]): r for r in given if "iteration ms" in r}
    for shape in plan.sizes:
        theirs, ours = (known.get((p, shape[0])) for p in (name, OURS))
        if theirs is None or ours is None:
            continue
        for budget in plan.budgets:
            seconds = ours["rest"] + budget * ours["iteration ms"] / 1e3
            left = seconds - theirs["rest"]
            n_iter = budget if name == OURS else max(0, int(1e3 * left / theirs["iteration ms"]))
            row = {**describe(shape), "CPU ms": 1e3 * seconds, "program": name}
            if n_iter == 0 and PROGRAMS[name].start != "given":
                yield row | {"iterations": 0, "failed": "not one iteration in this time"}
            else:
                reached = worker.ask("equal_time", shape, n_iter)
                yield row | {"iterations": n_iter} | reached


def run(names, plan):
    """All tables, program by program."""
    tables = {name: [] for name in TABLES}
    for name in names:
        began = time.perf_counter()
        if not PROGRAMS[name].installed:
            tables["given"].append({"program": name, "failed": "not installed"})
            print(f"{name}: not installed", flush=True)
            continue
        worker = Worker(name, plan.patience)
        for title, rows in (
            ("given", given_rows(name, worker, plan)),
            ("own", own_rows(name, worker, plan)),
            ("growth", growth_rows(name, worker, plan)),
        ):
            tables[title] += rows
        tables["equal"] += equal_rows(name, worker, plan, tables["given"])
        worker.stop()
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return tables


def compared(rows, column, same):
    """Rows with the time over ours of the same size."""
    ours = {tuple(r[k] for k in same): r[column] for r in rows if is_ours(r) and r.get(column)}

    def ratio(row):
        base, value = ours.get(tuple(row.get(k) for k in same)), row.get(column)
        found = times(value / base, row["program"]) if base and value else None
        return {} if found is None else {f"{column}, times ours": found}

    return [row | ratio(row) for row in rows]


def times(ratio, name):
    """A program's time over ours, in bold where it is the faster."""
    return f"**{ratio:.2g}**" if ratio < 1 and not name.startswith(OURS) else float(ratio)


def is_ours(row):
    """Whether a row is of our float64, with which all are compared."""
    return row["program"] == OURS


def readable(rows, *hidden):
    """Rows grouped by size, likelihoods with their digits, what failed last."""

    def shown(row):
        row = {k: v for k, v in row.items() if k not in hidden}
        if "log-likelihood" in row:
            row["log-likelihood"] = f"{row['log-likelihood']:.5f}"
        return row | ({"failed": row.pop("failed")} if "failed" in row else {})

    order = {}
    for row in rows:
        order.setdefault((row.get("n", 0), row.get("CPU ms", 0)), []).append(row)
    return [shown(row) for key in order for row in order[key]]


def exponents(rows):
    """The exponent of the last decade of each axis, and the largest size that was reached."""
    series = {}
    for row in rows:
        series.setdefault((row["axis"], row["program"]), []).append(row)
    for (axis, name), points in sorted(series.items(), key=lambda item: "ndK".index(item[0][0])):
        timed = [(r[axis], r["iteration ms"]) for r in points if "iteration ms" in r]
        row = {"axis": axis, "program": name}
        if timed:
            x, y = np.array(timed).T
            row |= {"from": int(x[0]), "to": int(x[-1]), "ms at the end": float(y[-1])}
            last = x >= x[-1] / 11
            if last.sum() > 1:
                slope = np.polyfit(np.log(x[last]), np.log(y[last]), 1)[0]
                row["exponent"] = f"{slope:.2f}"
            ours = {r[axis]: r["iteration ms"] for r in series.get((axis, OURS), [])}
            if x[-1] in ours:
                row["times ours at the end"] = times(y[-1] / ours[x[-1]], name)
        yield row | next(({"failed": r["failed"]} for r in points if "failed" in r), {})


def write_plot(rows, path):
    """Time of an iteration against n, d and K."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    axes = list(dict.fromkeys(r["axis"] for r in rows))
    figure, panels = plt.subplots(
        1, len(axes), figsize=(4.2 * len(axes), 4), layout="constrained", squeeze=False, sharey=True
    )
    for panel, axis in zip(panels[0], axes, strict=True):
        chosen = [r for r in rows if r["axis"] == axis and "iteration ms" in r]
        for i, name in enumerate(PROGRAMS):
            points = [(r[axis], r["iteration ms"]) for r in chosen if r["program"] == name]
            style = "o-" if name == OURS else "o--" if name.startswith(OURS) else ".-"
            if points:
                panel.loglog(*zip(*points, strict=True), style, color=f"C{i}", label=name)
        fixed = [f"{k} = {chosen[0][k]:,}" for k in ("n", "d", "K") if k != axis]
        panel.set(xlabel=axis, title=", ".join(fixed))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("CPU ms of one EM iteration")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def write(tables, plan, out):
    """Tables for programs and people, and the figure."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        write_csv(rows, out / f"bench_peers_{name}.csv")
    versions = dict.fromkeys(
        f"{p.distribution} {p.version}" for p in PROGRAMS.values() if p.installed and p.version
    )
    same = ("n", "d", "K")
    given = compared(compared(tables["given"], "iteration ms", same), "fit ms", same)
    own = compared(tables["own"], "fit ms", same)
    lines = [
        "# EM against every program that installs",
        "",
        f"Written by `python benchmarks/bench_peers.py` on {machine()}, {datetime.date.today()};",
        f"torch {torch.__version__}, {', '.join(versions)}.",
        "Full covariances, one thread, medians of CPU time, float64; gmmx has float32 only. times",
        "ours: the program's time over that of skgmmot in float64, in bold where the program is",
        "the faster. MB: peak memory beyond the data, for gmmx with the conversion of them. Of",
        "mixtures with the same start, the log-likelihood (the mean over the samples, computed in",
        "float64 by one function for all) tells whether the same iterations were made.",
        "",
        f"## {TABLES['given']}",
        "",
        f"One iteration, and a whole fit of {plan.iterations} from the same weights, means and",
        "covariances. torchgmm can be given means alone; mlpack's gmm_train ignores the mixture",
        "it is given and starts from k-means. gmmx compiles for each shape and number of",
        "iterations, which is not counted here.",
        "",
        *markdown(readable(given, "rest")),
        "",
        f"## {TABLES['equal']}",
        "",
        "Iterations that fit into the CPU time of " + " and of ".join(map(str, plan.budgets)),
        "iterations of skgmmot, from the same start, and the log-likelihood that they reach; after",
        "0 iterations, that of the start.",
        "",
        *markdown(readable(sorted(tables["equal"], key=lambda r: (r["n"], r["CPU ms"])))),
        "",
        f"## {TABLES['own']}",
        "",
        "Each program's defaults, so what is compared is what a user gets: the programs stop at",
        "different tolerances and start differently, pomegranate from random samples; a later",
        "stop costs time and reaches more. Medians over up to three seeds, warm: gmmx's compiling",
        "of each size is not in them.",
        "",
        *markdown(readable(sorted(own, key=lambda r: r["n"]))),
        "",
        f"## {TABLES['growth']}",
        "",
        "One iteration along one axis; exponent: slope of the logarithms over the last decade that",
        f"was reached. An axis ends after an iteration longer than {plan.slow:g} s.",
        "",
        *markdown(list(exponents(tables["growth"]))),
    ]
    (out / "bench_peers.md").write_text("\n".join(lines) + "\n")
    write_plot(tables["growth"], out / "bench_peers.png")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing is written")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, help="programs besides ours")
    parser.add_argument("--out", type=Path, help="where to write")
    args = parser.parse_args()
    os.environ.update(ONE_THREAD)
    chosen = set(args.only or PROGRAMS) | {OURS}
    plan = QUICK if args.quick else FULL
    tables = run([name for name in PROGRAMS if name in chosen], plan)
    for name, rows in tables.items():
        print("", TABLES[name], *markdown(readable(rows)), sep="\n")
    if args.out or not args.quick:
        write(tables, plan, args.out or RESULTS)


if __name__ == "__main__":
    main()
