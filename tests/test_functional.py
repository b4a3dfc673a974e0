"""The facade: its names, and that it holds nothing of its own."""

import ast
import inspect
from pathlib import Path

import skgmmot.functional as F


def test_every_name_is_listed_once_and_in_order():
    imported = {n for n in vars(F) if not n.startswith("__") and not inspect.ismodule(vars(F)[n])}
    assert imported == set(F.__all__)
    assert list(F.__all__) == sorted(F.__all__)


def test_nothing_is_defined_here():
    tree = ast.parse(Path(F.__file__).read_text())
    kinds = {type(node) for node in tree.body}
    assert kinds == {ast.Expr, ast.ImportFrom, ast.Assign}


def test_every_name_says_what_it_is():
    for name in F.__all__:
        assert inspect.getdoc(getattr(F, name)), name
