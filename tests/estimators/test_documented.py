"""Links from the HTML view of an estimator to its page."""

from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.utils import estimator_html_repr

import skgmmot
from skgmmot.estimators import documented

ESTIMATORS = [
    cls
    for cls in vars(skgmmot).values()
    if isinstance(cls, type) and issubclass(cls, BaseEstimator)
]


#: Estimators that need arguments.
MADE = {
    "AdaptedClassifier": lambda: skgmmot.AdaptedClassifier(skgmmot.OTMap(), LogisticRegression())
}


@pytest.fixture
def published(monkeypatch):
    """A package with an address for its documentation."""
    message = Message()
    message["Project-URL"] = "Source, https://example.org/code"
    message["Project-URL"] = "Documentation, https://example.org/docs/"
    monkeypatch.setattr(metadata, "metadata", lambda name: message)
    documented.address.cache_clear()
    yield
    documented.address.cache_clear()


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_the_view_links_to_the_page_of_the_reference(cls, published):
    link = f"https://example.org/docs/generated/skgmmot.{cls.__name__}.html"
    estimator = MADE.get(cls.__name__, cls)()
    assert estimator._get_doc_link() == link and link in estimator_html_repr(estimator)
    reference = (Path(skgmmot.__file__).parents[1] / "doc" / "api.rst").read_text()
    assert f"\n   {cls.__name__}\n" in reference


def test_estimators_of_users_have_no_link(published):
    class OfAUser(skgmmot.OTMap):
        pass

    assert OfAUser()._get_doc_link() == ""


@pytest.mark.parametrize("installed", [True, False])
def test_without_an_address_there_is_no_link(installed, monkeypatch):
    def found(name):
        if not installed:
            raise metadata.PackageNotFoundError(name)
        return Message()

    monkeypatch.setattr(metadata, "metadata", found)
    documented.address.cache_clear()
    assert skgmmot.OTMap()._get_doc_link() == ""
    assert "generated/" not in estimator_html_repr(skgmmot.OTMap())
    documented.address.cache_clear()
