"""The benchmark against other programs runs, with and without them."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """What ``bench_peers.py --quick`` writes, with one peer that is there and one that need not."""
    out = tmp_path_factory.mktemp("results")
    given = ["--quick", "--only", "scikit-learn", "gmmx", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        patch.setattr(sys, "argv", ["bench_peers.py", *given])
        import bench_peers

        for name in bench_peers.ONE_THREAD:  # set for its processes, and here only meanwhile
            patch.setenv(name, "1")
        bench_peers.main()
    assert (out / "bench_peers.png").exists()
    return {
        path.stem: list(csv.DictReader(path.read_text().splitlines())) for path in out.glob("*.csv")
    }


def test_from_one_start_the_same_iterations_reach_the_same_likelihood(tables):
    rows = {r["program"]: r for r in tables["bench_peers_given"]}
    reached = [float(rows[name]["log-likelihood"]) for name in ("skgmmot", "scikit-learn")]
    np.testing.assert_allclose(*reached, rtol=1e-10)  # rounding of three iterations
    assert not any(rows[name]["failed"] for name in ("skgmmot", "scikit-learn"))


def test_what_is_not_installed_has_a_row_that_says_so(tables):
    (row,) = (r for r in tables["bench_peers_given"] if r["program"] == "gmmx")
    assert row["iteration ms"] or row["failed"]


def test_every_table_has_rows_of_both_programs(tables):
    for name in ("given", "own", "growth", "equal"):
        programs = {r["program"] for r in tables[f"bench_peers_{name}"]}
        assert {"skgmmot", "scikit-learn"} <= programs, name
