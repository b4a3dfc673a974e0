"""The house stands: a package imports only from those before it."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import skgmmot
from skgmmot.fitting.em.e_steps import E_STEPS
from skgmmot.fitting.em.gradient.movement import STRATEGIES
from skgmmot.fitting.em.iterations import ACCELERATIONS

ROOT = Path(skgmmot.__file__).parent

#: The one rule: each imports from itself and from those before it; all others are faces.
ORDER = ("numerics", "gaussian", "transport", "fitting", "_inputs")
#: What is shared inside `transport`; its other folders know nothing of each other.
SHARED = "discrete"
#: Modules that a folder may hold, its ``__init__`` not counted.
MOST_MODULES = 12
TESTS = Path(__file__).parent
#: Modules without a test file of their own, by the one whose tests are theirs.
TESTED_BY = {
    ("gaussian", "covariance", name): ("gaussian", "covariance", "registry")
    for name in ("base", "matrices", "variances")
}


def modules():
    """Every module by its parts, with its path."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[:-1] if parts[-1] == "__init__" else parts, path


MODULES = list(modules())
each_module = pytest.mark.parametrize(
    ("parts", "path"), MODULES, ids=[".".join(parts) for parts, _ in MODULES]
)


def imports_of(path):
    """The parts of each module of the package that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (tuple(n.split(".")[1:]) for n in names if n.split(".")[0] == "skgmmot")


def floor(parts):
    """The place of a module in the order."""
    return ORDER.index(parts[0]) if parts[0] in ORDER else len(ORDER)


@each_module
def test_a_package_imports_only_from_those_before_it(parts, path):
    for imported in imports_of(path):
        assert floor(imported) <= floor(parts), imported
        if parts[0] == imported[0] == "transport":
            assert imported[1] in (parts[1], SHARED), imported
        assert imported[0] != "functional", "the facade is for users"


def test_imports_go_round_no_circle():
    known = {parts for parts, _ in MODULES}

    def needed(path):
        named = {i[:k] for i in imports_of(path) for k in (len(i), len(i) - 1)}
        return named & known

    edges = {parts: needed(path) for parts, path in MODULES}
    while edges:
        free = {p for p, needs in edges.items() if not (needs - {p}) & edges.keys()}
        assert free, f"a circle among {sorted('.'.join(p) for p in edges)}"
        edges = {p: needs for p, needs in edges.items() if p not in free}


def test_no_folder_holds_more_than_a_dozen_modules():
    held = Counter(path.parent for _, path in MODULES if path.name != "__init__.py")
    assert max(held.values()) <= MOST_MODULES, held.most_common(1)


@each_module
def test_covariance_types_are_never_branched_on_by_name(parts, path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            text = ast.unparse(node)
            assert "covariance_type ==" not in text and "covariance_type !=" not in text, text


#: What is stored as covariances are, by the names it goes by.
STORAGES = {"covariances", "factors", "matrices", "scatter", "storage", "roots"}


@each_module
def test_covariance_types_are_never_told_by_the_axes_of_their_storage(parts, path):
    if parts[:2] == ("gaussian", "covariance"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "ndim":
            assert STORAGES.isdisjoint(ast.unparse(node.value).split(".")), ast.unparse(node)


#: Names of gradient strategies, E-steps and accelerations, and the modules that are their homes.
STRATEGY_NAMES = {*STRATEGIES, *E_STEPS, *ACCELERATIONS}
STRATEGY_HOMES = {
    ("numerics", "gradients"),
    ("numerics", "fixed_point"),
    ("fitting", "em", "movement"),
    ("fitting", "em", "e_steps"),
}


@each_module
def test_strategies_are_never_branched_on_by_name(parts, path):
    if parts in STRATEGY_HOMES:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        kinds = (ast.Compare, ast.MatchValue)
        held = [n for n in ast.walk(node) if isinstance(n, ast.Constant)]
        named = STRATEGY_NAMES & {n.value for n in held if isinstance(n.value, str)}
        assert not (isinstance(node, kinds) and named), ast.unparse(node)


@each_module
def test_only_faces_and_inputs_know_scikit_learn_and_plots(parts, path):
    if floor(parts) >= ORDER.index("_inputs"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {n.split(".")[0] for n in names} & {"sklearn", "matplotlib", "pandas"}


def mirror_of(parts):
    """The test file of a module: ``_a.b`` is tested by ``a/test_b.py``."""
    *folders, name = (part.lstrip("_") for part in parts)
    return TESTS.joinpath(*folders, f"test_{name}.py")


def test_every_module_has_a_test_file_of_its_name():
    of_their_own = {parts for parts, path in MODULES if path.name != "__init__.py"}
    for parts in of_their_own - TESTED_BY.keys():
        assert mirror_of(parts).exists(), parts
    for parts, other in TESTED_BY.items():
        assert parts in of_their_own and mirror_of(other).exists(), parts
        assert not mirror_of(parts).exists(), f"{parts} is tested by a file of its own"


def test_every_test_file_is_named_after_a_module():
    mirrors = {mirror_of(parts) for parts, path in MODULES if path.name != "__init__.py"}
    for path in TESTS.glob("*/**/test_*.py"):
        if path.parent.name == "promises":  # a file a promise
            continue
        words = path.stem.split("_")
        # "test_plan_extremes" is a theme of "test_plan"
        names = {path.with_stem("_".join(words[:n])) for n in range(2, len(words) + 1)}
        assert names & mirrors, path


def test_no_caller_is_checked_by_assert():
    for _, path in MODULES:
        assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]


def test_importing_loads_neither_pot_nor_plots_nor_dask_nor_the_compiler_of_torch():
    code = "import sys, skgmmot; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    unwanted = {"ot", "networkx", "matplotlib", "PIL", "torch._dynamo", "torchmetrics"}
    unwanted |= {"dask", "distributed"}
    assert not unwanted & set(done.stdout.split())
