"""What ``import skgmmot`` costs beside torch and scikit-learn, on which it stands.

Each import is a process of its own; the imports take turns, and medians of their CPU times are
compared, without that of starting Python.

    python benchmarks/bench_import.py            # about four minutes
    python benchmarks/bench_import.py --quick    # few repeats, seconds

Writes ``results/bench_import.csv`` and ``.md`` beside this file.
"""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import sklearn
import torch
from _common import RESULTS, machine, markdown, write_csv

START, PEER = "pass", "import torch, sklearn.mixture"
STATEMENTS = [START, "import torch", "import torch, sklearn", PEER, "import skgmmot"]
#: Python files are compiled by the first of them.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def cpu_seconds(statement):
    """CPU time of a process that runs a statement, in all its threads."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def rows(repeats):
    """Median CPU seconds of each import, and the ratio to that of what it stands on."""
    spent = {statement: [] for statement in STATEMENTS}
    for repeat in range(repeats + 1):
        for statement in STATEMENTS:
            spent[statement].append(cpu_seconds(statement))
            if not repeat:  # compiles
                spent[statement].clear()
    medians = {statement: float(np.median(values)) for statement, values in spent.items()}
    for statement in STATEMENTS[1:]:
        alone = medians[statement] - medians[START]
        ratio = alone / (medians[PEER] - medians[START])
        yield {"statement": f"`{statement}`", "CPU s": alone, "ratio": ratio}


def write(table, repeats):
    """Write all results."""
    RESULTS.mkdir(exist_ok=True)
    write_csv(table, RESULTS / "bench_import.csv")
    lines = [
        "# The import, beside those of torch and scikit-learn",
        "",
        f"Written by `python benchmarks/bench_import.py` on {machine()}; torch",
        f"{torch.__version__}, scikit-learn {sklearn.__version__}, one thread. Medians of",
        f"{repeats} processes each, in turns, without that of starting Python. ratio: to `{PEER}`.",
        "",
        *markdown(table),
    ]
    (RESULTS / "bench_import.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats")
    repeats = 3 if parser.parse_args().quick else 15
    table = list(rows(repeats))
    print(*markdown(table), sep="\n")
    write(table, repeats)


if __name__ == "__main__":
    main()
