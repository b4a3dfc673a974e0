"""Links from the HTML view of an estimator to its page in the documentation."""

import functools
from importlib import metadata

#: The page of an estimator, below the address of the documentation.
PAGE = "generated/skgmmot.{estimator_name}.html"


@functools.cache
def address() -> str:
    """The address of the documentation, from the package's metadata; empty where it has none.

    The one place is ``Documentation`` among the ``[project.urls]`` of ``pyproject.toml``.
    """
    try:
        urls = metadata.metadata("skgmmot").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return ""
    by_name = dict(url.split(", ", 1) for url in urls)
    return by_name.get("Documentation", "").rstrip("/")


class Documented:
    """Mixin of estimators whose HTML view links to their page, where there is an address."""

    _doc_link_module = "skgmmot"

    @property
    def _doc_link_template(self) -> str:
        """scikit-learn's name for the address of the page; empty shows no link."""
        return f"{address()}/{PAGE}" if address() else ""
