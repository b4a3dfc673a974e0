"""What a training step of `MixtureWassersteinLoss` takes: the loss of a batch and its gradient.

Batches of 512 points are new draws at each step. They come from the target's distribution, as those
of a trained network do, or from an untrained network, whose points have fewer groups than the
target has components: EM then hardly converges.

    python benchmarks/bench_loss.py            # everything, two minutes
    python benchmarks/bench_loss.py --quick    # few steps, written nowhere

Writes ``results/bench_loss.csv`` and ``.md`` beside this file.
"""

import argparse
import datetime
import warnings

import numpy as np
import torch
from _common import RESULTS, cpu_seconds, machine, markdown, write_csv
from sklearn.datasets import make_blobs, make_moons
from threadpoolctl import threadpool_limits

from skgmmot.nn import MixtureWassersteinLoss

BATCH, N_STEPS, N_UNTIMED = 512, 30, 5
CENTERS = [[0, 4], [4, 0], [-4, -4]]
#: How samples are drawn, and the components of the mixture.
TARGETS = {
    "three groups": (lambda n, seed: make_blobs(n, centers=CENTERS, random_state=seed)[0], 3),
    "two moons": (lambda n, seed: make_moons(n, noise=0.05, random_state=seed)[0], 10),
}
#: The options that differ.
STEPS = {
    "default": {},
    "implicit": {"gradient": "implicit"},
    "implicit, gradient_tol=0.1": {"gradient": "implicit", "gradient_tol": 0.1},
}


def untrained(n, seed):
    """Points of a network with random weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2)
        )
    with torch.no_grad():
        return network(torch.randn(n, 2, generator=generator)).double().numpy()


def row(target, batches, options, n_steps):
    """Median and longest CPU milliseconds of steps, and how many of them warned."""
    draw, K = TARGETS[target]
    loss = MixtureWassersteinLoss(draw(5000, 0), K, reg_covar=1e-4, random_state=0, **options)
    spent, warned = [], 0
    for seed in range(n_steps + N_UNTIMED):
        X = torch.tensor((draw if batches == "trained" else untrained)(BATCH, 1 + seed))
        X.requires_grad_()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            spent.append(1e3 * cpu_seconds(lambda X=X: loss(X).backward()))
        warned += bool(caught)
    timed = spent[N_UNTIMED:]
    return {"median ms": float(np.median(timed)), "longest ms": max(timed), "warned": warned}


def rows(n_steps):
    """Every kind of step on every kind of batch."""
    for target in TARGETS:
        for batches in ("trained", "untrained"):
            for step, options in STEPS.items():
                found = row(target, batches, options, n_steps)
                yield {"target": target, "batches": batches, "step": step, **found}


def write(table):
    """Write the results."""
    lines = [
        "# A training step of MixtureWassersteinLoss",
        "",
        f"Written by `python benchmarks/bench_loss.py` on {datetime.date.today()}, on {machine()};",
        f"torch {torch.__version__}, one thread. CPU milliseconds of the loss of a batch of",
        f"{BATCH} points and its gradient, in {N_STEPS} steps, and in how many of these and the",
        f"{N_UNTIMED} before there were warnings. Components: "
        + ", ".join(f"{K} for {name}" for name, (_, K) in TARGETS.items())
        + ".",
        "",
        *markdown(table),
    ]
    write_csv(table, RESULTS / "bench_loss.csv")
    (RESULTS / "bench_loss.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, written nowhere")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    with threadpool_limits(1):
        for found in rows(3 if args.quick else N_STEPS):
            table.append(found)
            print(*markdown([found])[2:], flush=True)
    if not args.quick:
        write(table)


if __name__ == "__main__":
    main()
