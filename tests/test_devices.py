"""Everything public on a simulated accelerator: the CPU's results, and no operation across devices.

`simulated_device` says what is simulated, and what is counted.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import numbers
from simulated_device import NAME, counting, simulated_device
from sklearn.exceptions import ConvergenceWarning

import skgmmot
from skgmmot import metrics, nn
from skgmmot.functional import GaussianMixtureParams, fit_em

F32, F64 = torch.float32, torch.float64
PRECISIONS = {F32: 1e-5, F64: 1e-10}
COVARIANCE_TYPES = ["full", "tied", "diag", "spherical"]
STARTS = ["kmeans", "k-means++", "random", "random_from_data", "sinkhorn"]
each_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
each_dtype = pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])


#: The simulated device, and a GPU where there is one.
DEVICES = [NAME, *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True, params=DEVICES)
def device(request, monkeypatch):
    """Each device's name; torch knows the simulated one within a test."""
    monkeypatch.setattr(On, "other", request.param)
    with simulated_device():
        yield request.param


@pytest.fixture
def simulated(device):
    """The simulated device's name, for tests of what is counted."""
    if device != NAME:
        pytest.skip("counts are those of the simulated device")
    return device


def clouds(n, d=3, seed=0):
    """Samples of three clouds that overlap a little."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(3, d))
    return rng.normal(size=(n, d)) + 3 * centres[rng.integers(0, 3, n)]


class On:
    """What a test works with on one device."""

    other = NAME
    """The device that is compared with the CPU."""

    def __init__(self, device, dtype):
        self.device, self.dtype = device, dtype

    def __call__(self, array, grad=False):
        """An array as a tensor on the device."""
        return torch.tensor(array, dtype=self.dtype).to(self.device).requires_grad_(grad)

    def has(self, array):
        """Whether an array is on the device."""
        return str(array.device).startswith(self.device)

    def samples(self, n=200, d=3, seed=0, grad=False):
        return self(clouds(n, d, seed), grad)

    def mixture(self, K=4, d=3, seed=0, grad=False):
        rng = np.random.default_rng(seed)
        B = rng.normal(size=(K, d, d))
        S = B @ B.swapaxes(1, 2) / d + 0.3 * np.eye(d)
        return tuple(
            self(t, grad) for t in (rng.dirichlet(np.ones(K)), 3 * rng.normal(size=(K, d)), S)
        )


def assert_as_on_the_cpu(work, dtype=F64):
    """Call ``work(On)`` on both devices; compare, and return the device's result and counts."""
    expected = numbers(work(On("cpu", dtype)))
    with counting() as counts:
        result = work(On(On.other, dtype))
    found = numbers(result)
    assert len(found) == len(expected) > 0
    # a real device sums in another order, which iterations carry on
    tolerance = PRECISIONS[dtype] * (1 if On.other == NAME else 100)
    for here, there in zip(found, expected, strict=True):
        assert here.dtype == there.dtype
        np.testing.assert_allclose(here, there, rtol=tolerance, atol=tolerance)
    return result, counts


# --- the device itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: x @ y.mT,
        lambda x, y: torch.cat([x, y]),
        lambda x, y: y.add_(x),
        lambda x, y: torch.mul(x, x, out=y),
        lambda x, y: x.index_put_((torch.tensor([0]),), y[:1]),
        lambda x, y: y[torch.tensor([0], device=NAME)],
        lambda x, y: torch.stack([x[0, 0], y[0, 0]]),
        lambda x, y: x.numpy(),
        lambda x, y: np.asarray(x),
    ],
)
def test_operations_across_devices_raise(mix, simulated):
    x, y = torch.ones(2, 3, device=NAME), torch.ones(2, 3)
    with pytest.raises((RuntimeError, TypeError)):
        mix(x, y)
    assert (x + y[0, 0]).tolist() == [[2.0] * 3] * 2  # one number from the CPU is welcome


def test_kernels_synchronisations_and_transfers_are_counted(simulated):
    with counting() as counts:
        x = torch.ones(2, 3).to(NAME)
        y = x.mT @ x[:, :1]
    assert counts.totals() == {"kernels": 1, "synchronisations": 0, "to_host": 0, "to_device": 1}
    for wait in (
        lambda: float(y[0, 0]),
        lambda: y.tolist(),
        lambda: bool((y > 0).all()),
        lambda: y[y > 0],
        lambda: y.nonzero(),
        lambda: torch.equal(y, y),
        lambda: torch.linalg.cholesky(torch.eye(3, device=NAME)),
    ):
        with counting() as counts:
            wait()
        assert counts.totals()["synchronisations"] == 1
        assert counts.transfers() == 0
    with counting() as counts:
        assert y.cpu().tolist() == [[2.0]] * 3
        y[torch.tensor([0, 1])]
        x.new_tensor([1.0, 2.0])
        torch.arange(5, device=NAME)
    assert (counts.to_host, counts.to_device) == ({3: 1}, {2: 2})
    assert counts.synchronisations.total() == 1


# --- fits ----------------------------------------------------------------------------------------


@each_type
@pytest.mark.parametrize(
    ("start", "weighted", "dtype"),
    [(s, i % 2 == 1, (F64, F32)[i % 2]) for i, s in enumerate(STARTS)] + [("kmeans", True, F64)],
)
def test_a_fit_is_that_of_the_cpu_and_stays_on_the_device(covariance_type, start, weighted, dtype):
    def work(on):
        X, Q = on.samples(), on.samples(50, seed=1)
        a = on(np.linspace(0.5, 2, len(X))) if weighted else None
        model = skgmmot.DifferentiableGaussianMixture(
            3, covariance_type=covariance_type, init_params=start, random_state=0, tol=1e-2
        ).fit(X, sample_weight=a)
        resp, labels = model.predict_proba(Q), model.predict(Q)
        assert all(on.has(t) for t in (model.means_, resp, labels))
        scores = model.score(Q), model.bic(X, a), model.aic(X), model.entropic_ot_gap(X, a)
        return model, resp, labels, model.score_samples(Q), scores, model.sample(5)

    assert_as_on_the_cpu(work, dtype)


@each_type
def test_faster_repeated_and_continued_fits_are_those_of_the_cpu(covariance_type):
    def work(on):
        X, options = on.samples(), {"covariance_type": covariance_type, "random_state": 0}
        faster = skgmmot.DifferentiableGaussianMixture(
            3, acceleration="squarem", tol=1e-6, warm_start=True, **options
        )
        first = numbers(faster.fit(X))
        given = skgmmot.DifferentiableGaussianMixture(
            3, fixed_weights=True, means_init=clouds(3), n_init=2, tol=1e-2, **options
        )
        named = skgmmot.DifferentiableGaussianMixture(3, device=on.device, **options)
        named.fit(clouds(200))
        assert isinstance(named.means_, np.ndarray)
        return first, faster.fit(1.01 * X), given.fit(X), named, named.predict(clouds(9))

    assert_as_on_the_cpu(work)


GRADIENTS = [(name, "posterior") for name in ("implicit", "automatic", "one_step", "natural")]


@each_type
@pytest.mark.parametrize(("gradient", "e_step"), [*GRADIENTS, ("implicit", "sinkhorn")])
def test_gradients_are_those_of_the_cpu(covariance_type, gradient, e_step):
    natural = gradient == "natural"

    def work(on):
        X = on.samples(grad=True)
        a = None if natural else on(np.linspace(0.5, 2, len(X)), grad=True)
        model = skgmmot.DifferentiableGaussianMixture(
            3,
            covariance_type=covariance_type,
            gradient=gradient,
            e_step=e_step,
            fixed_weights=natural,
            random_state=0,
            tol=1e-2,
        ).fit(X, sample_weight=a)
        (model.means_.square().sum() + model.covariances_.sum()).backward()
        return model.means_, X.grad, [] if natural else a.grad

    assert_as_on_the_cpu(work, F32 if e_step == "sinkhorn" else F64)


@each_dtype
def test_a_gradient_of_a_functional_fit_is_that_of_the_cpu(dtype):
    def work(on):
        X = on.samples(grad=True)
        weights, means, covariances = on.mixture(3, seed=2)
        solution = fit_em(GaussianMixtureParams(weights, means, covariances), X, tol=1e-2)
        return torch.autograd.grad(solution.value.means.sum(), X)

    assert_as_on_the_cpu(work, dtype)


@each_type
def test_densities_of_a_mixture_fitted_elsewhere_are_differentiable_on_the_device(covariance_type):
    model = skgmmot.DifferentiableGaussianMixture(
        3, covariance_type=covariance_type, random_state=0
    ).fit(clouds(200))

    def work(on):
        X = on.samples(50, seed=1, grad=True)
        return torch.autograd.grad(model.score_samples(X).sum() + model.score(X), X)

    assert_as_on_the_cpu(work)


@pytest.mark.parametrize(
    ("covariance_type", "dtype"),
    [("full", F64), ("tied", F32), ("diag", F64), ("spherical", F32)],
)
def test_sliced_fits_are_those_of_the_cpu(covariance_type, dtype):
    options = {"covariance_type": covariance_type, "refine": "em", "random_state": 0}

    def work(on):
        model = skgmmot.SlicedWassersteinGMM(2, max_iter=2, n_projections=5, n_init=1, **options)
        return model.fit(on.samples(100, 2), sample_weight=on(np.linspace(0.5, 2, 100)))

    with pytest.warns(UserWarning, match="converge"):
        assert_as_on_the_cpu(work, dtype)


@each_dtype
def test_semidiscrete_fits_and_quantisers_are_those_of_the_cpu(dtype):
    def work(on):
        X = on.samples(60, 2)
        model = skgmmot.SemidiscreteGMM(2, random_state=0, tol=1e-2).fit(X)
        quantizer = skgmmot.WassersteinQuantizer(4, random_state=0, tol=1e-2)
        of_mixture = numbers(quantizer.fit(on.mixture(3, 2)))
        return model, of_mixture, quantizer.fit(X), quantizer.predict(X), quantizer.transform(X)

    assert_as_on_the_cpu(work, dtype)


# --- parts of mixtures and regression -----------------------------------------------------------


@each_type
@each_dtype
def test_parts_of_mixtures_are_those_of_the_cpu(covariance_type, dtype):
    def work(on):
        X = on.samples()
        mixture = skgmmot.DifferentiableGaussianMixture(
            3, covariance_type=covariance_type, random_state=0
        ).fit(X)
        parts = [mixture.marginal([2, 0]), mixture.condition([0.5], [1])]
        parts.append(mixture.condition(X[0, :2], slice(2)))
        known = (mixture.weights_, mixture.means_, mixture.covariances_, covariance_type)
        parts.append(mixture.from_parameters(*known))
        assert all(on.has(part.means_) for part in parts)
        return parts, parts[0].score_samples(X[:, :2])

    assert_as_on_the_cpu(work, dtype)


@each_type
@each_dtype
def test_regressions_are_those_of_the_cpu(covariance_type, dtype):
    def work(on):
        X, y = on.samples(), on.samples(seed=3)[:, :2]
        regressor = skgmmot.MixtureRegressor(
            skgmmot.DifferentiableGaussianMixture(
                3, covariance_type=covariance_type, random_state=0
            )
        ).fit(X, y)
        mean, deviation = regressor.predict(X, return_std=True)
        assert on.has(mean) and on.has(deviation)
        rest = regressor.log_density(X, y), regressor.score(X, y)
        part = regressor.condition(X[0])
        return mean, deviation, *rest, part, regressor.sample_y(X, 2, random_state=0)

    assert_as_on_the_cpu(work, dtype)


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("covariance_type", "grad"), [("full", True), ("tied", False)])
def test_fits_with_missing_entries_are_those_of_the_cpu(covariance_type, grad):
    X = clouds(60)
    X[np.random.default_rng(3).random(X.shape) < 0.2] = np.nan

    def work(on):
        samples = on(X, grad=grad)
        options = {"missing_values": "nan", "random_state": 0}
        mixture = skgmmot.DifferentiableGaussianMixture(
            2, covariance_type=covariance_type, device=on.device, **options
        ).fit(samples, sample_weight=on(np.linspace(0.5, 1.5, 60)))
        found = [mixture.means_, mixture.covariances_, mixture.score_samples(samples)]
        found += [mixture.impute(samples), mixture.impute(samples, draw=True)]
        if grad:
            mixture.means_.square().sum().backward()
            found.append(samples.grad)
        return found

    assert_as_on_the_cpu(work)


@pytest.mark.parametrize("name", ["noise", "student"])
def test_robust_fits_are_those_of_the_cpu(name):
    X = np.concatenate([clouds(60), np.random.default_rng(1).uniform(-20, 20, (12, 3))])

    def work(on):
        samples = on(X, grad=name == "noise")
        options = {"random_state": 0, "device": on.device}
        if name == "student":
            mixture = skgmmot.StudentMixture(2, degrees_of_freedom=3.0, **options)
        else:
            mixture = skgmmot.DifferentiableGaussianMixture(2, noise="uniform", **options)
        mixture.fit(samples)
        found = [mixture.means_, mixture.score_samples(samples), mixture.predict_proba(samples)]
        found += [mixture.predict(samples), mixture.sample(5)[0]]
        if samples.requires_grad:
            mixture.means_.square().sum().backward()
            found.append(samples.grad)
        return found

    assert_as_on_the_cpu(work)


def counts_of_a_fit(max_iter, n=2000, K=4, **options):
    """Counts of a fit of so many iterations, on the device."""
    X = On(NAME, F64).samples(n)
    model = skgmmot.DifferentiableGaussianMixture(
        K, max_iter=max_iter, tol=0, random_state=0, **options
    )
    with counting() as counts, pytest.warns(ConvergenceWarning):
        model.fit(X)
    return counts


def per_iteration(**options):
    """What one more iteration adds to the counts of a fit."""
    counts_of_a_fit(7, **options)  # what is kept from fit to fit
    few, many = (counts_of_a_fit(n_iter, **options).totals() for n_iter in (2, 7))
    return {name: (many[name] - few[name]) / 5 for name in few}


@each_type
def test_an_iteration_moves_nothing_and_waits_once_in_as_many_kernels_for_any_n_and_k(
    covariance_type, simulated
):
    options = {"covariance_type": covariance_type, "init_params": "random_from_data"}
    found = per_iteration(**options)
    assert found["to_host"] == found["to_device"] == 0
    assert found["synchronisations"] == 1
    assert found["kernels"] <= 100
    for n, K in ((4000, 4), (2000, 9)):
        assert per_iteration(n=n, K=K, **options) == found


def test_an_accelerated_iteration_waits_a_few_times(simulated):
    found = per_iteration(acceleration="squarem", init_params="random_from_data")
    assert found["to_host"] == found["to_device"] == 0
    assert found["synchronisations"] <= 3


@each_type
def test_a_whole_fit_moves_little(covariance_type, simulated):
    counts = counts_of_a_fit(5, covariance_type=covariance_type)
    assert counts.transfers() <= 5
    assert max((*counts.to_host, *counts.to_device)) < 100  # never the samples


def test_a_start_with_fewer_different_samples_than_components_is_warned_of(simulated):
    X = torch.tensor([[-1.0], [0.0], [1.0]], dtype=F64).repeat(5, 1).to(NAME)
    model = skgmmot.DifferentiableGaussianMixture(4, random_state=0, max_iter=2)
    with pytest.warns(ConvergenceWarning, match="components without samples: 1 of 4"):
        model.fit(X)


def test_few_samples_wait_once_an_iteration_too(simulated):
    found = per_iteration(n=50, K=2, init_params="random_from_data")
    assert (found["to_host"], found["to_device"], found["synchronisations"]) == (0, 0, 1)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_a_collapsing_fit_raises_on_the_device_as_on_the_cpu(covariance_type):
    X = torch.ones(20, 2, dtype=F64)
    X[:10, 0] = 0
    for device in ("cpu", NAME):
        model = skgmmot.DifferentiableGaussianMixture(
            2, covariance_type=covariance_type, reg_covar=0.0, random_state=0
        )
        with pytest.raises(ValueError, match="ill-defined empirical covariance"):
            model.fit(X.to(device))


# --- distances and maps --------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("options", [{}, {"reg": 0.5}, {"reg_m": 1.0}, {"reg": 0.5, "reg_m": 1.0}])
def test_mixture_wasserstein_distances_are_those_of_the_cpu(options, dtype):
    def work(on):
        source, target = on.mixture(grad=True), on.mixture(3, seed=1, grad=True)
        distance = skgmmot.MixtureWasserstein(**options)
        distance(source, target).backward()
        several = [on.mixture(3, seed=s) for s in range(4)]
        values = distance(source, target), distance.plan(source, target)
        pairs = distance.pairwise(several), distance.pairwise(several, several[:2])
        return values, pairs, [t.grad for t in (*source, *target)]

    assert_as_on_the_cpu(work, dtype)


def test_a_mixture_on_the_device_is_compared_with_one_on_the_cpu():
    def work(on):
        on_cpu = On("cpu", F64).mixture(3, seed=1)
        arrays = tuple(t.numpy() for t in on_cpu)
        distance = skgmmot.MixtureWasserstein()
        found = [distance(on.mixture(), on_cpu), distance(arrays, on.mixture())]
        assert all(on.has(value) for value in found)
        return found, distance.pairwise([on.mixture(), on_cpu, arrays])

    assert_as_on_the_cpu(work)


@each_dtype
def test_the_other_metrics_are_those_of_the_cpu(dtype):
    def work(on):
        source, target = on.mixture(), on.mixture(3, seed=1)
        X, Y, planar = on.samples(), on.samples(150, seed=1), on.samples(30, 2)
        model = skgmmot.DifferentiableGaussianMixture(3, random_state=0).fit(X)
        image = skgmmot.GridDensity(on(np.arange(1.0, 10).reshape(3, 3)))
        gaussians = [(m[1][0], m[2][0]) for m in (source, target)]
        return [
            metrics.bures_wasserstein_distance(*gaussians),
            metrics.frechet_distance(X, Y),
            metrics.pairwise_mixture_wasserstein([source, target]),
            metrics.mixture_wasserstein_distance(source, target),
            metrics.sliced_mixture_wasserstein(source, target),
            metrics.sliced_mixture_wasserstein(source, target, slicing="dsmw"),
            metrics.sliced_wasserstein_distance(source, Y),
            metrics.semidiscrete_distance(on.mixture(2, 2), planar),
            metrics.semidiscrete_distance(image, planar),
            tuple(metrics.semidiscrete_plan(on.mixture(2, 2), planar)),
            metrics.mixture_wasserstein_scorer(model, Y),
            metrics.sliced_wasserstein_scorer(model, Y),
        ]

    assert_as_on_the_cpu(work, dtype)


@each_dtype
@pytest.mark.parametrize("strategy", ["mean", "random"])
@pytest.mark.parametrize("options", [{}, {"reg": 0.5, "reg_m": 2.0}])
def test_maps_are_those_of_the_cpu(strategy, options, dtype):
    def work(on):
        X = on.samples()
        mapping = skgmmot.OTMap(on.mixture(3, seed=1), strategy=strategy, random_state=0, **options)
        images = mapping.fit(on.mixture()).transform(X)
        assert on.has(images)
        return images, mapping.plan_, mapping.inverse_transform(X), mapping.score(X)

    assert_as_on_the_cpu(work, dtype)


@each_dtype
def test_maps_of_samples_are_those_of_the_cpu(dtype):
    def work(on):
        X, mapping = on.samples(), skgmmot.OTMap(on.samples(150, seed=1), random_state=0)
        images = mapping.fit_transform(X)
        assert on.has(images)
        return images, mapping.score(X)

    assert_as_on_the_cpu(work, dtype)


@each_dtype
def test_averages_and_reductions_of_mixtures_are_those_of_the_cpu(dtype):
    def work(on):
        several = [on.mixture(3, seed=s) for s in range(3)]
        return [
            skgmmot.interpolate(*several[:2], 0.3),
            skgmmot.reduce(on.mixture(6), 3, n_init=1, random_state=0),
            skgmmot.MixtureBarycenter(3, random_state=0).fit(several),
        ]

    assert_as_on_the_cpu(work, dtype)


@each_dtype
def test_embeddings_are_those_of_the_cpu(dtype):
    def work(on):
        embedding = skgmmot.MixtureEmbedding(2, random_state=0)
        fitted = embedding.fit_transform([on.samples(80, seed=s) for s in range(3)])
        return fitted, skgmmot.PairwiseMW2().fit_transform(fitted)

    assert_as_on_the_cpu(work, dtype)


@each_dtype
@pytest.mark.parametrize("gradient", ["implicit", "one_step"])
def test_layers_are_those_of_the_cpu(gradient, dtype):
    def work(on):
        X, options = on.samples(grad=True), {"random_state": 0, "tol": 1e-2}
        layer = nn.EMLayer(3, gradient=gradient, **options).to(on.device)
        layer(X).means.square().sum().backward()
        loss = nn.MixtureWassersteinLoss(clouds(150, seed=1), 3, **options).to(on.device)
        value = loss(layer(1.01 * X).means)
        value.backward()
        return value, X.grad, tuple(layer(X)), list(layer.state_dict().values())

    assert_as_on_the_cpu(work, dtype)


@pytest.mark.filterwarnings("ignore")  # the script turns them off
def test_the_benchmark_for_a_gpu_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import bench_gpu

    bench_gpu.main(["--cpu-smoke", "--out", str(tmp_path)])
    table = (tmp_path / "bench_gpu.csv").read_text()
    for work in (
        "tests",
        "iteration, spherical",
        "e_step",
        "fit, k-means",
        "MW2",
        "gradient",
        "map",
    ):
        assert work in table
    assert "failed" not in capsys.readouterr().out
