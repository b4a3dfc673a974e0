"""What heavy work does to a device, counted on the simulated one of the tests: no GPU is needed.

Kernels are operations that compute, synchronisations those that the host waits for, and transfers
copies between the two. Counts do not depend on the machine; times on a GPU are not known from them.

    python benchmarks/bench_device_counts.py

Writes ``results/bench_device_counts.csv`` beside this file.
"""

import sys
import warnings
from pathlib import Path

import torch
from _common import RESULTS, markdown, write_csv

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein, OTMap

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from simulated_device import NAME, counting, simulated_device

#: Samples, features and components.
N, D, K = 4000, 4, 5


def samples(**options):
    """Samples of an overlapping mixture, on the device."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(K, D, dtype=torch.float64, generator=generator)
    X = torch.randn(N, D, dtype=torch.float64, generator=generator)
    X += centres[torch.randint(K, (N,), generator=generator)]
    return X.to(NAME).requires_grad_(options.get("grad", False))


def counted(work):
    """Counts of a call; the second one, for what is kept between calls."""
    work()
    with counting() as counts:
        work()
    return counts.totals()


def fit(**options):
    """A function that fits, and its estimator."""
    X = samples()
    return lambda: DifferentiableGaussianMixture(K, random_state=0, **options).fit(X)


def per_iteration(**options):
    """What an iteration adds to the counts of a fit."""
    few, many = (counted(fit(max_iter=n, tol=0, **options)) for n in (10, 40))
    return {name: (many[name] - few[name]) / 30 for name in few}


def rows():
    """The table."""
    for name in ("full", "tied", "diag", "spherical"):
        yield {"work": f"EM, an iteration, {name}", **per_iteration(covariance_type=name)}
    accelerated = per_iteration(acceleration="squarem")
    yield {"work": "EM, an iteration, full, squarem", **accelerated}
    for start in ("kmeans", "k-means++", "random_from_data", "sinkhorn"):
        found = counted(fit(max_iter=10, tol=0, init_params=start))
        yield {"work": f"whole fit of 10 iterations, full, {start}", **found}
    X = samples(grad=True)

    def gradient():
        fitted = DifferentiableGaussianMixture(K, random_state=0).fit(X)
        torch.autograd.grad(fitted.means_.sum(), X)

    yield {"work": "fit and implicit gradient, full", **counted(gradient)}
    fitted = DifferentiableGaussianMixture(K, random_state=0).fit(X.detach())
    for name in ("predict", "score_samples"):
        yield {"work": name, **counted(lambda name=name: getattr(fitted, name)(X.detach()))}
    distance = MixtureWasserstein()
    yield {"work": "MW2", **counted(lambda: distance(fitted, fitted))}
    mapping = OTMap(fitted).fit(fitted)
    yield {"work": "OTMap.transform", **counted(lambda: mapping.transform(X.detach()))}


def main():
    """Count, and write."""
    warnings.simplefilter("ignore")
    with simulated_device():
        table = list(rows())
    print(*markdown(table), sep="\n")
    write_csv(table, RESULTS / "bench_device_counts.csv")


if __name__ == "__main__":
    main()
