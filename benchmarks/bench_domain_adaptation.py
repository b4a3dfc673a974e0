"""Accuracy on a shifted domain: without adaptation, with `OTMap`, with the maps of POT's `ot.da`.

A classifier is trained on labelled source samples, or on their images under a map that was fitted
to source samples and unlabelled target samples, and tested on held-out target samples. No label of
the target is used, and nothing is tuned on it: every method has one setting for all tasks.

- *digits, rotated / contrast*: 900 digits are the source, 450 others, rotated or of other contrast,
  the target, 447 more the test; 20 principal components of source and target.
- *pixels, contrast*: the same in all 64 pixels, of which several are constant: 90 samples a class
  for 64 features.
- *breast cancer, drift*: half of the tumours are the source; the other half, seen by an instrument
  whose features are rescaled, mixed and moved, the target and the test.
- *breast cancer, smoothness*: tumours of small mean smoothness are the source, the others target
  and test. Here the shares of the classes change (22 % against 54 % malignant), which no transport
  of all mass can know: the case against balanced transport.

    python benchmarks/bench_domain_adaptation.py          # three seeds, some minutes on one core
    python benchmarks/bench_domain_adaptation.py --quick  # one seed, two tasks, seconds

Writes ``results/bench_domain_adaptation.csv``, ``.md`` and ``.png`` beside this file.
"""

import argparse
import time
import warnings

import numpy as np
import ot
import torch
from _common import RESULTS, machine, markdown, write_csv
from scipy import ndimage
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture, OTMap

CLASSIFIERS = {
    "1-NN": KNeighborsClassifier(1),
    "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
}


# --- tasks: seed -> source, its labels, target, test, its labels ---------------------------------


def rotated(degrees):
    """A function that turns digits."""

    def shift(X):
        turned = [
            ndimage.rotate(x.reshape(8, 8), degrees, reshape=False, order=1).ravel() for x in X
        ]
        return np.stack(turned)

    return shift


def digits(shift, *, pixels=False):
    """Digits, of which the target's are shifted, as 20 principal components or as pixels."""

    def task(seed):
        X, y = load_digits(return_X_y=True)
        source, target, test = np.split(
            np.random.default_rng(seed).permutation(len(X)), [900, 1350]
        )
        shifted, tested = shift(X[target]), shift(X[test])
        if pixels:
            return X[source], y[source], shifted, tested, y[test]
        axes = PCA(20, random_state=0).fit(np.vstack([X[source], shifted]))
        Xs, Xt, Xv = (axes.transform(part) for part in (X[source], shifted, tested))
        return Xs, y[source], Xt, Xv, y[test]

    return task


def drifted_cancer(seed):
    """Tumours seen by two instruments."""
    rng = np.random.default_rng(seed)
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    source, target, test = np.split(rng.permutation(len(X)), [285, 427])
    d = X.shape[1]
    mixing = np.diag(rng.uniform(0.5, 1.5, d)) + 0.1 * rng.normal(size=(d, d))
    drifted = X @ mixing + 2 * rng.normal(size=d)
    return X[source], y[source], drifted[target], drifted[test], y[test]


def smooth_cancer(seed):
    """Smooth tumours and others, described by the other features."""
    rng = np.random.default_rng(seed)
    data = load_breast_cancer()
    column = list(data.feature_names).index("mean smoothness")
    smooth = data.data[:, column] < np.median(data.data[:, column])
    X = np.delete(data.data, column, axis=1)
    source = rng.permutation(np.flatnonzero(smooth))[:240]
    target, test = np.array_split(rng.permutation(np.flatnonzero(~smooth)), 2)
    X = StandardScaler().fit(X[np.r_[source, target]]).transform(X)
    return X[source], data.target[source], X[target], X[test], data.target[test]


TASKS = {
    "digits, rotated 20": digits(rotated(20)),
    "digits, rotated 30": digits(rotated(30)),
    "digits, contrast": digits(lambda X: 0.5 * X + 4),
    "pixels, contrast": digits(lambda X: 0.5 * X + 4, pixels=True),
    "breast cancer, drift": drifted_cancer,
    "breast cancer, smoothness": smooth_cancer,
}


# --- methods: source, labels, target -> adapted source, its own predictor or None  ---------------


def with_map(components, kind="full", *, class_wise=False, a_class=True, penalty=None, entropy=0.0):
    """`OTMap` with so many components, for each class unless told otherwise."""

    def adapt(Xs, ys, Xt):
        variance = float(Xs.var(axis=0).mean())
        K = components * (len(np.unique(ys)) if a_class and not class_wise else 1)
        total = variance * Xs.shape[1]
        mixture = DifferentiableGaussianMixture(
            K, covariance_type=kind, reg_covar=0.05 * variance, random_state=0
        )
        plan = {"reg": entropy * total, "reg_m": None if penalty is None else penalty * 2 * total}
        transport = OTMap(Xt, mixture=mixture, class_wise=class_wise, **plan)
        images = transport.fit(Xs, ys).transform(Xs)
        return images, transport.predict if class_wise else None

    return adapt


def with_pot(transport):
    """A transport of `ot.da`."""

    def adapt(Xs, ys, Xt):
        found = transport(Xs)
        found.fit(Xs=Xs, ys=ys, Xt=Xt)
        return found.transform(Xs=Xs), None

    return adapt


METHODS = {
    "none": lambda Xs, ys, Xt: (Xs, None),
    "OTMap, 1 in all": with_map(1, a_class=False),
    "OTMap, 2 a class": with_map(2),
    "OTMap, class-wise, 1 each": with_map(1, class_wise=True),
    "OTMap, class-wise, 2 each": with_map(2, class_wise=True),
    "OTMap, class-wise, 2, reg_m=0.1": with_map(2, class_wise=True, penalty=0.1),
    "OTMap, 2 a class, tied": with_map(2, "tied"),
    "OTMap, class-wise, 2, diag, reg=0.1": with_map(2, "diag", class_wise=True, entropy=0.1),
    "OTMap, class-wise, 10, spherical, reg=0.1": with_map(
        10, "spherical", class_wise=True, entropy=0.1
    ),
    "POT EMDTransport": with_pot(lambda Xs: ot.da.EMDTransport()),
    "POT SinkhornTransport": with_pot(
        lambda Xs: ot.da.SinkhornTransport(reg_e=0.1, norm="median", max_iter=2000)
    ),
    "POT SinkhornLpl1Transport": with_pot(
        lambda Xs: ot.da.SinkhornLpl1Transport(reg_e=0.1, reg_cl=0.1, norm="median")
    ),
    "POT UnbalancedSinkhornTransport": with_pot(
        lambda Xs: ot.da.UnbalancedSinkhornTransport(reg_e=0.1, reg_m=0.1, norm="median")
    ),
    "POT LinearTransport": with_pot(
        lambda Xs: ot.da.LinearTransport(reg=0.05 * float(Xs.var(axis=0).mean()))
    ),
}


def rows(tasks, seeds):
    """Accuracies of each method on each task, over seeds."""
    for task, make in tasks.items():
        for method, adapt in METHODS.items():
            found = {name: [] for name in (*CLASSIFIERS, "own labels", "seconds")}
            for seed in range(seeds):
                Xs, ys, Xt, Xv, yv = make(seed)
                began = time.perf_counter()
                images, predict = adapt(Xs, ys, Xt)
                found["seconds"].append(time.perf_counter() - began)
                for name, classifier in CLASSIFIERS.items():
                    found[name].append(classifier.fit(images, ys).score(Xv, yv))
                if predict is not None:
                    found["own labels"].append(np.mean(predict(Xv) == yv))
            yield {"task": task, "method": method, "seeds": seeds, **summary(found)}


def summary(found):
    """Means and standard deviations of accuracies, and the median time."""
    row = {}
    for name in (*CLASSIFIERS, "own labels"):
        values = 100 * np.array(found[name])
        row[name] = float(values.mean()) if len(values) else None
        row[f"{name} std"] = float(values.std()) if len(values) else None
    return {**row, "seconds": float(np.median(found["seconds"]))}


def write(table):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    write_csv(table, RESULTS / "bench_domain_adaptation.csv")
    shown = [
        {
            "task": row["task"],
            "method": row["method"],
            **{name: cell(row, name) for name in (*CLASSIFIERS, "own labels")},
            "seconds": f"{row['seconds']:.2f}",
        }
        for row in table
    ]
    lines = [
        "# Accuracy on a shifted domain",
        "",
        f"Written by `python benchmarks/bench_domain_adaptation.py` on {machine()};",
        f"torch {torch.__version__}, POT {ot.__version__}. Accuracy on held-out target samples",
        f"in %, mean +- standard deviation over {table[0]['seeds']} seed(s), of a classifier",
        "trained on the images of the source samples; own labels: those that `OTMap.predict`",
        "carries along the plan. The numbers after `OTMap` are components, of full covariances",
        "unless another type is named, with reg_covar 5 % of the mean variance of a feature; reg",
        "is in units of the total variance, reg_m of twice that. One setting for all tasks.",
        "seconds: to fit and move once.",
        "",
        *markdown(shown),
    ]
    (RESULTS / "bench_domain_adaptation.md").write_text("\n".join(lines) + "\n")
    write_plot(table, RESULTS / "bench_domain_adaptation.png")


def cell(row, name):
    """An accuracy with its spread."""
    return None if row[name] is None else f"{row[name]:.1f} +- {row[f'{name} std']:.1f}"


def write_plot(table, path):
    """Accuracies as a coloured table, one panel a classifier."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(row["task"] for row in table))
    methods = list(dict.fromkeys(row["method"] for row in table))
    figure, axes = plt.subplots(1, 2, figsize=(17, 6), sharey=True, layout="constrained")
    for ax, name in zip(axes, CLASSIFIERS, strict=True):
        values = np.full((len(methods), len(tasks)), np.nan)
        for row in table:
            values[methods.index(row["method"]), tasks.index(row["task"])] = row[name]
        ax.imshow(values, cmap="viridis", vmin=30, vmax=100, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                shade = "white" if value < 75 else "black"
                ax.text(j, i, f"{value:.1f}", ha="center", va="center", color=shade)
        ax.set_xticks(range(len(tasks)), [t.replace(", ", "\n") for t in tasks])
        ax.set_yticks(range(len(methods)), methods)
        ax.set_title(f"{name}: accuracy on the target in %")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, two tasks")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="ot")
    tasks, seeds = TASKS, args.seeds
    if args.quick:
        seeds = 1
        tasks = {name: TASKS[name] for name in ("digits, contrast", "breast cancer, smoothness")}
    table = []
    for row in rows(tasks, seeds):
        table.append(row)
        print(row["task"], "|", row["method"], "|", cell(row, "1-NN"), "|", cell(row, "logistic"))
        write(table)


if __name__ == "__main__":
    main()
