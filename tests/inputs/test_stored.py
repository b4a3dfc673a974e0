"""Values of the package in files: the same bits back, and nothing that is none of them."""

import math

import numpy as np
import pytest
import torch

from skgmmot._inputs.stored import KINDS
from skgmmot.fitting.em.sinkhorn import TiltedMixture, untilted
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES, FULL, TIED
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.archive import ArchiveError, read, write
from skgmmot.numerics.fixed_point import LoopState, Solution
from skgmmot.numerics.minimise import DescentState
from skgmmot.numerics.runs import Reached

OPTIONS = {"what": "test file", "version": 1, "kinds": KINDS}


@pytest.fixture
def back(tmp_path):
    """What a file gives back of a value."""

    def write_and_read(value):
        write(tmp_path / "file.npz", value, **OPTIONS)
        return read(tmp_path / "file.npz", **OPTIONS)

    return write_and_read


def same_mixtures(theta, other):
    assert type(theta) is type(other) and theta.covariance_type is other.covariance_type
    return all(torch.equal(t, o) and t.dtype == o.dtype for t, o in zip(theta, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixtures_come_back_with_their_type(covariance_type, dtype, make_mixture, back):
    theta = make_mixture(covariance_type, 3, 2).to(dtype=dtype)
    tilted = untilted(theta)
    for value in (theta, tilted, tilted._replace(log_weights=tilted.log_weights - math.inf)):
        assert same_mixtures(back(value), value)


def test_a_type_that_shares_its_storage_with_another_comes_back(make_mixture, back):
    theta = make_mixture("full", 1, 2)
    for covariance_type in (FULL, TIED):
        value = GaussianMixtureParams(*theta, covariance_type)
        assert same_mixtures(back(value), value)


def test_states_of_fits_come_back(make_mixture, back):
    theta = make_mixture("diag", 3, 2)
    solution = Solution(theta, theta, -math.inf, (0.1, math.nan), 2, False, math.inf)
    for loop in (
        LoopState(solution, True, {"visited": [torch.ones(2)], "length": 0.0}),
        DescentState(solution, tuple(theta), {"state": {0: {"step": torch.ones(())}}}, 0, 1, 2.0),
        None,
    ):
        reached = Reached(3, (theta, -math.inf), loop, solution, None, {"a": 1}, {"b": theta}, loop)
        found = back(reached)
        assert (found.run, found.start[1], found.random) == (3, -math.inf, {"a": 1})
        assert same_mixtures(found.results["b"], theta)
        assert type(found.loop) is type(found.best_loop) is type(loop)
        best = found.best
        assert repr(best[2:]) == repr(solution[2:])
        assert same_mixtures(best.value, theta) and same_mixtures(best.previous, theta)
    assert back(Reached()) == Reached()


def test_what_backward_has_found_stays_behind(make_mixture, back):
    theta = make_mixture("full", 2, 2).map(torch.Tensor.requires_grad_)
    found = back(Solution(theta, theta, 0.0, (), 0, True, 0.0, adjoint=object()))
    assert found.adjoint is None and not found.value.means.requires_grad


def test_a_type_that_is_not_registered_is_not_stored(make_mixture, back, monkeypatch):
    theta = make_mixture("full", 2, 2)
    others = {name: of for name, of in COVARIANCE_TYPES.items() if name != "full"}
    monkeypatch.setattr("skgmmot._inputs.stored.COVARIANCE_TYPES", others)
    with pytest.raises(TypeError, match="covariance_type must be registered to be stored"):
        back(theta)


def damaged(cls, whole, /, **changes):
    """Plain values that claim to be a value of a class; a change to ... leaves one out."""
    kind = next(kind for kind in KINDS if kind.cls is cls)
    parts = kind.take(whole) | changes
    return kind.make, {name: part for name, part in parts.items() if part is not ...}


F64 = torch.float64


@pytest.mark.parametrize(
    "changes",
    [
        {"means": torch.zeros(2, dtype=F64)},
        {"means": torch.zeros(2, 2, dtype=F64) / 0},
        {"means": torch.zeros(2, 2, dtype=torch.int64)},
        {"means": np.zeros((2, 2))},
        {"means": 0},
        {"weights": torch.ones(3, dtype=F64)},
        {"weights": torch.tensor([math.nan, 1.0], dtype=F64)},
        {"covariances": torch.ones(2, 2, dtype=F64)},
        {"covariances": torch.full((2, 2, 2), math.inf, dtype=F64)},
        {"covariance_type": "cubic"},
        {"covariance_type": 3},
        {"weights": ...},
        {"more": 1},
    ],
)
def test_what_is_no_mixture_is_refused(changes, make_mixture):
    make, parts = damaged(GaussianMixtureParams, make_mixture("full", 2, 2), **changes)
    with pytest.raises((ValueError, AttributeError)):
        make(parts)


def test_logarithms_of_weights_are_numbers_or_minus_infinity(make_mixture):
    tilted = untilted(make_mixture("full", 2, 2))
    for wrong in (math.nan, math.inf):
        weights = torch.tensor([wrong, 0.0], dtype=F64)
        make, parts = damaged(TiltedMixture, tilted, log_weights=weights)
        with pytest.raises(ValueError, match="log_weights of a mixture must be finite"):
            make(parts)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_iter": -1},
        {"n_iter": 1.5},
        {"n_iter": True},
        {"converged": 1},
        {"objective": "a"},
        {"objectives": np.zeros((2, 2))},
        {"objectives": np.zeros(2, dtype=int)},
        {"value": ...},
        {"more": 1},
    ],
)
def test_what_is_no_solution_is_refused(changes):
    make, parts = damaged(Solution, Solution((), (), 0.0, (), 0, True, 0.0), **changes)
    with pytest.raises((ValueError, TypeError)):
        make(parts)


@pytest.mark.parametrize("changes", [{"run": "1"}, {"loop": 3}, {"best": ()}, {"random": None}])
def test_what_is_no_state_is_refused(changes, tmp_path):
    make, parts = damaged(Reached, Reached(), **changes)
    with pytest.raises(ValueError, match="of a Reached must be of another kind"):
        make(parts)
    write(tmp_path / "file.npz", {}, **OPTIONS | {"what": "other"})
    with pytest.raises(ArchiveError):
        read(tmp_path / "file.npz", **OPTIONS)
