"""What is public is documented: numpydoc sections, runnable README, true examples."""

import doctest
import importlib
import inspect
import math
import pkgutil
import pydoc
import re
import tomllib
from pathlib import Path

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate
from packaging.requirements import Requirement
from packaging.version import Version

import skgmmot

REPOSITORY = Path(__file__).parents[1]

#: numpydoc's codes for style that this project does otherwise, each with what it does.
OTHERWISE = {
    "GL01",  # the summary starts on the line of the quotes
    "GL08",  # private and inherited members need no docstring
    "ES01",  # one sentence and a formula often say all
    "EX01",  # functions inside need no example
    "SA01",  # nor a list of relatives
    "SA04",  # relatives speak for themselves
    "YD01",  # the library has generators in tests only
    "RT03",  # a return value may be named by a noun
    "SS06",  # the first sentence may be as long as it is clear
    "PR02",  # constraints of scikit-learn's metadata requests
}


#: Packages of tensor functions, whose modules are documented for those who read the code.
INSIDE = ("numerics", "gaussian", "transport", "fitting")
#: Modules of these that are steps of others: their functions have one line each.
STEPS = (
    "skgmmot.fitting.em.rows",
    "skgmmot.numerics.blocks",
    "skgmmot.transport.sliced.exact",
    "skgmmot.transport.sliced.quadrature",
    "skgmmot.transport.sliced.slices",
)


def documented_modules():
    """The faces, the facade, and what stands below them."""
    names = ["", ".metrics", ".nn", ".plotting", ".datasets", ".functional"]
    yield from (importlib.import_module(f"skgmmot{name}") for name in names)
    for package in INSIDE:
        path = importlib.import_module(f"skgmmot.{package}").__path__
        for info in pkgutil.walk_packages(path, f"skgmmot.{package}."):
            yield importlib.import_module(info.name)


def is_protocol(thing):
    """Whether a class is a protocol, which has no constructor and so no parameters to document."""
    return getattr(thing, "_is_protocol", False)


def public_objects():
    """Public classes, their methods, and functions, by their full names."""
    for module in documented_modules():
        loaded_late = {n: getattr(module, n) for n in getattr(module, "__all__", ())}
        for name, thing in {**vars(module), **loaded_late}.items():
            origin = getattr(thing, "__module__", "")
            own = origin.startswith("skgmmot") and origin not in STEPS
            if name.startswith("_") or not own or isinstance(thing, type(skgmmot)):
                continue
            if inspect.isfunction(thing):
                yield f"{thing.__module__}.{thing.__qualname__}"
            elif inspect.isclass(thing) and not issubclass(thing, tuple) and not is_protocol(thing):
                yield f"{thing.__module__}.{thing.__qualname__}"
                if module.__name__ in ("skgmmot", "skgmmot.nn"):
                    for method, function in inspect.getmembers(thing, inspect.isfunction):
                        if not method.startswith("_") and function.__module__.startswith("skgmmot"):
                            yield f"{thing.__module__}.{thing.__qualname__}.{method}"


@pytest.mark.parametrize("name", sorted(set(public_objects())))
def test_public_docstrings_are_complete(name):
    brief = ("_of", "symmetrize", "factor", "automatic", "one_step", "moments", "CovarianceType")
    brief += ("extra_repr",)
    report = validate(name)
    faults = [(code, text) for code, text in report["errors"] if code not in OTHERWISE]
    if name.endswith(brief):
        # steps inside the library: a sentence and, where it helps, what goes in and out
        faults = [(code, text) for code, text in faults if code not in {"PR01", "RT01"}]
    assert not faults, faults


@pytest.mark.parametrize("name", sorted(set(public_objects())))
def test_documented_defaults_are_those_of_the_signature(name):
    thing = pydoc.locate(name)
    for parameter in get_doc_object(thing)["Parameters"]:
        _, _, written = parameter.type.partition("default=")
        for one in parameter.name.split(", ") if written else []:
            value = inspect.signature(thing).parameters[one].default
            if value in (math.inf, (math.inf, math.inf)) or callable(value):
                continue
            # a constant with many digits is rounded
            close = isinstance(value, float) and math.isclose(float(written), value, rel_tol=0.05)
            assert written in (repr(value), str(value)) or close, (one, written, value)


def reference_pages():
    """The objects that have a page of their own, by their full names."""
    module = ""
    for line in (REPOSITORY / "doc" / "api.rst").read_text().splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif module and line.startswith("   ") and not line.strip().startswith(":"):
            yield f"{module}.{line.strip()}"


def found(name):
    """The object of a full name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_public_object_has_a_page_and_every_page_an_object():
    pages = [found(name) for name in reference_pages()]
    assert len({id(page) for page in pages}) == len(pages)
    faces = ("metrics", "functional", "nn", "plotting", "pictures", "datasets")
    for module in ("skgmmot", *(f"skgmmot.{face}" for face in faces)):
        for name in importlib.import_module(module).__all__:
            thing = getattr(importlib.import_module(module), name)
            assert name == "SCORERS" or any(thing is page for page in pages), name


def test_the_files_that_the_architecture_names_exist():
    text = (REPOSITORY / "doc" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w/.]+/[\w.]+\.(?:py|rst|md))`", text))
    assert len(named) > 10
    places = (REPOSITORY, REPOSITORY / "skgmmot", REPOSITORY / "skgmmot" / "transport")
    assert not [name for name in named if not any((p / name).exists() for p in places)]


RECIPES = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_each_recipe_of_the_readme_runs_by_itself_and_prints_what_it_says(recipe, capsys):
    exec(compile(recipe, "README.md", "exec"), {})
    expected = re.findall(r"^print\(.*\)  # (.*)$", recipe, re.MULTILINE)
    assert expected == capsys.readouterr().out.splitlines() != []


#: What is built beside the pages: their code is that of the examples and of the docstrings.
BUILT = ("_build", "auto_examples", "generated", "_templates")
PAGES = sorted(
    path
    for path in (REPOSITORY / "doc").rglob("*.rst")
    if path.relative_to(REPOSITORY / "doc").parts[0] not in BUILT
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_pages_are_true(page):
    result = doctest.testfile(
        str(page),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert result.failed == 0


def test_the_readme_gives_the_two_commands_that_ci_runs():
    text = (REPOSITORY / "README.md").read_text()
    for marker in ("main job", "tests"):
        assert text.count(f"<!-- {marker} -->\n```sh\n") == 1


def test_the_version_is_the_same_everywhere():
    """It is set in skgmmot/__init__.py, and repeated where readers and other tools look for it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "skgmmot.__version__"
    version = skgmmot.__version__
    for name, line in {
        "CITATION.cff": f"version: {version}",
        "packaging/recipe.yaml": f'  version: "{version}"',
        "doc/cite.rst": f"     version = {{{version}}},",
    }.items():
        assert line in (REPOSITORY / name).read_text().splitlines(), name
    headings = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in (version, "Unreleased")
    assert version in headings


def test_the_conda_recipe_requires_what_the_package_does():
    """Under conda's names."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    recipe = (REPOSITORY / "packaging" / "recipe.yaml").read_text()
    names = {"torch": "pytorch", "POT": "pot"}
    for requirement in map(Requirement, project["dependencies"]):
        name = names.get(requirement.name, requirement.name)
        assert f"    - {name} {requirement.specifier}\n" in recipe, name


def test_the_oldest_releases_in_ci_are_the_declared_ones():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [Requirement(r) for r in project["dependencies"] + extras["plot"] + extras["test"]]
    pins = (REPOSITORY / "constraints-oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in pins if not line.startswith("#"))
    floors = {r.name: Version(next(iter(r.specifier)).version) for r in declared if r.specifier}
    assert {name: Version(pinned[name]) for name in floors} == floors
