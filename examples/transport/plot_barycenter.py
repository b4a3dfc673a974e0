"""
What is the average of handwritten digits?
==========================================

The pixel-wise mean of pictures is a blur: strokes that lie a little apart do not meet. Here every
picture is a cloud of ink with a Gaussian mixture, and the average is the barycentre of these
mixtures in MW2: its components are where the strokes are on average, not everywhere that one is.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

from skgmmot import DifferentiableGaussianMixture, MixtureBarycenter, MixtureEmbedding

# %%
# Ink as points: a pixel of darkness 7 is seven points in its square.

rng = np.random.default_rng(0)
digits = load_digits()
columns, rows = np.meshgrid(np.arange(8), np.arange(8))
centres = np.c_[columns.ravel(), 7 - rows.ravel()]


def ink(picture):
    """A picture's cloud of points."""
    points = np.repeat(centres, picture.ravel().astype(int), axis=0)
    return points + rng.uniform(-0.5, 0.5, size=points.shape)


# %%
# For each digit: the mixtures of twelve pictures, and their barycentre with as many components.
# `MixtureBarycenter` is a mixture estimator, so its density can be looked at.

mixture = DifferentiableGaussianMixture(8, reg_covar=0.05, random_state=0)
embedding = MixtureEmbedding(mixture=mixture)
axis = np.linspace(-0.5, 7.5, 64)
grid = np.stack(np.meshgrid(axis, axis[::-1]), axis=-1).reshape(-1, 2)

shown = [0, 2, 3, 5, 8]
figure, axes = plt.subplots(4, len(shown), figsize=(11, 9), layout="constrained")
for label, column in zip(tqdm(shown, desc="averaging digits"), axes.T, strict=True):
    pictures = digits.images[digits.target == label][:12]
    mixtures = embedding.fit_transform([ink(picture) for picture in pictures])
    barycenter = MixtureBarycenter(8, n_init=2, random_state=0).fit(mixtures)
    density = np.exp(barycenter.score_samples(grid)).reshape(64, 64)
    one = np.exp(mixtures[0].score_samples(grid)).reshape(64, 64)
    for ax, picture in zip(column, [pictures[0], one, density, pictures.mean(0)], strict=True):
        ax.imshow(picture, cmap="gray_r")
        ax.set(xticks=[], yticks=[])

titles = ["one picture", "its mixture", "barycentre of 12", "pixel-wise mean of 12"]
for ax, title in zip(axes[:, 0], titles, strict=True):
    ax.set_ylabel(title)
for ax, label in zip(axes[0], shown, strict=True):
    ax.set_title(f"the digit {label}")
figure.savefig("barycenter.png", dpi=90)

# %%
# The barycentres are strokes of even width, smoother than any single mixture: the bends of the 2, 3
# and 5 are where they are on average. The pixel-wise means are grey wherever one of twelve pictures
# has ink. Eight components are few for an 8: its lower loop has closed in the average.
