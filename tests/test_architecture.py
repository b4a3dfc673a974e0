"""The house stands: a package imports only from those before it."""

import ast
import functools
from collections import Counter, defaultdict
from pathlib import Path

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


@functools.cache
def nodes(path):
    """The nodes of a file's syntax tree by their classes."""
    by_class = defaultdict(list)
    for node in ast.walk(ast.parse(path.read_text())):
        by_class[type(node)].append(node)
    return by_class


def nodes_everywhere(kind):
    """The nodes of a class in all modules, each with the parts of its module."""
    return [(parts, node) for parts, path in MODULES for node in nodes(path)[kind]]


@functools.cache
def imported_by(path):
    """The full names that a file imports, at any depth."""
    names = [alias.name for node in nodes(path)[ast.Import] for alias in node.names]
    for node in nodes(path)[ast.ImportFrom]:
        assert node.level == 0, f"{path.name} imports relatively"
        names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imports_of(path):
    """The parts of each module of the package that a file imports."""
    return [tuple(n.split(".")[1:]) for n in imported_by(path) if n.split(".")[0] == "skgmmot"]


def floor(parts):
    """The place of a module in the order."""
    return ORDER.index(parts[0]) if parts[0] in ORDER else len(ORDER)


def test_a_package_imports_only_from_those_before_it():
    for parts, path in MODULES:
        for imported in imports_of(path):
            assert floor(imported) <= floor(parts), (parts, imported)
            if parts[0] == imported[0] == "transport":
                assert imported[1] in (parts[1], SHARED), (parts, imported)
            assert imported[0] != "functional", f"the facade is for users: {parts}"


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


def test_covariance_types_are_never_branched_on_by_name():
    for parts, node in nodes_everywhere(ast.Compare):
        text = ast.unparse(node)
        assert "covariance_type ==" not in text and "covariance_type !=" not in text, (parts, text)


#: What is stored as covariances are, by the names it goes by.
STORAGES = {"covariances", "factors", "matrices", "scatter", "storage", "roots"}


def test_covariance_types_are_never_told_by_the_axes_of_their_storage():
    for parts, node in nodes_everywhere(ast.Attribute):
        if node.attr == "ndim" and parts[:2] != ("gaussian", "covariance"):
            text = ast.unparse(node)
            assert STORAGES.isdisjoint(text.split(".")), (parts, text)


#: Names of gradient strategies, E-steps and accelerations.
STRATEGY_NAMES = {*STRATEGIES, *E_STEPS, *ACCELERATIONS}


def test_strategies_are_never_branched_on_by_name():
    for kind in (ast.Compare, ast.MatchValue):
        for parts, node in nodes_everywhere(kind):
            held = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            assert not STRATEGY_NAMES & held, (parts, ast.unparse(node))


def test_only_faces_and_inputs_know_scikit_learn_and_plots():
    for parts, path in MODULES:
        if floor(parts) < ORDER.index("_inputs"):
            named = {name.split(".")[0] for name in imported_by(path)}
            assert not named & {"sklearn", "matplotlib", "pandas"}, parts


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
    assert not nodes_everywhere(ast.Assert)


def test_lines_that_random_changes_leave_alone_are_still_there():
    tree = ast.parse((TESTS.parent / "tools" / "mutants.py").read_text())
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EQUIVALENT"
    )
    for module, beginning in ast.literal_eval(table):
        lines = (ROOT / module).read_text().splitlines()
        assert any(line.strip().startswith(beginning) for line in lines), (module, beginning)
