"""Data that does not fit into memory: one question and one table each.

    python benchmarks/bench_scale.py              # all questions
    python benchmarks/bench_scale.py stepwise     # some
    python benchmarks/bench_scale.py --quick      # less data, nothing is written

Writes ``results/bench_scale_QUESTION.csv`` for each, and all tables to ``bench_scale.md``.
"""

import argparse
import datetime
import inspect
import warnings

import numpy as np
import sklearn
import torch
from _common import RESULTS, cpu_seconds, machine, markdown, read_csv, write_csv
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from skgmmot import DifferentiableGaussianMixture

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


def stepwise(quick):
    """One pass of partial_fit against fit: mean log-likelihood and CPU seconds.

    100 blocks of 10,000 rows, and 20 more that no model has seen; one thread, November 27, 2026.
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


QUESTIONS = {"stepwise": stepwise}


def write():
    """Write the tables of all questions that have results."""
    lines = [
        "# Data that does not fit into memory",
        "",
        f"Written by `python benchmarks/bench_scale.py` on {machine()};",
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, one thread unless said;",
        f"{datetime.date.today()}.",
    ]
    for name, question in QUESTIONS.items():
        table = read_csv(RESULTS / f"bench_scale_{name}.csv")
        if table:
            title, _, text = inspect.getdoc(question).partition("\n\n")
            lines += ["", f"## {title.rstrip('.')}", "", text, "", *markdown(table)]
    (RESULTS / "bench_scale.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", help="which, of " + ", ".join(QUESTIONS))
    parser.add_argument("--quick", action="store_true", help="less data")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    unknown = set(args.questions) - set(QUESTIONS)
    if unknown:
        parser.error(f"questions must be of {', '.join(QUESTIONS)}, got {', '.join(unknown)}")
    RESULTS.mkdir(exist_ok=True)
    for name in args.questions or QUESTIONS:
        table = []
        torch.set_num_threads(1)
        with threadpool_limits(1):
            for row in QUESTIONS[name](args.quick):
                table.append(row)
                print(*markdown([row])[2:], flush=True)
        if not args.quick:
            write_csv(table, RESULTS / f"bench_scale_{name}.csv")
    write()


if __name__ == "__main__":
    main()
