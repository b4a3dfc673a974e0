"""The recipe of the guide for AnnData, which is no dependency: functions to copy."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_blobs
from sklearn.pipeline import make_pipeline

from skgmmot import DifferentiableGaussianMixture, MixtureEmbedding, MixtureWasserstein, PairwiseMW2


def fit_mixture(adata, n_components, *, use_rep="X_pca", key_added="mixture", **options):
    """Fit a mixture to cells; keep types, probabilities and parameters in ``adata``."""
    X = adata.obsm[use_rep]
    mixture = DifferentiableGaussianMixture(n_components, **{"random_state": 0, **options}).fit(X)
    adata.obs[key_added] = pd.Categorical(mixture.predict(X).astype(str))
    adata.obsm[f"{key_added}_proba"] = mixture.predict_proba(X)
    adata.uns[key_added] = {
        "weights": mixture.weights_,
        "means": mixture.means_,
        "covariances": mixture.covariances_,
        "covariance_type": mixture.covariance_type,
        "use_rep": use_rep,
        "bic": mixture.bic(X),
    }
    return mixture


def mixture_distances(
    adata, groupby, n_components=2, *, use_rep="X_pca", key_added="mw2", **options
):
    """Compute distances MW2 between groups of cells, such as donors, each fitted by a mixture."""
    groups = adata.obs[groupby].astype(str)
    names = np.unique(groups)
    clouds = [adata.obsm[use_rep][np.flatnonzero(groups == name)] for name in names]
    options = {"random_state": 0, **options}
    embedding = MixtureEmbedding(n_components, **options)
    distances = make_pipeline(embedding, PairwiseMW2()).fit_transform(clouds)
    adata.uns[key_added] = {"groups": names, "distances": distances, "use_rep": use_rep}
    return pd.DataFrame(distances, names, names)


class StandIn:
    """What the recipe needs of an AnnData."""

    def __init__(self, X_pca, donors):
        self.obs, self.obsm, self.uns = pd.DataFrame({"donor": donors}), {"X_pca": X_pca}, {}


def from_anndata(X_pca, donors):
    """An AnnData with as many cells, and with names of its own."""
    anndata = pytest.importorskip("anndata")
    names = [f"cell{i}" for i in range(len(X_pca))]
    obs = pd.DataFrame({"donor": pd.Categorical(donors)}, index=names)
    return anndata.AnnData(np.ones((len(X_pca), 3), np.float32), obs=obs, obsm={"X_pca": X_pca})


@pytest.fixture(params=[StandIn, from_anndata])
def cells(request):
    """Three kinds of cells of four donors, of which the last lacks one kind; and the kinds."""
    centres = 10 * np.eye(3, 5)
    X, kinds = make_blobs(240, centers=centres, random_state=0)
    donors = np.where(kinds == 2, np.arange(240) % 3, np.arange(240) % 4)
    return request.param(X.astype(np.float32), [f"d{donor}" for donor in donors]), kinds


def test_cells_get_a_type_its_probability_and_a_mixture(cells):
    adata, kinds = cells
    mixture = fit_mixture(adata, 3)
    found = adata.obs["mixture"].astype(int).to_numpy()
    assert pd.DataFrame([found, kinds]).T.value_counts().shape == (3,)
    assert np.allclose(adata.obsm["mixture_proba"].sum(axis=1), 1)
    kept = adata.uns["mixture"]
    stored = tuple(kept[k] for k in ("weights", "means", "covariances", "covariance_type"))
    assert MixtureWasserstein()(stored, mixture) == 0


def test_groups_are_compared_by_their_mixtures(cells):
    adata, _ = cells
    distances = mixture_distances(adata, "donor", 3)
    assert list(distances) == ["d0", "d1", "d2", "d3"]
    assert distances["d3"].drop("d3").min() > 2 * distances.drop(columns="d3")[:3].max().max()
    assert (adata.uns["mw2"]["distances"] == distances.to_numpy()).all()


# raised inside anndata with pandas 3
@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option:DeprecationWarning")
def test_results_are_in_the_file(tmp_path):
    anndata = pytest.importorskip("anndata")
    X, _ = make_blobs(60, 5, centers=2, random_state=0)
    adata = from_anndata(X.astype(np.float32), ["a", "b"] * 30)
    fit_mixture(adata, 2, covariance_type="diag")
    mixture_distances(adata, "donor", 1)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    loaded = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert (loaded.obs["mixture"] == adata.obs["mixture"]).all()
    assert (loaded.uns["mixture"]["means"] == adata.uns["mixture"]["means"]).all()
    assert loaded.uns["mixture"]["covariance_type"] == "diag"
    assert (loaded.uns["mw2"]["distances"] == adata.uns["mw2"]["distances"]).all()
