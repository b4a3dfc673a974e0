"""Small fits, predictions and distances, against scikit-learn and POT in the same run.

Here nothing is to be gained by better arithmetic: what is measured is everything around it, from
the validation of the input to the attributes of the result. The programs take turns, and medians
of their CPU times are compared.

    python benchmarks/bench_small.py            # everything, about three minutes
    python benchmarks/bench_small.py --quick    # few repeats, seconds

Writes ``results/bench_small.csv`` and ``.md`` beside this file.
"""

import argparse
import warnings

import numpy as np
import ot
import sklearn
import torch
from _common import RESULTS, cpu_seconds, machine, markdown, write_csv
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein

PROGRAMS = {"peer": GaussianMixture, "skgmmot": DifferentiableGaussianMixture}
#: Samples, features and components of the fits.
FITS = [(9, 1, 2), (30, 2, 3), (100, 2, 3), (300, 2, 3), (1000, 2, 3), (10_000, 2, 3)]
#: Rows of the predictions.
ROWS = [1, 10, 100, 1000, 10_000]
#: Components and features of the distances.
DISTANCES = [(2, 2, 2), (10, 10, 2), (10, 10, 8), (50, 50, 2)]


def data(n, d, K):
    """Samples of a mixture."""
    rng = np.random.default_rng(0)
    return 3 * rng.normal(size=(K, d))[rng.integers(K, size=n)] + rng.normal(size=(n, d))


def compare(calls, repeats):
    """Median CPU milliseconds of calls that take turns, and the peer's over ours."""
    found = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(cpu_seconds(call))
    spent = {name: 1e3 * float(np.median(values)) for name, values in found.items()}
    times = {f"{name} ms": value for name, value in spent.items()}
    return {**times, "ratio": spent["peer"] / spent["skgmmot"]}


def fit_rows(repeats):
    """Whole fits from k-means, and from a given mixture."""
    for n, d, K in FITS:
        X = data(n, d, K)
        given = {"means_init": X[:K], "precisions_init": np.stack([np.eye(d)] * K)}
        starts = {"k-means": {}, "given": {"weights_init": np.full(K, 1 / K), **given}}
        for name, start in starts.items():
            models = {p: new(K, random_state=0, **start) for p, new in PROGRAMS.items()}
            calls = {p: lambda m=model, X=X: m.fit(X) for p, model in models.items()}
            yield {"work": f"fit, {name}", "n": n, "d": d, "K": K, **compare(calls, repeats)}


def prediction_rows(repeats):
    """Predictions of a few rows by one fitted mixture."""
    models = {p: new(3, random_state=0).fit(data(1000, 2, 3)) for p, new in PROGRAMS.items()}
    for work in ("predict", "predict_proba", "score_samples"):
        for n in ROWS:
            X = data(n, 2, 3)
            calls = {p: lambda m=m, X=X, w=work: getattr(m, w)(X) for p, m in models.items()}
            yield {"work": work, "n": n, "d": 2, "K": 3, **compare(calls, repeats)}


def mixture(K, d, seed):
    """Weights, means and covariances."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(K, d, d)) / d**0.5
    return np.full(K, 1 / K), 2 * rng.normal(size=(K, d)), A @ A.mT + 0.1 * np.eye(d)


def distance_rows(repeats):
    """MW2 against POT's numpy code, and with its gradient against POT's torch code."""
    for K0, K1, d in DISTANCES:
        source, target = mixture(K0, d, 0), mixture(K1, d, 1)
        leaves = [[torch.tensor(t, requires_grad=True) for t in m] for m in (source, target)]
        shape = {"d": d, "K": K0, "L": K1}
        calls = {
            "peer": lambda s=source, t=target: theirs(s, t),
            "skgmmot": lambda s=source, t=target: MixtureWasserstein(squared=True)(s, t),
        }
        yield {"work": "MW2, POT numpy", **shape, **compare(calls, repeats)}
        calls = {
            "peer": lambda m=leaves: gradient(theirs, *m),
            "skgmmot": lambda m=leaves: gradient(MixtureWasserstein(squared=True), *m),
        }
        yield {"work": "MW2 and gradient, POT torch", **shape, **compare(calls, repeats)}


def theirs(source, target):
    """POT's MW2 squared."""
    (a, m0, S0), (b, m1, S1) = source, target
    return ot.gmm.gmm_ot_loss(m0, m1, S0, S1, a, b)


def gradient(distance, source, target):
    """Gradients in all arrays of both mixtures."""
    return torch.autograd.grad(distance(tuple(source), tuple(target)), [*source, *target])


def write(table):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    write_csv(table, RESULTS / "bench_small.csv")
    lines = [
        "# Small fits, predictions and distances, against scikit-learn and POT",
        "",
        f"Written by `python benchmarks/bench_small.py` on {machine()}; torch {torch.__version__},",
        f"scikit-learn {sklearn.__version__}, POT {ot.__version__}, one thread. Medians of CPU",
        "times of calls that take turns in one run. ratio: the peer's time over ours. The peer of",
        "fits and predictions is scikit-learn.",
        "",
        *markdown(table),
    ]
    (RESULTS / "bench_small.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=sklearn.exceptions.ConvergenceWarning)
    repeats = 5 if args.quick else 200
    table = []
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for make in (fit_rows, prediction_rows, distance_rows):
            for row in make(repeats):
                table.append(row)
                print(*markdown([row])[2:], flush=True)
    write(table)


if __name__ == "__main__":
    main()
