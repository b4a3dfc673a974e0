"""Count the places at which a fit goes from one module of the package to another.

A reader who follows ``fit(X)`` changes files at each of them. ``--list`` prints them by the module
that they leave; ``--forwarding`` prints functions of one statement that another module calls, where
to look first for calls that can go.

    python tools/module_switches.py --list
"""

import argparse
import ast
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

import skgmmot

ROOT = Path(skgmmot.__file__).parent


def switches(call):
    """How often each place is passed: caller, its line, and what it calls in another module.

    Only direct calls count: what numpy, torch or Python call back is not seen in the code.
    """
    found, modules, prefix = Counter(), set(), f"{ROOT}/"

    def note(frame, event, argument):
        code, caller = frame.f_code, frame.f_back
        if event != "call" or not code.co_filename.startswith(prefix):
            return
        modules.add(code.co_filename)
        if caller is None or not caller.f_code.co_filename.startswith(prefix):
            return
        if caller.f_code.co_filename != code.co_filename:
            found[caller.f_code, caller.f_lineno, code] += 1

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found, modules


def example():
    """A short fit: three groups of samples in three features, two iterations."""
    X = np.random.default_rng(0).normal(size=(1000, 3))
    X[:333] += 6
    X[333:666] -= 6
    return lambda: skgmmot.DifferentiableGaussianMixture(3, random_state=0).fit(X)


def name_of(code):
    """A module and what is called there."""
    path = Path(code.co_filename).relative_to(ROOT)
    return f"{path.with_suffix('')}:{code.co_qualname}"


def is_forwarding(code):
    """Whether a function has a single statement beside its docstring."""
    for node in ast.walk(ast.parse(Path(code.co_filename).read_text())):
        first = getattr(node, "decorator_list", None) or [node]
        if isinstance(node, ast.FunctionDef) and code.co_firstlineno == first[0].lineno:
            return len(node.body) - (ast.get_docstring(node) is not None) == 1
    return False


def main():
    """Print how many there are, and which."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="print each place")
    parser.add_argument(
        "--forwarding", action="store_true", help="print functions of one statement"
    )
    options = parser.parse_args()
    fit = example()
    fit()  # what is kept from call to call is made
    found, modules = switches(fit)
    places = {(caller, line) for caller, line, _ in found}
    print(f"{len(places)} places, {found.total()} calls, {len(modules)} modules")
    if options.forwarding:
        called = {code for _, _, code in found}
        print(*sorted(name_of(code) for code in called if is_forwarding(code)), sep="\n")
    if options.list:
        of_module = defaultdict(list)
        for (caller, line, code), n in found.items():
            module, function = name_of(caller).split(":")
            of_module[module].append(f"  {function} ({line}) -> {name_of(code)} x {n}")
        for module, lines in sorted(of_module.items()):
            print(module, *sorted(lines), sep="\n")


if __name__ == "__main__":
    main()
