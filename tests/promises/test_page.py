"""The page of promises names the tests of this folder."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parent.parent / "doc" / "promises.rst").read_text()


def test_the_tests_that_are_named_are_those_that_there_are():
    named = set(re.findall(r"``(test_\w+\.py)``", PAGE))
    assert {path.name for path in HERE.glob("test_*.py")} == named | {Path(__file__).name}
