"""
A generator of digits trained with MW2
======================================

A small network turns normal noise into pictures of digits. Its loss is ``MW2^2`` between the
mixture fitted to a minibatch of its pictures and the mixture of the real ones. There is no second
network as in adversarial training, and the loss is simply minimised.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import Linear, ReLU, Sequential, Sigmoid
from torch.nn.functional import pad
from tqdm import trange

from skgmmot.nn import MixtureWassersteinLoss

# %%
# The digits, 8 x 8 pixels in [0, 1]; the generator; and the loss. A minibatch of 500 is too small
# for covariances of 64 features, so the 20 components have variances only. One iteration of EM a
# step follows the generator; its weights are fixed.

digits = load_digits()
real = torch.tensor(digits.data / 16, dtype=torch.float32)
torch.manual_seed(0)
generator = Sequential(
    Linear(16, 256), ReLU(), Linear(256, 256), ReLU(), Linear(256, 64), Sigmoid()
)
loss = MixtureWassersteinLoss(
    real,
    n_components=20,
    covariance_type="diag",
    fixed_weights=True,
    gradient="one_step",
    max_iter=1,
    reg_covar=0.01,
    random_state=0,
)

# %%
# Training.

optimiser = torch.optim.Adam(generator.parameters(), lr=1e-3)
values = []
for _ in trange(600, desc="training"):
    optimiser.zero_grad()
    value = loss(generator(torch.randn(500, 16)))
    value.backward()
    optimiser.step()
    values.append(value.item())

# %%
# Real and generated digits, and which digits a classifier of real ones takes them for.
#
# Most can be read, and all ten digits are there, in unequal shares: fixed weights do not count
# them. Some are blends of two digits: a continuous network cannot jump from one to the next, and
# the components' variances leave room for what lies between. (The paper does the same with larger
# pictures; it gives no details to compare.)

with torch.no_grad():
    generated = generator(torch.randn(2000, 16))
classifier = KNeighborsClassifier().fit(real.numpy(), digits.target)
labels = classifier.predict(generated.numpy())

figure = plt.figure(figsize=(12, 6.5), layout="constrained")
pictures, curves = figure.subfigures(1, 2, width_ratios=[1, 1])
for ax, name, batch in zip(
    pictures.subplots(2, 1), ["real", "generated"], [real, generated], strict=True
):
    framed = pad(batch[:48].view(48, 8, 8), (1, 1, 1, 1)).view(4, 12, 10, 10)
    ax.imshow(framed.permute(0, 2, 1, 3).reshape(40, 120), cmap="gray_r")
    ax.set_title(name)
    ax.axis("off")
upper, lower = curves.subplots(2, 1)
upper.semilogy(values)
upper.set(title="$MW_2^2$ of a minibatch to the digits", xlabel="step")
for offset, name, found in [(-0.2, "real", digits.target), (0.2, "generated", labels)]:
    shares = np.bincount(found, minlength=10) / len(found)
    lower.bar(np.arange(10) + offset, shares, width=0.4, label=name)
lower.set(title="share of each digit", xticks=range(10))
lower.legend()
figure.savefig("digits_generator.png", dpi=110)
