"""The Frechet distance batch by batch, and MW2 in its place."""

import copy
import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
from simulated_device import NAME, simulated_device
from torch.testing import assert_close

from skgmmot import DifferentiableGaussianMixture, MixtureWasserstein
from skgmmot.metrics import MixtureFrechetDistance, frechet_distance

F64 = torch.float64
RING = torch.arange(8) * torch.pi / 4
MODES = 4 * torch.stack([RING.cos(), RING.sin()], dim=1).double()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def fed(metric, real, generated, size=32):
    """A metric that has seen samples in batches."""
    for samples, is_real in ((real, True), (generated, False)):
        for batch in samples.split(size):
            metric.update(batch, real=is_real)
    return metric


def around(modes, generator, n=50):
    """Samples about modes, with the same noise about each."""
    noise = torch.randn(n, 1, 2, dtype=F64, generator=generator) / 10
    return (modes + noise).flatten(0, 1)


def by_scipy(X, Y):
    """FID as it is usually computed."""
    S0, S1 = np.cov(X.T), np.cov(Y.T)
    trace = np.trace(S0 + S1 - 2 * np.real(scipy.linalg.sqrtm(S0 @ S1)))
    return np.sum((X.mean(0) - Y.mean(0)) ** 2) + trace


def test_one_gaussian_is_fid(generator):
    X = torch.randn(100, 6, dtype=F64, generator=generator)
    Y = 1.5 * torch.randn(80, 6, dtype=F64, generator=generator) + 0.3
    value = fed(MixtureFrechetDistance(), X, Y).compute()
    assert value.shape == () and value.dtype == F64
    assert_close(value.item(), by_scipy(X.numpy(), Y.numpy()))
    # 2^20 is added without rounding to samples with few digits
    X, Y = (samples.float().double() for samples in (X, Y))
    near, far = (fed(MixtureFrechetDistance(), X + by, Y + by).compute() for by in (0.0, 2.0**20))
    assert_close(near, far, rtol=1e-9, atol=0.0)
    K1 = DifferentiableGaussianMixture().fit(X.numpy())
    assert_close(fed(MixtureFrechetDistance(K1), X, Y).compute(), near)


def test_fewer_samples_than_features_and_equal_samples_are_no_trouble(generator):
    X, Y = (torch.randn(n, 100, generator=generator) for n in (10, 7))
    value = fed(MixtureFrechetDistance(), X, Y, 4).compute()
    centred = [(s.double() - s.double().mean(0)) / (len(s) - 1) ** 0.5 for s in (X, Y)]
    fidelity = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    apart = (X.double().mean(0) - Y.double().mean(0)).square().sum()
    expected = apart + sum(s.square().sum() for s in centred) - 2 * fidelity
    assert_close(value, expected)
    assert_close(frechet_distance(X, Y, squared=True).double(), expected)
    assert fed(MixtureFrechetDistance(), X, X, 4).compute() == 0
    again = fed(MixtureFrechetDistance(), X, X.flip(0), 3).compute()
    assert 0 <= again < 1e-12  # other sums round otherwise


def test_components_see_modes_that_are_dropped_where_moments_do_not(generator):
    real, generated = around(MODES, generator), around(MODES[::2], generator, 100)
    reference = DifferentiableGaussianMixture(8, means_init=MODES.numpy()).fit(real.numpy())
    blind, seeing = (
        fed(MixtureFrechetDistance(mixture), real, generated) for mixture in (None, reference)
    )
    assert blind.compute() < 1e-2
    # half of the mass moves to the neighbouring mode
    assert_close(seeing.compute().item(), (8 * np.sin(np.pi / 8)) ** 2 / 2, rtol=0.05, atol=0.0)
    weights = [mixture.weights for mixture in seeing.mixtures()]
    assert_close(weights[0], torch.full((8,), 1 / 8, dtype=F64))
    assert sorted(weights[1].round(decimals=6).tolist()) == [0.0] * 4 + [0.25] * 4
    assert fed(MixtureFrechetDistance(reference), real, real).compute() == 0


@pytest.mark.parametrize("covariance_type", ["full", "diag", "lowrank"])
def test_the_value_is_mw2_between_the_mixtures_and_no_less_than_fid(generator, covariance_type):
    real, generated = around(MODES[:3], generator), 3 + around(MODES[2:4], generator)
    options = {"covariance_type": covariance_type, "random_state": 0}
    reference = DifferentiableGaussianMixture(3, **options).fit(real.numpy())
    metric = fed(MixtureFrechetDistance(reference), real, generated)
    value = metric.compute()
    mixtures = [(*m, m.covariance_type.name) for m in metric.mixtures()]
    assert_close(value, MixtureWasserstein(squared=True)(*mixtures))
    if covariance_type != "diag":
        # up to the factor n / (n - 1) of the covariances in a component
        assert value > 0.95 * fed(MixtureFrechetDistance(), real, generated).compute()


def test_a_module_makes_features_of_images_in_evaluation_mode(generator):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(12, 3))
    network[1].eval().train()
    network[2].eval()
    images = torch.rand(40, 3, 2, 2, generator=generator)
    metric = MixtureFrechetDistance(feature=network)
    value = fed(metric, images[:20], images[20:]).compute()
    assert [m.training for m in network.modules()] == [True, True, True, False]
    features = network.eval()(images).detach()
    assert_close(value, fed(MixtureFrechetDistance(), features[:20], features[20:]).compute())
    metric.update(images[:1], real=True)  # a batch of one, and one of none
    metric.update(images[:0], real=True)
    assert metric.moments.n_samples(metric.real_sums) == 21


def test_reset_forgets_and_may_keep_the_real_samples(generator):
    X = torch.randn(20, 2, generator=generator)
    metric = fed(MixtureFrechetDistance(reset_real_features=False), X, X + 3)
    metric.reset()
    metric.update(X + 1, real=False)
    assert_close(metric.compute().item(), 2.0)
    metric = fed(MixtureFrechetDistance(), X, X + 3)
    metric.reset()
    assert_close(fed(metric, X.double() + 1, X.double()).compute().item(), 2.0)


@pytest.mark.parametrize("K", [None, 2])
def test_it_is_pickled_and_copied_with_its_samples(generator, K):
    X = torch.randn(20, 2, generator=generator)
    reference = K and DifferentiableGaussianMixture(K, random_state=0).fit(X.numpy())
    metric = fed(MixtureFrechetDistance(reference), X, X + 3)
    for other in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        assert other.compute() == metric.compute()
        other.update(X, real=True)
        assert other.compute() != metric.compute()


@pytest.mark.skipif(not hasattr(torch.library.Library, "fallback"), reason="torch has it after 2.4")
@pytest.mark.parametrize("K", [None, 2])
def test_sums_are_made_where_features_are_and_kept_where_the_metric_is(generator, K):
    X = torch.randn(20, 2, generator=generator)
    reference = K and DifferentiableGaussianMixture(K, random_state=0).fit(X.numpy())
    expected = fed(MixtureFrechetDistance(reference), X, X + 3)
    with simulated_device():
        metric = fed(MixtureFrechetDistance(reference).to(NAME), X.to(NAME), X.to(NAME) + 3)
        assert metric.real_sums.device.type == NAME
        assert_close(metric.compute().cpu(), expected.compute())
        metric = fed(MixtureFrechetDistance(reference), X.to(NAME), X + 3)
        assert metric.real_sums.device.type == "cpu"
        assert_close(metric.compute(), expected.compute())


@pytest.mark.parametrize(
    ("features", "real", "error", "message"),
    [
        (
            torch.zeros(3),
            True,
            ValueError,
            r"\(n, d\), got \(3,\)\. Pass feature= for images",
        ),
        (torch.zeros(2, 3, 4, 4), True, ValueError, r"got \(2, 3, 4, 4\)"),
        (torch.zeros(4, 2), True, ValueError, r"shape \(n, 3\), got \(4, 2\)"),
        (torch.full((4, 3), torch.nan), False, ValueError, "features must be finite, got NaN"),
        (torch.full((4, 3), 1e160, dtype=F64), True, ValueError, "features must be smaller than"),
        (torch.zeros(4, 3), torch.ones(4), TypeError, "real must be True or False, got tensor"),
    ],
)
def test_features_that_cannot_be_added_are_refused(features, real, error, message):
    metric = MixtureFrechetDistance()
    metric.update(torch.zeros(4, 3), real=True)
    with pytest.raises(error, match=message):
        metric.update(features, real)


def test_a_metric_that_makes_no_sense_is_refused():
    with pytest.raises(TypeError, match="feature must be a module or a function, got int"):
        MixtureFrechetDistance(feature=2048)
    with pytest.raises(ValueError, match="n_features must be a positive integer, got 0"):
        MixtureFrechetDistance(n_features=0)
    with pytest.raises(TypeError, match="reference must be a fitted mixture estimator or a tuple"):
        MixtureFrechetDistance(torch.zeros(4, 2))
    metric = MixtureFrechetDistance(feature=torch.nn.Identity())
    with pytest.raises(ValueError, match=r"got \(3,\)\. Return one row a sample"):
        metric.update(torch.zeros(3), real=True)
    metric.update(torch.zeros(3, 2), real=True)
    with pytest.raises(RuntimeError, match="got 3 real and 0 generated ones"):
        metric.mixtures()


class TestTorchmetrics:
    """What torchmetrics does with its metrics; skipped where it is not installed."""

    @pytest.fixture(autouse=True)
    def torchmetrics(self):
        return pytest.importorskip("torchmetrics")

    @pytest.fixture
    def halves(self, generator):
        """Two sets of real and of generated samples, and all."""
        X = torch.randn(40, 3, dtype=F64, generator=generator) + 1e6
        Y = 2 * torch.randn(40, 3, dtype=F64, generator=generator) + 1e6
        return (X[:25], Y[:10]), (X[25:], Y[10:]), (X, Y)

    @pytest.fixture(params=[None, 2])
    def make(self, request, halves):
        """Makes a metric, of one Gaussian or of several components."""
        K, reference = request.param, None
        if K:
            reference = DifferentiableGaussianMixture(K, random_state=0).fit(halves[2][0].numpy())
        return lambda **options: MixtureFrechetDistance(reference, **options)

    def test_the_value_is_that_of_its_own_fid(self, halves, torchmetrics):
        network = torch.nn.Linear(3, 3).double()
        network.num_features = 3
        X, Y = (samples - 1e6 for samples in halves[2])
        with torch.no_grad():
            theirs = fed(torchmetrics.image.fid.FrechetInceptionDistance(network), X, Y)
            assert_close(
                fed(MixtureFrechetDistance(feature=network), X, Y).compute(), theirs.compute()
            )

    def test_processes_add_their_sums(self, make, halves):
        one, other, all_of_them = (fed(make(), *samples, 7) for samples in halves)
        expected = all_of_them.compute()

        def gather(state, group):
            mine = [state.equal(sums) for sums in (one.real_sums, one.generated_sums)]
            return [state, (other.real_sums, other.generated_sums)[mine.index(True)]]

        with one.sync_context(dist_sync_fn=gather, distributed_available=lambda: True):
            value = MixtureFrechetDistance.compute(one)
        assert_close(value, expected, rtol=1e-9, atol=0.0)
        one.merge_state(other)
        assert_close(one.compute(), expected, rtol=1e-9, atol=0.0)

    def test_a_process_without_samples_adds_nothing(self, make, halves):
        one, idle = fed(make(n_features=3), *halves[0]), make(n_features=3)
        expected = one.compute()
        assert idle.real_sums.shape == one.real_sums.shape
        for stacked in ([one.real_sums, idle.real_sums], [idle.real_sums, one.real_sums]):
            pooled = one._reductions["real_sums"](torch.stack(stacked))
            assert torch.equal(pooled, one.real_sums)
        one.merge_state(idle)
        assert one.compute() == expected

    def test_a_collection_holds_it(self, make, halves, torchmetrics):
        metrics = torchmetrics.MetricCollection({"ours": make(), "one": MixtureFrechetDistance()})
        found = fed(metrics, *halves[2]).compute()
        assert found["ours"] == fed(make(), *halves[2]).compute()
        assert found["one"] == fed(MixtureFrechetDistance(), *halves[2]).compute()
        metrics.reset()
        assert metrics["ours"].real_sums.count_nonzero() == 0
        for other in (metrics.half(), metrics.set_dtype(torch.float32)):
            assert other["ours"].real_sums.dtype == F64

    def test_calling_it_adds_a_batch(self, make, halves, torchmetrics):
        (X, Y), metric = halves[2], make(reset_real_features=False)
        metrics = torchmetrics.MetricCollection([metric])
        assert metrics(X, real=True) == {"MixtureFrechetDistance": None}
        assert metric(Y, real=False) is None
        assert metric.compute() == fed(make(), X, Y, 40).compute()


def test_features_without_a_density_under_the_reference_are_refused():
    reference = ([1.0], [[0.0]], [[[4e-310]]], "full")
    metric = MixtureFrechetDistance(reference)
    with pytest.raises(ValueError, match=r"must have a density .* got ones of 1.0e\+00 so far"):
        metric.update(torch.ones(2, 1), real=True)
    for real in (True, False):
        metric.update(torch.tensor([[1e-155], [-1e-155]], dtype=torch.float64), real=real)
    assert metric.compute() == 0
