"""What users of Gaussian mixtures ask for: one question and one table each.

    python benchmarks/bench_requests.py                  # all questions
    python benchmarks/bench_requests.py standard_errors  # some
    python benchmarks/bench_requests.py --quick          # fewer repeats

Writes ``results/bench_requests_QUESTION.csv`` for each, and all tables to ``bench_requests.md``.
"""

import argparse
import inspect
import warnings

import numpy as np
import sklearn
import torch
from _common import RESULTS, machine, markdown, read_csv, write_csv
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture

# --- standard errors ---------------------------------------------------------------------------


def standard_errors(quick):
    """Standard errors: coverage of 95 % intervals.

    Mixtures of three overlapping components in the plane are drawn and fitted (from their true
    means, tol=1e-8) 500 times. An interval is the estimate plus and minus 1.96 standard errors;
    covered: in how many per cent of fits it holds the true value, on average over the parameters of
    a kind. worst: of the single parameter farthest from 95 %; of 500 fits it has a standard error
    of 1. robust: the sandwich estimate. t, 5 degrees: components are of that distribution
    instead, far apart, and the true values are those of the moments.
    """
    repeats = 50 if quick else 500
    means = np.array([[0.0, 0.0], [3.0, 0.0], [1.0, 3.5]])
    weights = np.array([0.5, 0.3, 0.2])
    cases = [("full", 1000), ("full", 4000), ("tied", 1000), ("diag", 1000), ("spherical", 1000)]
    for name, n in cases:
        covariances = {
            "full": np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.6, -0.2], [-0.2, 1]], np.eye(2)]),
            "tied": np.array([[1.0, 0.3], [0.3, 0.7]]),
            "diag": np.array([[1.0, 0.5], [0.6, 1.0], [1.0, 1.0]]),
            "spherical": np.array([1.0, 0.6, 0.8]),
        }[name]
        truth = (weights, means, covariances)
        yield from _coverage(name, n, truth, repeats)
    far = (weights, 6 * means, np.array([1.0, 0.6, 0.8])[:, None] * np.ones((3, 2)))
    yield from _coverage("diag", 4000, far, repeats, heavy=True)


def _coverage(covariance_type, n, truth, repeats, heavy=False):
    """How often the intervals of a fit hold the true parameters, plain and robust."""
    weights, means, covariances = truth
    source = DifferentiableGaussianMixture(3, covariance_type=covariance_type)
    source.weights_, source.means_, source.covariances_ = truth
    model = DifferentiableGaussianMixture(
        3, covariance_type=covariance_type, means_init=means, tol=1e-8, max_iter=5000
    )
    inside = {False: [], True: []}
    for seed in tqdm(range(repeats), desc=f"{covariance_type}, n={n}", leave=False):
        rng = np.random.default_rng(seed)
        if heavy:  # of variance one
            labels = rng.choice(3, size=n, p=weights)
            noise = rng.standard_t(5, size=(n, 2)) * np.sqrt(3 / 5)
            X = means[labels] + noise * np.sqrt(covariances[labels])
        else:
            X, _ = source.set_params(random_state=seed).sample(n)
        fitted = model.set_params(random_state=seed).fit(X)
        estimates = (fitted.weights_, fitted.means_, fitted.covariances_)
        for robust, found in inside.items():
            errors = fitted.standard_errors(X, robust=robust)
            found.append(
                [
                    np.abs(estimate - true) <= norm.ppf(0.975) * error
                    for estimate, true, error in zip(estimates, truth, errors, strict=True)
                ]
            )
    for robust, found in inside.items():
        each = [100 * np.mean(part, axis=0).ravel() for part in zip(*found, strict=True)]
        every = np.concatenate(each)
        yield {
            "samples of": "t, 5 degrees" if heavy else "the mixture",
            "type": covariance_type,
            "n": n,
            "robust": str(robust),
            "fits": repeats,
            "covered %, all": round(float(every.mean()), 1),
            "weights": round(float(each[0].mean()), 1),
            "means": round(float(each[1].mean()), 1),
            "covariances": round(float(each[2].mean()), 1),
            "worst": round(float(every[np.abs(every - 95).argmax()]), 1),
        }


# --- the tables --------------------------------------------------------------------------------

QUESTIONS = {"standard_errors": standard_errors}


def write():
    """Write the tables of all questions that have results."""
    lines = [
        "# What users ask for",
        "",
        f"Written by `python benchmarks/bench_requests.py` on {machine()};",
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, one thread.",
    ]
    for name, question in QUESTIONS.items():
        table = read_csv(RESULTS / f"bench_requests_{name}.csv")
        if table:
            title, _, text = inspect.getdoc(question).partition("\n\n")
            lines += ["", f"## {title.rstrip('.')}", "", text, "", *markdown(table)]
    (RESULTS / "bench_requests.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", help="which, of " + ", ".join(QUESTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    args = parser.parse_args()
    unknown = set(args.questions) - set(QUESTIONS)
    if unknown:
        parser.error(f"questions must be of {', '.join(QUESTIONS)}, got {', '.join(unknown)}")
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    RESULTS.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for name in args.questions or QUESTIONS:
        table = []
        with threadpool_limits(1):
            for row in QUESTIONS[name](args.quick):
                table.append(row)
                print(*markdown([row])[2:], flush=True)
        write_csv(table, RESULTS / f"bench_requests_{name}.csv")
    write()


if __name__ == "__main__":
    main()
