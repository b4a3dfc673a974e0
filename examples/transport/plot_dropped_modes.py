"""
Which score notices that a generator drops modes?
=================================================

Generators are scored by Frechet's distance (FID): that of two Gaussians with the means and
covariances of real and of generated samples. What leaves these as they are it cannot see. MW2
compares mixtures, and so also what lies within the cloud.

The real samples are eight groups on a ring. A generator makes four of them, every second one, more
and more rarely: the mean and the covariance of its distribution stay exactly the same.
"""

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture
from skgmmot.metrics import MixtureFrechetDistance

N_SAMPLES, N_REPEATS = 4000, 5

# %%
# The generators. ``share`` of the samples come from the four groups that are dropped; half would be
# right. The last one is a single Gaussian, of the same mean and covariance again.

angles = 2 * np.pi * np.arange(8) / 8
centres = 5 * np.column_stack([np.cos(angles), np.sin(angles)])


def ring(share, rng):
    """Samples of the ring."""
    group = 2 * rng.integers(4, size=N_SAMPLES) + (rng.random(N_SAMPLES) < share)
    return centres[group] + 0.5 * rng.normal(size=(N_SAMPLES, 2))


def gaussian(rng):
    """Samples of a Gaussian."""
    return rng.normal(scale=np.sqrt(5**2 / 2 + 0.5**2), size=(N_SAMPLES, 2))


# %%
# The scores. Without a reference the metric is Frechet's distance, squared as FID is. With a
# mixture fitted to real samples it is squared MW2 between two mixtures: the reference, after one
# iteration of EM on real and on generated samples.


def frechet_or_mw2(real, generated, n_components):
    """The metric of real and generated samples."""
    mixture = DifferentiableGaussianMixture(n_components, random_state=0).fit(real)
    metric = MixtureFrechetDistance(mixture if n_components > 1 else None)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return metric.compute().item()


scores = {"Frechet": 1, "MW2, 2 components": 2, "MW2, 8 components": 8, "MW2, 20 components": 20}
shares = np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
rng = np.random.default_rng(0)
values = {name: np.empty((len(shares), N_REPEATS)) for name in scores}
for row, share in enumerate(tqdm(shares, desc="generators")):
    for column in range(N_REPEATS):
        real, generated = ring(0.5, rng), ring(share, rng)
        for name, n_components in scores.items():
            values[name][row, column] = frechet_or_mw2(real, generated, n_components)

real = ring(0.5, rng)
for share, *row in zip(shares, *(v.mean(axis=1) for v in values.values()), strict=True):
    found = ", ".join(f"{name} {x:.2f}" for name, x in zip(values, row, strict=True))
    print(f"{share:.0%} from the four groups: {found}")

# %%
# Above, samples with their scores (MW2 with eight components). Below, the scores of generators that
# drop the four groups more and more. Frechet's distance stays at what two draws of the real samples
# give. MW2 grows with the share of samples that would have to move to a neighbouring group. Two
# components see that something is missing, eight and more also see where.
#
# Between two draws of the real samples MW2 is not zero either, but 0.5 to 0.6: the groups never
# hold exactly an eighth of the samples. Compare generators by the same number of samples.

figure, axes = plt.subplot_mosaic("0123;4444", figsize=(13, 8.2), layout="constrained")
pictures = {
    "real samples": real,
    "generator with all groups": ring(0.5, rng),
    "every second group is missing": ring(0.0, rng),
    "one Gaussian": gaussian(rng),
}
for ax, (name, X) in zip(axes.values(), pictures.items(), strict=False):
    ax.scatter(*X[:1500].T, s=2, color="0.3")
    ax.set(title=name, xlim=(-8, 8), ylim=(-8, 8), aspect="equal", xticks=[], yticks=[])
    if name != "real samples":
        frechet, mw2 = frechet_or_mw2(real, X, 1), frechet_or_mw2(real, X, 8)
        ax.set_xlabel(f"Frechet {frechet:.2f}, MW2 {mw2:.2f}", fontsize="large")
        print(f"{name}: Frechet {frechet:.2f}, MW2 {mw2:.2f}")

for (name, drawn), marker in zip(values.items(), "osD^", strict=True):
    mean = drawn.mean(axis=1)
    error = mean - drawn.min(axis=1), drawn.max(axis=1) - mean
    style = {"color": "black", "linestyle": "--"} if name == "Frechet" else {}
    axes["4"].errorbar(100 * shares, mean, error, marker=marker, capsize=3, label=name, **style)
axes["4"].invert_xaxis()
axes["4"].set(
    title=f"scores of {N_SAMPLES} samples: mean and range of {N_REPEATS} draws",
    xlabel="% of generated samples in the four groups (50: as in the real ones; 0: dropped)",
    ylabel="squared distance",
)
axes["4"].legend()
figure.savefig("dropped_modes.png", dpi=90)
plt.show()
