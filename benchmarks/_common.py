"""What the benchmarks share: clocks, memory, tables."""

import csv
import ctypes
import gc
import json
import platform
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def seconds(function):
    """Wall time of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def cpu_seconds(function):
    """CPU time of one call, in all threads."""
    began = time.process_time()
    function()
    return time.process_time() - began


def peak_memory(script, *arguments):
    """What ``script --memory ARGUMENTS`` prints, in a process of its own, as a number."""
    command = [sys.executable, script, "--memory", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def peak_during(function):
    """Peak memory of a call beyond what there was, in MB: Linux's high-water mark, reset before.

    What was freed before is first given back to the system, or the call would be lent it unseen.
    """
    status = Path("/proc/self/status")

    def read(field):
        line = next(s for s in status.read_text().splitlines() if s.startswith(field))
        return int(line.split()[1]) / 1024

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = read("VmRSS")
    function()
    return read("VmHWM") - before


def machine():
    """Where this runs, in words."""
    where = f"{platform.machine()}, Python {platform.python_version()}"
    return f"{where}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else where


def markdown(table):
    """A table for people, as lines."""
    names = list(dict.fromkeys(name for row in table for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in table:
        values = [row.get(name) for name in names]
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values]
        lines.append("| " + " | ".join("" if c == "None" else c for c in cells) + " |")
    return lines


def write_csv(table, path):
    """A table for programs."""
    names = list(dict.fromkeys(name for row in table for name in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(table)


def read_csv(path):
    """What `write_csv` wrote, or nothing."""

    def value(text):
        for kind in (int, float):
            with suppress(ValueError):
                return kind(text)
        return text or None

    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [{k: value(v) for k, v in row.items()} for row in csv.DictReader(file)]
