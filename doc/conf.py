"""Settings of the documentation: sphinx, numpydoc and the gallery of examples."""

import importlib.util
import shutil
from pathlib import Path

import skgmmot

HERE = Path(__file__).parent

project = "skgmmot"
author = "The skgmmot developers"
copyright = author
version = release = skgmmot.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "architecture.md"]
templates_path = ["_templates"]
default_role = "py:obj"
html_theme = "alabaster"
html_theme_options = {"description": "Gaussian mixtures and optimal transport"}

autodoc_member_order = "bysource"
autosummary_generate = True  # a page for each object of api.rst
numpydoc_show_class_members = False

# The gallery runs a copy of the examples, for they write files where they run. Each of its folders
# has a GALLERY_HEADER.rst.
EXAMPLES = HERE / "_build" / "examples"
shutil.copytree(HERE.parent / "examples", EXAMPLES, dirs_exist_ok=True)
HAS_DASK = importlib.util.find_spec("distributed") is not None
sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"__init__\.py" if HAS_DASK else r"__init__\.py|plot_dask\.py",
    "show_memory": False,
    "write_computation_times": False,
}
