"""Settings of the documentation: sphinx, numpydoc and the gallery of examples."""

import importlib.util
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

from sphinx.util.nodes import make_refnode

import skgmmot

HERE = Path(__file__).parent

project = "skgmmot"
author = "The skgmmot developers"
copyright = author
version = release = skgmmot.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # formulas are set by files of the site, not by those of a CDN
    "myst_parser",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
# Every link within the site has a target; those to other packages may have none (see MANUALS).
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|joblib|matplotlib|numpy|ot|pandas|scipy|sklearn|torch)(\..*)?"),
    # in docstrings that are inherited from scikit-learn
    (r"py:obj", r'X|y|input_features|feature_names_in_|\[".*"\]'),
]
templates_path = ["_templates"]
default_role = "py:obj"

html_theme = "pydata_sphinx_theme"
html_title = f"skgmmot {version}"
html_static_path = ["_static"]
html_css_files = ["skgmmot.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "skgmmot"},
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": {"index": [], "**": ["page-toc"]},
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
html_sidebars = {page: [] for page in ("index", "install", "quickstart", "choose")}

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it, with shapes
autosummary_generate = True  # a page for each object of api.rst
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"

# Only prompts and what follows them are copied, without the output.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# The gallery runs a copy of the examples, for they write files where they run. Each of its folders
# has a GALLERY_HEADER.rst.
EXAMPLES = HERE / "_build" / "examples"
shutil.copytree(HERE.parent / "examples", EXAMPLES, dirs_exist_ok=True)
HAS_DASK = importlib.util.find_spec("distributed") is not None
sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"__init__\.py" if HAS_DASK else r"__init__\.py|plot_dask\.py",
    "backreferences_dir": "generated/backreferences",  # which examples use an object
    "doc_module": ("skgmmot",),
    "show_memory": False,
    "write_computation_times": False,
}

MANUALS = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "sklearn": "https://scikit-learn.org/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
}


#: In docstrings that are inherited from scikit-learn, where its manual cannot be reached.
LABELS_OF_OTHERS = {("ref", "accuracy_score"), ("ref", "r2_score")}


def is_reachable(url):
    """Whether a manual's index can be read from here."""
    try:
        with urlopen(f"{url}objects.inv", timeout=5):
            return True
    except OSError:
        return False


# Names of other packages link to their manuals where these can be reached; otherwise, and with
# ``-t offline``, they are plain text, which is no reason to warn.
if not tags.has("offline"):  # noqa: F821 (sphinx defines tags)
    with ThreadPoolExecutor(len(MANUALS)) as pool:
        found = list(pool.map(is_reachable, MANUALS.values()))
    intersphinx_mapping = {
        name: (url, None)
        for (name, url), reached in zip(MANUALS.items(), found, strict=True)
        if reached
    }


def public_object(app, env, node, contnode):
    """Link a public object that is named without its module, as `OTMap` or `OTMap.fit`."""
    domain, target = env.get_domain("py"), node.get("reftarget", "")
    if (node.get("reftype"), target) in LABELS_OF_OTHERS:
        return contnode
    for module in ("", "metrics.", "nn.", "plotting.", "pictures.", "functional."):
        name = f"skgmmot.{module}{target}"
        if node.get("refdomain") == "py" and name in domain.objects:
            page, anchor = domain.objects[name][:2]
            return make_refnode(app.builder, node["refdoc"], page, anchor, contnode, name)
    return None


def setup(app):
    """Connect the above."""
    app.connect("missing-reference", public_object)
