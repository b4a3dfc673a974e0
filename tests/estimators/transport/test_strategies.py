"""The mean and the random image of a sample."""

import numpy as np
from two_mixtures import SOURCE, TARGET, draw

from skgmmot import ot_map


def test_the_random_map_reproduces_the_target(random_seed):
    transport = ot_map(SOURCE, TARGET, strategy="random", random_state=random_seed)
    mapped, target = (
        transport.transform(draw(SOURCE, 60_000, seed=10 * random_seed)),
        draw(TARGET, 60_000, seed=1 + 10 * random_seed),
    )
    assert np.allclose(mapped.mean(0), target.mean(0), atol=0.08)
    assert np.allclose(np.cov(mapped.T), np.cov(target.T), atol=0.15)


def test_the_mean_map_keeps_the_mean_and_shrinks_a_split_component(random_seed):
    source = ([1.0], [[0.0, 0.0]], [np.eye(2)])
    X = draw(source, 60_000, seed=10 * random_seed)
    images = {
        m: ot_map(source, TARGET, strategy=m, random_state=random_seed) for m in ("mean", "random")
    }
    images = {m: t.transform(X) for m, t in images.items()}
    target = draw(TARGET, 60_000, seed=1 + 10 * random_seed)
    assert np.allclose(images["mean"].mean(0), target.mean(0), atol=0.1)
    assert images["mean"].std(0)[0] < 0.5 * target.std(0)[0]
    assert np.allclose(images["random"].std(0), target.std(0), rtol=0.03)


def test_what_is_drawn_for_a_sample_depends_on_its_row_alone():
    X = draw(SOURCE, 40_000)
    transport = ot_map(SOURCE, TARGET, strategy="random", random_state=0)
    whole = transport.transform(X)
    for n in (1, 2, 7, 30_001):
        assert np.allclose(transport.transform(X[:n]), whole[:n])
    other = ot_map(SOURCE, TARGET, strategy="random", random_state=1).transform(X)
    assert np.mean(np.abs(other - whole).max(axis=1) > 1e-9) > 0.2
    assert len(np.unique(whole[:, 0])) == len(X)
