"""The house stands: modules import from the floors below only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skgmmot

ROOT = Path(skgmmot.__file__).parent

#: Floor of each module; a package's `__init__` shows names and stands on no floor.
FLOORS = {
    "functional.linalg": -1,
    "functional.threads": -1,
    "functional._sliced_quadrature": 0,
    "functional.assignment": 0,
    "functional.bures": 0,
    "functional.covariance_base": 0,
    "functional.directions": 0,
    "functional.fixed_point": 0,
    "functional.interior_point": 0,
    "functional.krylov": 0,
    "functional.network_simplex": 0,
    "functional.power_diagram": 0,
    "functional._sliced_exact": 1,
    "functional.adjoint": 1,
    "functional.bures_bounds": 1,
    "functional.cell_integrals": 1,
    "functional.covariance_axis": 1,
    "functional.covariance_matrix": 1,
    "functional.gaussian_barycenter": 1,
    "functional.minimise": 1,
    "functional.newton": 1,
    "functional.penalised": 1,
    "functional.covariance": 2,
    "functional.discrete": 2,
    "functional.gaussian": 2,
    "functional.polish": 2,
    "functional.follow": 3,
    "functional.mixture": 3,
    "functional.em": 4,
    "functional.entropic": 4,
    "functional.mixture_ot": 4,
    "functional.semidiscrete": 4,
    "functional.sliced": 4,
    "_arrays": 5,
    "functional.barycenter": 5,
    "functional.barycenter_starts": 5,
    "functional.em_products": 5,
    "functional.pairwise": 5,
    "functional.quantization": 5,
    "functional.semidiscrete_nodes": 5,
    "functional.sinkhorn_em": 5,
    "functional.sliced_fit": 5,
    "_engine": 6,
    "functional.barycenter_fixed_point": 6,
    "functional.em_gram": 6,
    "functional.mixture_map": 6,
    "functional.prepared": 6,
    "functional.semidiscrete_fit": 6,
    "functional.em_adjoint": 7,
    "estimators._base": 8,
    "estimators._init": 8,
    "functional.em_map": 8,
    "functional.fit": 9,
    "datasets": 10,
    "estimators.differentiable": 10,
    "estimators.quantizer": 10,
    "estimators.semidiscrete": 10,
    "estimators.sliced": 10,
    "functional.warm_start": 10,
    "metrics._mixture": 10,
    "metrics._semidiscrete": 10,
    "metrics._sliced": 10,
    "pictures": 10,
    "plotting": 10,
    "estimators.embedding": 11,
    "estimators.geodesic": 11,
    "metrics._scorers": 11,
    "nn": 11,
    "estimators.barycenter": 12,
    "estimators.ot_map": 12,
}


def modules():
    """Every module that is not an `__init__`, by its name inside the package."""
    for path in sorted(ROOT.rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def imports_of(path):
    """Modules of the package that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            module = node.module or ""
            if module.split(".")[0] == "skgmmot":
                inner = module.removeprefix("skgmmot").lstrip(".")
                for alias in node.names:
                    deeper = f"{inner}.{alias.name}".lstrip(".")
                    yield deeper if deeper in FLOORS else inner
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "skgmmot":
                    yield alias.name.removeprefix("skgmmot").lstrip(".")


def test_every_module_has_a_floor():
    assert {name for name, _ in modules()} == set(FLOORS)


@pytest.mark.parametrize(
    ("name", "path"), list(modules()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_module_imports_only_from_below(name, path):
    for imported in imports_of(path):
        assert imported in FLOORS, f"{name} imports {imported!r}, which has no floor"
        assert FLOORS[imported] < FLOORS[name], f"{name} imports {imported}, which is not below it"


@pytest.mark.parametrize(
    ("name", "path"), list(modules()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_covariance_types_are_never_branched_on_by_name(name, path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            text = ast.unparse(node)
            assert "covariance_type ==" not in text and "covariance_type !=" not in text, text


@pytest.mark.parametrize("name", [n for n in FLOORS if n.startswith("functional.")])
def test_functional_knows_neither_scikit_learn_nor_plots(name):
    path = ROOT / (name.replace(".", "/") + ".py")
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {n.split(".")[0] for n in names} & {"sklearn", "matplotlib", "pandas"}


def test_no_caller_is_checked_by_assert():
    for _, path in modules():
        assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]


def test_importing_loads_neither_pot_nor_plots_nor_the_compiler_of_torch():
    code = "import sys, skgmmot; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"ot", "networkx", "matplotlib", "PIL", "torch._dynamo"}
