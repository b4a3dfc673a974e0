"""OTMap with samples of source and target in one array, alone and in pipelines of skada."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmmot import DifferentiableGaussianMixture, OTMap, load

SHIFT = np.array([[2.0, 0.3], [0.3, 0.5]])


@pytest.fixture
def parts(rng):
    """Samples of a source, their labels, samples of a target, and theirs."""
    X, Z = rng.normal(size=(2, 120, 2))
    return (
        X,
        (X[:, 0] + X[:, 1] > 0).astype(int),
        Z @ SHIFT + 3,
        (Z[:, 0] + Z[:, 1] > 0).astype(int),
    )


@pytest.fixture
def stacked(parts):
    """All samples in a random order, labels without those of the target, and domains."""
    X, y, Y, _ = parts
    order = np.random.default_rng(1).permutation(240)
    labels, domains = np.hstack([y, np.full(120, -1)]), np.repeat([1, -2], 120)
    return np.vstack([X, Y])[order], labels[order], domains[order]


@pytest.mark.parametrize("class_wise", [False, True])
def test_marked_samples_are_fitted_as_separate_ones(stacked, class_wise):
    samples, labels, domains = stacked
    X, y, Y = samples[domains > 0], labels[domains > 0], samples[domains < 0]
    options = {"class_wise": class_wise, "random_state": 0}
    expected = OTMap(Y, **options).fit(X, y)
    transport = OTMap(**options)
    mapped = transport.fit_transform(samples, labels, sample_domain=domains)
    assert np.allclose(mapped[domains > 0], expected.transform(X))
    assert (mapped[domains < 0] == Y).all()
    assert np.allclose(transport.plan_, expected.plan_)
    assert (transport.transform(samples, sample_domain=domains) == mapped).all()
    assert (expected.transform(samples, sample_domain=domains) == mapped).all()
    if class_wise:
        assert (transport.predict(Y) == expected.predict(Y)).all()


def test_samples_without_domain_are_of_the_target_after_such_a_fit_only(stacked, tmp_path):
    samples, _, domains = stacked
    X, Y = samples[domains > 0], samples[domains < 0]
    transport = OTMap(n_components=1).fit(samples, sample_domain=domains)
    assert (transport.transform(Y) == Y).all()
    moved = transport.transform(X, sample_domain=1)
    assert np.allclose(transport.inverse_transform(moved), X)
    # the score is of source samples, whatever they are told by
    expected = OTMap(transport.target_mixture_, n_components=1).fit(X)
    assert np.isclose(transport.score(X), expected.score(X))
    transport.save(tmp_path / "transport.npz")
    assert (load(tmp_path / "transport.npz").transform(Y) == Y).all()
    assert not np.allclose(transport.fit(X).transform(X), X)


def test_weights_count_on_both_sides(stacked, rng):
    samples, labels, domains = stacked
    copies = rng.integers(0, 3, len(samples))
    mixture = DifferentiableGaussianMixture(1)
    weighted = OTMap(mixture=mixture).fit(samples, labels, copies, sample_domain=domains)
    repeated = [array.repeat(copies, axis=0) for array in (samples, labels, domains)]
    expected = OTMap(mixture=mixture).fit(*repeated[:2], sample_domain=repeated[2])
    assert np.allclose(weighted.target_mixture_.means_, expected.target_mixture_.means_)
    assert np.allclose(
        weighted.transform(samples, sample_domain=domains),
        expected.transform(samples, sample_domain=domains),
    )


@pytest.mark.parametrize("kind", [list, torch.tensor, pd.DataFrame])
def test_all_kinds_of_arrays_have_domains(kind, stacked):
    samples, _, domains = stacked
    expected = OTMap(n_components=1).fit_transform(samples, sample_domain=domains)
    given, marks = kind(samples), pd.Series(domains) if kind is pd.DataFrame else kind(domains)
    if kind is pd.DataFrame:
        given.columns, given.index = ["a", "b"], np.arange(240)[::-1]
    mapped = OTMap(n_components=1).fit_transform(given, sample_domain=marks)
    assert np.allclose(mapped, expected)


@pytest.mark.parametrize(
    ("target", "domains", "message"),
    [
        (None, np.ones(240), "must mark samples of the source and of the target, got source"),
        (None, -1, "must mark samples of the source and of the target, got target"),
        (None, [1, -2], "one number for each of the 240 samples, got shape \\(2,\\)"),
        (None, np.linspace(-1, 1, 240), "sample_domain must hold integers"),
        (np.eye(2), np.repeat([1, -2], 120), "target must be None where sample_domain marks"),
    ],
)
def test_domains_that_do_not_tell_a_source_from_a_target_are_refused(
    target, domains, message, stacked
):
    with pytest.raises(ValueError, match=message):
        OTMap(target, n_components=1).fit(stacked[0], sample_domain=domains)


def test_samples_of_dask_have_no_domains(stacked):
    da = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match="X must be in memory with sample_domain"):
        OTMap(n_components=1).fit(da.from_array(stacked[0]), sample_domain=stacked[2])


def test_pipelines_that_route_metadata_hand_domains_on(stacked):
    samples, labels, domains = stacked
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), OTMap(n_components=1))
        mapped = pipeline.fit_transform(samples, labels, sample_domain=domains)
    scaled = StandardScaler().fit_transform(samples)
    expected = OTMap(n_components=1).fit_transform(scaled, labels, sample_domain=domains)
    assert np.allclose(mapped, expected)


def predict_target(X, y, X_target):
    """Predict labels of target samples by a classifier trained on mapped source samples."""
    from skada import make_da_pipeline

    samples = np.vstack([X, X_target])
    labels = np.hstack([y, np.full(len(X_target), -1)])  # -1: not known
    domains = np.hstack([np.full(len(X), 1), np.full(len(X_target), -2)])
    pipeline = make_da_pipeline(OTMap(n_components=1), LogisticRegression())
    pipeline.fit(samples, labels, sample_domain=domains)
    return pipeline.predict(X_target)


class TestSkada:
    """Pipelines of skada; skipped where it is not installed."""

    @pytest.fixture(autouse=True)
    def skada(self):
        # skada switches the routing of metadata on as it is imported, for all that follows
        with config_context(enable_metadata_routing=True):
            yield pytest.importorskip("skada")

    def test_a_pipeline_predicts_the_target(self, parts):
        X, y, Y, truth = parts
        assert LogisticRegression().fit(X, y).score(Y, truth) < 0.7
        assert (predict_target(X, y, Y) == truth).mean() > 0.85

    def test_a_pipeline_predicts_both_where_domains_are_given(self, parts, stacked, skada):
        (_, _, Y, truth), (samples, labels, domains) = parts, stacked
        transport = OTMap(class_wise=True, random_state=0)
        pipeline = skada.make_da_pipeline(StandardScaler(), transport, LogisticRegression())
        pipeline.fit(samples, labels.copy(), sample_domain=domains)
        assert pipeline.score(Y, truth) > 0.85
        found = pipeline.predict(samples, sample_domain=domains, allow_source=True)
        source = domains > 0
        assert (found[source] == labels[source]).mean() > 0.75
        assert (found[~source] == pipeline.predict(samples[~source])).all()

    def test_parameters_of_the_map_are_searched(self, stacked, skada):
        samples, labels, domains = stacked
        search = GridSearchCV(
            skada.make_da_pipeline(OTMap(random_state=0), LogisticRegression()),
            {"otmap__n_components": [1, 2]},
            scoring=skada.metrics.PredictionEntropyScorer(),
            cv=skada.model_selection.SourceTargetShuffleSplit(n_splits=1, random_state=0),
        )
        search.fit(samples, labels.copy(), sample_domain=domains)
        assert search.best_params_["otmap__n_components"] in (1, 2)
