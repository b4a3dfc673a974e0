"""
Can patches carry a style from one picture to another?
======================================================

A picture is changed by gradient descent until mixtures fitted to its patches, at three scales, are
close to those of a style picture, while it stays close to the content picture where both are made
smaller (the last application of
:term:`Boite, Tanguy, Delon, Desolneux and Flamary 2025`):

.. math:: \\min_x \\; \\sum_s MW_2^2(\\text{patches}_s(x), \\text{patches}_s(\\text{style}))
          + \\lambda \\, |\\text{shrink}(x) - \\text{shrink}(\\text{content})|^2.

No neural network is involved; :ref:`sphx_glr_auto_examples_gradient_plot_style_network.py` has one.
"""

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import avg_pool2d
from tqdm import trange

from skgmmot import DifferentiableGaussianMixture, OTMap
from skgmmot.datasets import load_photograph
from skgmmot.nn import MultiscalePatchLoss

# %%
# The content is a part of a photograph, the style the petals of another, both 96 x 96 pixels.


def part(name, rows, columns):
    """A part of a photograph, made smaller by two, channels first."""
    return avg_pool2d(torch.tensor(load_photograph(name)[rows, columns]).permute(2, 0, 1), 2)


content = part("china", slice(120, 312), slice(130, 322))
styles = {
    "petals": part("flower", slice(60, 252), slice(180, 372)),
    "leaves": part("china", slice(150, 342), slice(448, 640)),
}

# %%
# Descent from the content in the colours of the style, moved there by `OTMap`. The content counts
# as its brightness, in the range of the style's, made smaller by two.

CONTENT_WEIGHT, N_STEPS = 150.0, 45


def recoloured(style):
    """The content in the colours of the style."""
    pixels, palette = (image.flatten(1).T.numpy() for image in (content, style))
    mixture = DifferentiableGaussianMixture(2, random_state=0)
    moved = OTMap(palette, mixture=mixture, random_state=0).fit(pixels).transform(pixels)
    return torch.tensor(moved.clip(0, 1)).T.reshape(content.shape)


def brightness(image):
    """The mean of the channels, made smaller."""
    return avg_pool2d(image.mean(0, keepdim=True), 2)


def transferred(style):
    """The content in a style, and the loss of each step."""
    loss = MultiscalePatchLoss(style, scales=(1, 2, 4), patch_size=4, random_state=0)
    start = recoloured(style)
    image = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([image], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, N_STEPS)
    values = []
    for _ in trange(N_STEPS, desc="style transfer"):
        optimiser.zero_grad()
        of_style = loss(image)
        apart = brightness(image) - brightness(start)
        value = of_style + CONTENT_WEIGHT * apart.square().mean()
        value.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(0, 1)
        values.append(of_style.item())
    return image.detach(), values


results = {name: transferred(style) for name, style in styles.items()}

# %%
# The colours and the fine structure are those of the style; what stands where is the content's.

figure, axes = plt.subplots(2, 3, figsize=(10, 6.6), layout="constrained")
for (name, style), column in zip(styles.items(), (1, 2), strict=True):
    result, values = results[name]
    axes[0, column].imshow(style.permute(1, 2, 0))
    axes[0, column].set_title(f"style: {name}")
    axes[1, column].imshow(result.permute(1, 2, 0))
    axes[1, column].set_title("content in that style")
    axes[1, 0].semilogy(values, "-" if name == "petals" else "--", label=name)
    print(f"{name}: distance of the patches {values[0]:.3f} before, {values[-1]:.3f} after")
axes[0, 0].imshow(content.permute(1, 2, 0))
axes[0, 0].set_title("content")
for ax in axes.flat:
    if ax is not axes[1, 0]:
        ax.axis("off")
axes[1, 0].set(title="patches to those of the style", xlabel="step", ylabel="sum of squared MW2")
axes[1, 0].legend()
figure.savefig("style_transfer.png", dpi=100)
