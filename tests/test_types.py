"""What annotations promise holds: arrays give arrays, tensors give tensors.

mypy checks this file (see .ci/run); when it runs, the promises are compared with what comes.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any, assert_type, get_overloads

import numpy as np
import pytest
import torch
from torch import Tensor

from skgmmot import (
    DifferentiableGaussianMixture,
    MixtureWasserstein,
    OTMap,
    metrics,
    semidiscrete_distance,
)
from skgmmot.functional import GaussianMixtureParams, Solution, fit_em, transport_plan
from skgmmot.metrics import (
    bures_wasserstein_distance,
    frechet_distance,
    mixture_wasserstein_distance,
    pairwise_mixture_wasserstein,
    sliced_mixture_wasserstein,
    sliced_wasserstein_distance,
)

ARRAYS = (np.full(2, 0.5), np.array([[0.0, 0.0], [3.0, 0.0]]), np.ones((2, 2)), "diag")
LISTS = ([1.0], [[1.0, 2.0]], [[1.0, 1.0]], "diag")
TENSORS = (torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2), "diag")
PARAMS = GaussianMixtureParams(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
STUB = Path(str(metrics.__file__)).with_suffix(".pyi")
SAMPLES = np.random.default_rng(0).normal(size=(20, 2))


def test_distances_between_arrays_are_numbers() -> None:
    numbers = [
        assert_type(MixtureWasserstein()(ARRAYS, LISTS), float),
        assert_type(mixture_wasserstein_distance(ARRAYS, LISTS, reg_m=1.0), float),
        assert_type(sliced_mixture_wasserstein(ARRAYS, LISTS), float),
        assert_type(sliced_wasserstein_distance(ARRAYS, SAMPLES), float),
        assert_type(sliced_wasserstein_distance(SAMPLES, SAMPLES), float),
        assert_type(frechet_distance(SAMPLES, SAMPLES), float),
        assert_type(bures_wasserstein_distance(([0.0, 3.0], 1.0), ([0.0, 1.0], [1.0, 1.0])), float),
        assert_type(semidiscrete_distance(ARRAYS, SAMPLES), float),
    ]
    assert all(type(number) is float for number in numbers)


def test_what_is_computed_from_arrays_is_an_array() -> None:
    arrays = [
        assert_type(MixtureWasserstein().plan(ARRAYS, LISTS), np.ndarray),
        assert_type(MixtureWasserstein().cost(ARRAYS, LISTS), np.ndarray),
        assert_type(pairwise_mixture_wasserstein([ARRAYS, ARRAYS]), np.ndarray),
    ]
    assert all(isinstance(array, np.ndarray) for array in arrays)


def test_what_is_computed_from_tensors_is_a_tensor() -> None:
    points = torch.from_numpy(SAMPLES)
    tensors = [
        assert_type(MixtureWasserstein()(TENSORS, ARRAYS), Tensor),
        assert_type(MixtureWasserstein()(ARRAYS, PARAMS), Tensor),
        assert_type(MixtureWasserstein().plan(TENSORS, ARRAYS), Tensor),
        assert_type(mixture_wasserstein_distance(ARRAYS, TENSORS), Tensor),
        assert_type(pairwise_mixture_wasserstein([TENSORS, TENSORS]), Tensor),
        assert_type(sliced_mixture_wasserstein(TENSORS, LISTS), Tensor),
        assert_type(sliced_wasserstein_distance(ARRAYS, points), Tensor),
        assert_type(sliced_wasserstein_distance(points, SAMPLES), Tensor),
        assert_type(sliced_wasserstein_distance(SAMPLES, points), Tensor),
        assert_type(frechet_distance(points, SAMPLES), Tensor),
        assert_type(
            bures_wasserstein_distance((points[0], torch.eye(2)), ([0.0, 3.0], 1.0)), Tensor
        ),
        assert_type(semidiscrete_distance(ARRAYS, points), Tensor),
    ]
    assert all(isinstance(tensor, Tensor) for tensor in tensors)


def test_errors_are_floats_beside_numbers_and_arrays_beside_arrays() -> None:
    number, error = mixture_wasserstein_distance(ARRAYS, LISTS, return_error=True)
    assert type(assert_type(number, float)) is type(assert_type(error, float)) is float
    gaussians = ([0.0, 3.0], 1.0), ([0.0, 1.0], [1.0, 1.0])
    assert_type(bures_wasserstein_distance(*gaussians, return_error=True), tuple[float, float])
    assert_type(MixtureWasserstein()(TENSORS, ARRAYS, return_error=True), tuple[Tensor, float])
    assert_type(frechet_distance(SAMPLES, SAMPLES, return_error=True), tuple[float, float])
    assert_type(sliced_mixture_wasserstein(ARRAYS, LISTS, return_error=True), tuple[float, float])
    points = torch.from_numpy(SAMPLES)
    sliced = sliced_wasserstein_distance(ARRAYS, points, return_error=True)
    assert type(assert_type(sliced, tuple[Tensor, float])[1]) is float
    found = pairwise_mixture_wasserstein([ARRAYS, ARRAYS], return_error=True)
    assert all(type(t) is np.ndarray for t in assert_type(found, tuple[np.ndarray, np.ndarray]))


def test_functions_of_tensors_say_what_they_return() -> None:
    solution = assert_type(fit_em(PARAMS, torch.from_numpy(SAMPLES)), Solution)
    assert isinstance(solution.value, GaussianMixtureParams)
    assert isinstance(assert_type(transport_plan(PARAMS, PARAMS).cost, Tensor), Tensor)


def test_fits_return_the_estimator() -> None:
    mixture = DifferentiableGaussianMixture(random_state=0).fit(SAMPLES)
    assert_type(mixture, DifferentiableGaussianMixture)
    # what it holds depends on what it was fitted to
    assert type(assert_type(MixtureWasserstein()(mixture, ARRAYS), Any)) is float


def test_estimators_return_arrays_for_arrays() -> None:
    mixture = DifferentiableGaussianMixture(random_state=0).fit(SAMPLES)
    ot_map = OTMap(SAMPLES + 1, n_components=1).fit(SAMPLES)
    arrays = [
        assert_type(mixture.predict(SAMPLES), np.ndarray),
        assert_type(mixture.predict_proba([[0.0, 1.0]]), np.ndarray),
        assert_type(mixture.score_samples(SAMPLES), np.ndarray),
        assert_type(ot_map.transform(SAMPLES), np.ndarray),
        assert_type(ot_map.fit_transform(SAMPLES), np.ndarray),
    ]
    assert all(type(array) is np.ndarray for array in arrays)
    assert type(assert_type(mixture.bic(SAMPLES), float)) is float
    assert type(assert_type(mixture.score(SAMPLES), float)) is float
    # whether a tensor gives one depends on its graph and its device
    on_graph = torch.from_numpy(SAMPLES).requires_grad_()
    assert isinstance(assert_type(mixture.score_samples(on_graph), Any), Tensor)
    assert isinstance(assert_type(mixture.score_samples(on_graph.detach()), Any), np.ndarray)


def test_parameters_of_another_type_are_errors_for_mypy_too() -> None:
    with pytest.raises(ValueError, match="must be an int"):
        DifferentiableGaussianMixture("2").fit(SAMPLES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be a float"):
        OTMap(reg="no").fit(SAMPLES)  # type: ignore[arg-type]


def functions_of(tree: ast.AST, owner: object) -> Any:
    """The functions that a stub describes, each with the one that runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions_of(node, getattr(owner, node.name))
        elif isinstance(node, ast.FunctionDef):
            yield node, getattr(owner, node.name, None)


def test_the_stub_of_the_metrics_has_their_names_and_parameters() -> None:
    tree = ast.parse(STUB.read_text())
    described = [pair for pair in functions_of(tree, metrics) if pair[1] is not None]
    assert len(described) > 40
    for node, function in described:
        kinds = [(a.arg, "keyword-only") for a in node.args.kwonlyargs]
        if node.args.kwarg is not None:
            kinds.append((node.args.kwarg.arg, "variadic keyword"))
        positional = [(a.arg, "positional or keyword") for a in node.args.args]
        parameters = inspect.signature(function).parameters.values()
        assert positional + kinds == [(p.name, p.kind.description) for p in parameters], node.name
    names = re.findall(r"^(?:def |class )?(\w+)|as (\w+)$", STUB.read_text(), re.MULTILINE)
    missing = set(metrics.__all__) - {name for pair in names for name in pair}
    assert not missing, f"{STUB.name} has no types of {missing}"


@pytest.mark.parametrize("module", ["", ".functional", ".nn", ".datasets", ".pictures"])
def test_public_functions_say_what_they_return(module: str) -> None:
    public = importlib.import_module(f"skgmmot{module}")
    described_by_the_stub = {
        getattr(metrics, name) for name in metrics.__all__ if name != "SCORERS"
    }
    for name in public.__all__:
        thing = getattr(public, name)
        if thing in described_by_the_stub:
            continue
        for function in (thing, *(getattr(thing, m, None) for m in ("fit", "forward"))):
            if inspect.isfunction(function):
                returned = inspect.signature(function).return_annotation
                assert returned is not inspect.Signature.empty, (
                    f"annotate what {name} returns: {function}"
                )


def public_methods(cls: type) -> Any:
    """The public methods of a class that this package defines, and its constructor, unwrapped."""
    for name in dir(cls):
        method = inspect.getattr_static(cls, name)
        method = getattr(method, "__func__", getattr(method, "fn", method))
        is_ours = inspect.isfunction(method) and method.__module__.startswith("skgmmot")
        if is_ours and (name == "__init__" or not name.startswith("_")):
            yield inspect.unwrap(method)


@pytest.mark.parametrize("module", ["", ".nn"])
def test_constructors_and_methods_have_types(module: str) -> None:
    public = importlib.import_module(f"skgmmot{module}")
    classes = {thing for name in public.__all__ if inspect.isclass(thing := getattr(public, name))}
    empty = inspect.Parameter.empty
    for cls in classes - {MixtureWasserstein}:  # the stub has its types
        for method in public_methods(cls):
            signature, where = inspect.signature(method), f"{cls.__name__}.{method.__name__}"
            if get_overloads(method):
                continue
            assert signature.return_annotation is not empty, f"annotate what {where} returns"
            bare = [p.name for p in signature.parameters.values() if p.annotation is empty]
            assert set(bare) <= {"self", "cls"}, f"annotate {bare} of {where}"
