"""Change the package in one place at a time and see whether the tests of that module notice.

    nice python tools/mutants.py --number 60 --seed 0

Each *mutant* is one change in the syntax tree: an operator, a sign, a comparison, a number, a
boolean, min for max, a term or a transpose left out. As many are drawn from each package, at random
by the seed. One at a time is written into a copy of the checkout, where only the module's own test
files run (those that ``tests/test_architecture.py`` asks for). A mutant that they pass *survives*:
a value that no test looks at. Its difference is printed; mend the tests.

Left alone are error messages, annotations and docstrings; defaults of arguments, which
``tests/test_documentation.py`` compares with what is documented; and the lines in `EQUIVALENT`.
Pytest runs in forks of the interpreter that runs this.
"""

import argparse
import ast
import copy
import csv
import difflib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "skgmmot"

#: Imported once; the tests of each mutant run in a fork, which has them already.
IMPORTED_ONCE = ("torch", "sklearn.mixture", "pandas", "scipy.optimize", "ot")
PYTEST = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]

#: Lines whose change shows in no value, by module and by how they begin, and why.
EQUIVALENT = {
    ("fitting/quantization.py", "unit = power_of_two("): (
        "any unit between the two sizes serves, unless they differ by 1e154, where none does"
    ),
    ("fitting/quantization.py", "barycentres = torch.where(held"): (
        "what is divided where nothing is held is not taken"
    ),
    ("fitting/em/entropic.py", "logarithm = math.log1p(ratio - 1) if ratio > 0.5"): (
        "both ways give the logarithm of one half"
    ),
    ("fitting/em/entropic.py", "torch.diag(here.share * (1 + 1e-14))"): "any such rounding serves",
    ("fitting/em/sinkhorn.py", "share = em.statistics(theta).mass / em.total"): (
        "a factor that all components share cancels"
    ),
    ("fitting/quantization.py", "blocks = X.split(max(1"): "how much is held at once",
    ("fitting/em/gradient/adjoint.py", "self.row_size = 2 * theta"): "how much is held at once",
    ("fitting/em/gradient/information.py", "self.row_size = 3 * len"): "how much is held at once",
    ("fitting/em/gradient/information.py", "return vectors[:, values > 0.5]"): (
        "the eigenvalues of a projector are zero and one"
    ),
    ("fitting/em/iterations.py", "of_X, of_a = linear.pull_samples(u) if any("): (
        "a derivative that nobody asks for is not taken"
    ),
    ("fitting/em/sinkhorn.py", "parts = (X - self.em.origin).double().split("): (
        "how much is held at once"
    ),
    ("estimators/search/_split_merge.py", "length = assignments.rows_at_once("): (
        "how much is held at once"
    ),
    ("estimators/mixtures/_missing.py", "found = blocks.map_rows("): "how much is held at once",
    ("estimators/mixtures/_partial_fit.py", "n_taken += 1"): "only whether it is zero counts",
    ("estimators/mixtures/_partial_fit.py", "incomplete = arrays.takes_missing(estimator) and"): (
        "complete samples may go the way of others; tests/estimators/mixtures/test_missing.py has "
        "incomplete ones"
    ),
    ("estimators/search/_comparison.py", "yield grown, EM(held_out, grown.em"): (
        "samples that are held out have no M-step"
    ),
    ("fitting/sliced.py", "MAX_PROJECTED ="): "how much is held at once changes no value",
    ("gaussian/bures/bounds.py", "columns = L1.split("): "how much is held at once",
    ("gaussian/bures/plane.py", "FEW_PAIRS, BLOCK_SIZE ="): "from where on the other way is faster",
    ("gaussian/covariance/low_rank.py", "START_ITERATIONS ="): "how far a start is improved",
    ("gaussian/conditional.py", "return self.given.means.numel() + 2"): "how much is held at once",
    ("gaussian/sampling.py", "if missing > 0:"): "inside a loop that does nothing for zero",
    ("metrics/_sliced.py", "if p > 2:"): "for these powers both units hold all differences",
    ("numerics/newton/polish.py", "shift = 2 * low if high == math.inf"): (
        "where a search goes on, which ends between the same lengths"
    ),
    (
        "plotting/_mixture.py",
        "ax.plot_surface(",
    ): "the width of the lines of a mesh is a matter of looks",
    ("transport/discrete/bounded.py", "return ((P > 0) | (self.bounds[at] <"): (
        "what is exactly the bound is computed, or not, for the same plan"
    ),
    ("transport/discrete/network_simplex.py", "if not gap + rounding <= GAP * value"): (
        "a gap that is exactly the bound"
    ),
    ("transport/discrete/network_simplex.py", "if np.minimum.reduce(mass) <= rounding_mass"): (
        "a mass that is exactly the bound; what follows decides for each entry"
    ),
    (
        "transport/discrete/penalised.py",
        "if abs(mass - 1) > EQUAL:",
    ): "a mass that is exactly there",
    ("transport/discrete/penalised.py", "large = any("): (
        "where totals are equal to rounding, making them exactly so costs nothing"
    ),
    ("transport/discrete/penalised.py", "return problem.independent() / total"): (
        "a plan that is not the best one is not taken, but the problem solved"
    ),
    ("transport/mixtures/pairwise.py", "return -1 if len(sources)"): "only the sign is looked at",
    ("transport/mixtures/pairwise.py", "self.bounded = self.costs is not None"): (
        "where bounds do not pay, all costs give the same plans"
    ),
    ("transport/mixtures/distance.py", "return min(sizes) > 1 and math.prod(sizes)"): (
        "from where on the other way is faster"
    ),
    ("transport/mixtures/pairwise.py", 'if options["reg"] and not math.isinf(penalties_of'): (
        "without entropy, and without penalties, what is added is zero"
    ),
    ("transport/semidiscrete/space/gaussians.py", "return SpaceMixtureIntegrals(self.weights"): (
        "any finer rule tells the error"
    ),
    ("transport/mixtures/distance.py", "if which == 0 and not reg"): (
        "between equal mixtures the general way finds the same plan"
    ),
    ("transport/discrete/network_simplex.py", "P, f, g, used = _plan(a, b, np.minimum("): (
        "costs above one are in no optimal plan: any larger bound serves"
    ),
    ("transport/semidiscrete/periodic/cells.py", "middle = (self.moments(d) /"): (
        "a start: a worse one takes more steps to the same cells"
    ),
    ("transport/semidiscrete/periodic/cells.py", "each = (np.arange(n) + 0.5) / n"): (
        "any grid of that period gives a bound"
    ),
    ("transport/semidiscrete/damped_newton.py", "goal = tol if share == 0 else"): (
        "how far the steps on the way are solved: only the last one is seen"
    ),
}

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
OPPOSITES = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE}
_PAIRS = ["min max", "amin amax", "minimum maximum", "argmin argmax", "any all", "floor ceil"]
NAMES = {a: b for pair in _PAIRS for a, b in (pair.split(), pair.split()[::-1])}


class Mutant(NamedTuple):
    """One change to one module."""

    module: str
    """Its path in the package."""
    line: int
    before: str
    after: str
    """The whole module, changed."""


# --- drawing -------------------------------------------------------------------------------------


def changed(node: ast.AST, **fields) -> ast.AST:
    """A copy of a node with other fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def alternatives(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST]:
    """What could stand in the place of a node."""
    match node:
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            yield changed(node, op=OPERATORS[type(op)]())
            if isinstance(op, ast.Add | ast.Sub):
                yield node.left
        case ast.BoolOp(op=op):
            yield changed(node, op=OPERATORS[type(op)]())
        case ast.Compare(ops=[op, *rest]) if type(op) in OPERATORS:
            yield changed(node, ops=[OPERATORS[type(op)](), *rest])
            if type(op) in OPPOSITES:
                yield changed(node, ops=[OPPOSITES[type(op)](), *rest])
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield changed(node, value=not value)
        case ast.Constant(value=int(value)):
            yield changed(node, value=value + 1)
        case ast.Constant(value=float(value)):
            yield changed(node, value=2 * value if value else 1.0)
        case ast.Name(id=name) if name in NAMES and isinstance(parent, ast.Call):
            yield changed(node, id=NAMES[name])
        case ast.Attribute(attr=name) if name in NAMES and isinstance(parent, ast.Call):
            yield changed(node, attr=NAMES[name])
        case ast.keyword(arg="min" | "max"):
            yield changed(node, arg=NAMES[node.arg])
        case ast.Attribute(attr="mT"):
            yield node.value


def is_text(node: ast.AST) -> bool:
    """Whether a node tells people something, or only what types there are."""
    match node:
        case ast.Raise() | ast.JoinedStr():
            return True
        case ast.Call(func=ast.Attribute(attr="warn") | ast.Name(id="warn" | "print")):
            return True
    return False


def is_axis(node: ast.AST) -> bool:
    """Whether a node is a whole number or several: in the wrong place, an error and no value."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return False
    values = value if isinstance(value, tuple) else (value,)
    return all(type(v) is int for v in values)


def children(node: ast.AST) -> Iterator[ast.AST]:
    """Parts of a node that compute something."""
    match node:
        case ast.keyword(arg="dim" | "axis" | "dim1" | "dim2" | "strict"):
            return
        case ast.Subscript(slice=index) if is_axis(index):
            yield node.value
            return
    skipped = {"annotation", "returns", "decorator_list", "defaults", "kw_defaults"}
    of_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    for name, value in ast.iter_fields(node):
        if name in skipped:
            continue
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, ast.AST) or is_text(part):
                continue
            if not (of_method and name == "args" and is_axis(part)):
                yield part


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """All pairs of a node below this one and what could stand in its place."""
    for child in children(node):
        yield from ((child, other) for other in alternatives(child, node))
        yield from changes(child)


def replaced(source: str, node: ast.AST, other: ast.AST) -> str:
    """The source with another node in the place of one."""
    lines = source.encode().splitlines(keepends=True)  # columns count bytes
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    text = ast.unparse(other)
    if isinstance(other, ast.BinOp | ast.BoolOp | ast.Compare | ast.UnaryOp):
        text = f"({text})"
    joined = b"".join(lines)
    return (joined[:start] + text.encode() + joined[end:]).decode()


def mutants_of(path: Path, all_lines: bool = False) -> list[Mutant]:
    """All mutants of a module, also of lines in `EQUIVALENT` if `all_lines`."""
    source, module = path.read_text(), path.relative_to(ROOT / PACKAGE).as_posix()
    lines = source.splitlines()
    found = []
    for node, other in changes(ast.parse(source)):
        line = lines[node.lineno - 1].strip()
        left_alone = any(m == module and line.startswith(text) for m, text in EQUIVALENT)
        if all_lines or not left_alone:
            found.append(Mutant(module, node.lineno, source, replaced(source, node, other)))
    return found


def drawn(number: int, seed: int, only: str = "") -> list[Mutant]:
    """Draw mutants, as many from each package as from the others."""
    for module, text in EQUIVALENT:
        lines = (ROOT / PACKAGE / module).read_text().splitlines()
        if not any(line.strip().startswith(text) for line in lines):
            raise SystemExit(f"EQUIVALENT names a line that is no longer in {module}: {text}")
    rng, packages = random.Random(seed), {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        module = path.relative_to(ROOT / PACKAGE)
        if module.as_posix().startswith(only) and (found := mutants_of(path)):
            packages.setdefault(module.parent, []).extend(found)
    for found in packages.values():
        rng.shuffle(found)
    turns = [found[i] for i in range(number) for found in packages.values() if i < len(found)]
    return turns[:number]


# --- running -------------------------------------------------------------------------------------


def tests_of(module: str, root: Path = ROOT) -> list[str]:
    """The test files of a module: those named after it, or all in its folder."""
    *folders, name = (part.lstrip("_") for part in Path(module).with_suffix("").parts)
    folder = root.joinpath("tests", *folders)
    others = {p.stem.lstrip("_") for p in (root / PACKAGE / module).parent.glob("*.py")} - {name}
    files = [
        file
        for file in sorted(folder.glob("test_*.py"))
        if f"{file.stem}_".startswith(f"test_{name}_")
        and not any(
            len(other) > len(name) and f"{file.stem}_".startswith(f"test_{other}_")
            for other in others
        )
    ]
    files = files or sorted(folder.glob("test_*.py"))
    return [file.relative_to(root).as_posix() for file in files]


def pytest_in_fork(checkout: Path, files: list[str], output: int) -> NoReturn:
    """Run tests in a process that was just forked, and end it."""
    status = 1
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(checkout)
        sys.path.insert(0, str(checkout))
        status = int(pytest.main([*PYTEST, *files]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def passed(checkout: Path, files: list[str], seconds: float) -> bool | None:
    """Whether tests pass in a checkout; None if they take too long."""
    with open(checkout / "output", "wb") as output:
        if (child := os.fork()) == 0:
            pytest_in_fork(checkout, files, output.fileno())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def changed_lines(mutant: Mutant) -> tuple[str, str]:
    """The lines that a mutant changes, before and after, each in one line."""
    lines = (text.splitlines() for text in (mutant.before, mutant.after))
    differences = list(difflib.ndiff(*lines))
    return tuple(
        " ".join(line[1:].strip() for line in differences if line.startswith(sign)) for sign in "-+"
    )


def copied(folder: Path) -> None:
    """Copy what the tests of modules read."""
    for name in (PACKAGE, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)


def run(mutants: list[Mutant], time_limit: float) -> Iterator[tuple[Mutant, str]]:
    """Try mutants one after the other; yields what became of each."""
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder)
        copied(checkout)
        files = sorted({file for mutant in mutants for file in tests_of(mutant.module)})
        if not passed(checkout, files, 100 * time_limit):
            raise SystemExit((checkout / "output").read_text() + "Tests fail without a mutant.")
        for mutant in mutants:
            target = checkout / PACKAGE / mutant.module
            target.write_text(mutant.after)
            outcome = passed(checkout, tests_of(mutant.module), time_limit)
            target.write_text(mutant.before)
            yield mutant, {True: "survived", False: "noticed", None: "noticed by time"}[outcome]


def tried_again(path: Path, outcome: str) -> list[Mutant]:
    """The mutants of a table that ended in some way, in the package as it is now."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["outcome"].startswith(outcome)]
    found = []
    for module in {row["module"]: None for row in rows}:
        there = {changed_lines(m): m for m in mutants_of(ROOT / PACKAGE / module, all_lines=True)}
        of_it = [(row["before"], row["after"]) for row in rows if row["module"] == module]
        found += [there[lines] for lines in of_it if lines in there]
    print(f"{len(found)} of {len(rows)} mutants have their line still")
    return found


def main() -> None:
    """Draw, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, default=60, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--only", default="", help="paths in the package begin with this")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds for one")
    parser.add_argument("--list", action="store_true", help="show them, run nothing")
    parser.add_argument("--again", type=Path, help="a table: try the survivors in it instead")
    parser.add_argument("--table", type=Path, help="a CSV file for the outcomes")
    given = parser.parse_args()
    if given.again:
        mutants = tried_again(given.again, "survived")
    else:
        mutants = drawn(given.number, given.seed, given.only)
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"}
    outcomes = ((m, "not run") for m in mutants) if given.list else run(mutants, given.time_limit)
    rows = []
    for mutant, outcome in outcomes:
        print(f"{len(rows) + 1:3} {outcome} {PACKAGE}/{mutant.module}:{mutant.line}")
        print("  - {}\n  + {}".format(*changed_lines(mutant)), flush=True)
        rows.append((mutant.module, *changed_lines(mutant), outcome))
    if given.table:
        with open(given.table, "w", newline="") as file:
            csv.writer(file).writerows([("module", "before", "after", "outcome"), *rows])
    noticed = sum(row[-1].startswith("noticed") for row in rows)
    print(f"\n{noticed} of {len(rows)} mutants noticed; seed {given.seed}")


if __name__ == "__main__":
    main()
