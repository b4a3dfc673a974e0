"""The examples run, on any two pictures, and show what they promise."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skgmmot import DifferentiableGaussianMixture, OTMap
from skgmmot.datasets import load_photograph

EXAMPLES = Path(__file__).parents[1] / "examples"


#: Every example but the colour transfer, which the tests below run with arguments.
SCRIPTS = sorted(EXAMPLES.glob("*/plot_*.py"))


def run(*arguments, cwd, script=EXAMPLES / "plot_color_transfer.py"):
    """Run an example as a user would."""
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_an_example_runs_and_draws(script, tmp_path):
    done = run(cwd=tmp_path, script=script)
    assert done.returncode == 0, done.stderr
    (figure,) = tmp_path.glob("*.png")
    with Image.open(figure) as image:
        assert image.width > 800


@pytest.mark.parametrize("folder", {p.parent for p in SCRIPTS}, ids=lambda p: p.name)
def test_a_folder_of_examples_has_a_header_for_the_gallery(folder):
    assert (folder / "GALLERY_HEADER.rst").read_text().strip()


def test_the_colour_transfer_takes_any_two_pictures(tmp_path, rng):
    for name, low in [("a.png", 0), ("b.png", 120)]:
        pixels = rng.integers(low, low + 100, size=(40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    done = run(
        "--source",
        "a.png",
        "--target",
        "b.png",
        "--out",
        "c.png",
        "--n-components",
        2,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "MW2 between the two palettes: 0." in done.stdout
    assert "mapping every pixel: 100%" in done.stderr
    with Image.open(tmp_path / "c.png") as figure:
        assert figure.width > 1000


def test_a_grey_picture_is_refused_in_plain_words(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    done = run("--source", "grey.png", cwd=tmp_path)
    assert done.returncode == 2
    assert "grey.png must be an RGB image, got mode 'L'" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("--out", "nowhere/c.png", cwd=tmp_path)
    assert "--out must be in a folder that exists, got nowhere/c.png" in done.stderr


@pytest.mark.parametrize("method", ["mean", "random"])
def test_the_photograph_takes_the_palette_of_the_target(method):
    source, target = (load_photograph(n)[::2, ::2].reshape(-1, 3) for n in ("china", "flower"))
    mixture = DifferentiableGaussianMixture(10, reg_covar=1e-4, random_state=0)
    mapped = OTMap(target, mixture=mixture, method=method, random_state=0).fit_transform(source)
    assert np.abs(mapped.mean(0) / target.mean(0) - 1).max() < 0.01
    spread = mapped.std(0) / target.std(0) - 1
    if method == "random":
        assert np.abs(spread).max() < 0.02
    else:
        # a mean over the targets of a split component is narrower than they are: inherent
        assert (spread > -0.25).all() and (spread < 0).all()


def test_a_red_card_in_the_target_reddens_the_balanced_map_alone():
    source, target = (load_photograph(n)[::4, ::4] for n in ("china", "flower"))
    target[10:60, 100:155] = np.random.default_rng(0).normal(
        [0.85, 0.05, 0.08], 0.03, size=(50, 55, 3)
    )
    mixture = DifferentiableGaussianMixture(10, reg_covar=1e-4, random_state=0)
    taken = []
    for reg_m in (None, (10, 0.1)):
        transport = OTMap(target.reshape(-1, 3), mixture=mixture, reg_m=reg_m)
        transport.fit(source.reshape(-1, 3))
        is_card = np.abs(transport.target_mixture_.means_ - [0.85, 0.05, 0.08]).max(axis=1) < 0.05
        taken.append(transport.plan_[:, is_card].sum())
    assert taken[0] > 0.15
    assert taken[1] < 0.02
