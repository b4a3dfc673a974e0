"""
Can MW2 train a generator of digits?
====================================

A small network turns normal noise into pictures of digits. Its loss is ``MW2^2`` between the
mixture fitted to a minibatch of its pictures and the mixture of the real ones. There is no second
network as in adversarial training, and the loss is simply minimised.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import Linear, ReLU, Sequential, Sigmoid
from torch.nn.functional import pad
from tqdm import trange

from skgmmot.nn import MixtureWassersteinLoss

# pixels that are nearly always white are meant to be widened by reg_covar
warnings.filterwarnings("ignore", message="reg_covar must be small")

# %%
# The digits, 8 x 8 pixels in [0, 1]; the generator; and the loss. A minibatch of 500 is too small
# for covariances of 64 features, so the 40 components have variances only; that they are many
# keeps the pictures sharp. Their weights are free: the generator has to draw each of them as often
# as it occurs. One iteration of EM a step follows the generator.

digits = load_digits()
real = torch.tensor(digits.data / 16, dtype=torch.float32)
torch.manual_seed(0)
N_NOISE, N_STEPS = 8, 800
generator = Sequential(
    Linear(N_NOISE, 256), ReLU(), Linear(256, 256), ReLU(), Linear(256, 64), Sigmoid()
)
loss = MixtureWassersteinLoss(
    real,
    n_components=40,
    covariance_type="diag",
    fixed_weights=False,
    reg_covar=0.01,
    random_state=0,
)

# %%
# Training, in steps that become smaller.

optimiser = torch.optim.Adam(generator.parameters(), lr=2e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, N_STEPS)
values = []
for _ in trange(N_STEPS, desc="training"):
    optimiser.zero_grad()
    value = loss(generator(torch.randn(500, N_NOISE)))
    value.backward()
    optimiser.step()
    schedule.step()
    values.append(value.item())

# %%
# Real and generated digits, and which digits a classifier of real ones takes them for.
#
# Most can be read, and all ten digits occur about as often as among the real ones. Some are blends
# of two digits: a continuous network cannot jump from one to the next, and the components'
# variances leave room for what lies between. (The paper does the same with larger pictures; it
# gives no details to compare.)

with torch.no_grad():
    generated = generator(torch.randn(2000, N_NOISE))
classifier = KNeighborsClassifier().fit(real.numpy(), digits.target)
labels = classifier.predict(generated.numpy())

BLUE, ORANGE = "#1f4e9c", "#f39c34"
figure = plt.figure(figsize=(12, 7), layout="constrained")
pictures, curves = figure.subfigures(1, 2, width_ratios=[1, 1])
batches = {"real digits": real, "generated digits": generated}
for ax, (name, batch) in zip(pictures.subplots(2, 1), batches.items(), strict=True):
    framed = pad(batch[:60].view(60, 8, 8), (1, 1, 1, 1)).view(6, 10, 10, 10)
    ax.imshow(framed.permute(0, 2, 1, 3).reshape(60, 100), cmap="gray_r", vmin=0, vmax=1)
    ax.set_title(name)
    ax.axis("off")
upper, lower = curves.subplots(2, 1)
upper.semilogy(values, color=BLUE)
upper.set(title="training", xlabel="step", ylabel="$MW_2^2$ of a minibatch to the digits")
bars = [(-0.2, "real", digits.target, BLUE), (0.2, "generated", labels, ORANGE)]
for offset, name, found, color in bars:
    shares = np.bincount(found, minlength=10) / len(found)
    lower.bar(np.arange(10) + offset, 100 * shares, width=0.4, label=name, color=color)
    print(f"{name}: shares of {shares.min():.1%} to {shares.max():.1%}")
lower.set(title="how often is each digit drawn?", xticks=range(10), ylim=(0, 17))
lower.set(xlabel="digit, by a classifier of real ones", ylabel="share (%)")
lower.legend(ncols=2)
figure.savefig("digits_generator.png", dpi=110)
