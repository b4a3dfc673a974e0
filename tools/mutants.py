"""Change the package in one place at a time and see whether the tests of that module notice.

    nice python tools/mutants.py --number 60 --seed 0

Each *mutant* is one change in the syntax tree: an operator, a sign, a comparison, a number, a
boolean, min for max, a term or a transpose left out. As many are drawn from each package, at random
by the seed. One at a time is written into a copy of the checkout, where only the module's own test
files run (those that ``tests/test_architecture.py`` asks for). A mutant that they pass *survives*:
a value that no test looks at. Its difference is printed; mend the tests.

Left alone are error messages, annotations and docstrings; defaults of arguments, which
``tests/test_documentation.py`` compares with what is documented; and the lines in `EQUIVALENT`.
Standard library only; pytest runs in the interpreter that runs this.
"""

import argparse
import ast
import copy
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = "skgmmot"

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
    ("fitting/sliced.py", "MAX_PROJECTED ="): "how much is held at once changes no value",
    ("gaussian/bures/bounds.py", "columns = L1.split("): "how much is held at once",
    ("gaussian/bures/plane.py", "FEW_PAIRS, BLOCK_SIZE ="): "from where on the other way is faster",
    ("gaussian/conditional.py", "return self.given.means.numel() + 2"): "how much is held at once",
    ("gaussian/sampling.py", "if missing > 0:"): "inside a loop that does nothing for zero",
    ("metrics/_sliced.py", "if p > 2:"): "for these powers both units hold all differences",
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
    ("transport/discrete/network_simplex.py", "if mass.min() <= rounding_mass"): (
        "a mass that is exactly the bound; what follows decides for each entry"
    ),
    (
        "transport/discrete/penalised.py",
        "if abs(mass - 1) > EQUAL:",
    ): "a mass that is exactly there",
    ("transport/discrete/penalised.py", "large = any("): (
        "where totals are equal to rounding, making them exactly so costs nothing"
    ),
    ("transport/mixtures/pairwise.py", "return -1 if len(sources)"): "only the sign is looked at",
    ("transport/mixtures/pairwise.py", "self.bounded = self.costs is not None"): (
        "where bounds do not pay, all costs give the same plans"
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


def mutants_of(path: Path) -> list[Mutant]:
    """All mutants of a module."""
    source, module = path.read_text(), path.relative_to(ROOT / PACKAGE).as_posix()
    lines = source.splitlines()
    found = []
    for node, other in changes(ast.parse(source)):
        line = lines[node.lineno - 1].strip()
        if not any(m == module and line.startswith(text) for m, text in EQUIVALENT):
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


def passed(checkout: Path, files: list[str], seconds: float) -> bool | None:
    """Whether tests pass in a checkout; None if they take too long."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with subprocess.Popen(
        command,
        cwd=checkout,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            return None


def difference(mutant: Mutant) -> str:
    """What a mutant changes."""
    lines = (text.splitlines() for text in (mutant.before, mutant.after))
    return "\n".join(
        line for line in difflib.ndiff(*lines) if line.startswith(("-", "+")) and line[1:].strip()
    )


def run(mutants: list[Mutant], time_limit: float) -> list[Mutant]:
    """Try mutants one after the other; returns those that nothing killed."""
    survivors, sound = [], {}
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder)
        for name in (PACKAGE, "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, checkout)
        for i, mutant in enumerate(mutants, 1):
            files = tests_of(mutant.module, checkout)
            if mutant.module not in sound:
                sound[mutant.module] = passed(checkout, files, 10 * time_limit)
            target = checkout / PACKAGE / mutant.module
            target.write_text(mutant.after)
            start = time.monotonic()
            outcome = {True: "SURVIVED", False: "killed", None: "killed by time"}[
                passed(checkout, files, time_limit)
            ]
            target.write_text(mutant.before)
            if not sound[mutant.module]:
                outcome = f"its tests fail without it: {' '.join(files)}"
            if not outcome.startswith("killed"):
                survivors.append(mutant)
            seconds = time.monotonic() - start
            print(f"{i:3} {outcome} {seconds:.0f} s {mutant.module}:{mutant.line}")
            print(difference(mutant), flush=True)
    return survivors


def main() -> None:
    """Draw, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, default=60, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--only", default="", help="paths in the package begin with this")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds for one")
    parser.add_argument("--list", action="store_true", help="show them, run nothing")
    given = parser.parse_args()
    mutants = drawn(given.number, given.seed, given.only)
    if given.list:
        for mutant in mutants:
            print(f"{mutant.module}:{mutant.line} {' '.join(tests_of(mutant.module))}")
            print(difference(mutant))
        return
    survivors = run(mutants, given.time_limit)
    print(f"\n{len(mutants) - len(survivors)} of {len(mutants)} mutants killed; seed {given.seed}")
    for mutant in survivors:
        print(f"\nnot killed: {PACKAGE}/{mutant.module}:{mutant.line}\n{difference(mutant)}")


if __name__ == "__main__":
    main()
