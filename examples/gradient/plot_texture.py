"""
A texture from the patches of another
=====================================

A texture is characterised by its patches. Here a random picture is changed until mixtures fitted
to its patches, at three scales at once, are those fitted to the patches of a texture: gradient
descent on the sum of ``MW2^2`` over the scales. No neural network is involved.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import trange

from skgmmot.datasets import load_photograph
from skgmmot.nn import MultiscalePatchLoss

# %%
# The texture: a tree before the sky, 64 x 64 pixels; and its patches of 4 x 4 pixels, of pictures
# made smaller by factors of 1, 2 and 4.

texture = load_photograph("china")[196:260, 570:634]
FACTORS = [1, 2, 4]

# %%
# The start: a stationary Gaussian field with the texture's mean and covariances. White noise,
# filtered by the texture itself.

rng = np.random.default_rng(0)
noise = np.fft.fft2(rng.normal(size=texture.shape[:2]))[..., None]
filtered = np.fft.fft2(texture - texture.mean((0, 1)), axes=(0, 1)) * noise
field = np.fft.ifft2(filtered, axes=(0, 1)).real / texture[..., 0].size ** 0.5
field += texture.mean((0, 1))

# %%
# The loss: at each scale a mixture of four components of fixed weights, and one iteration of EM a
# step, from the fit of the step before.

target = torch.tensor(texture).permute(2, 0, 1)
loss = MultiscalePatchLoss(target, scales=FACTORS, patch_size=4, random_state=0)
image = torch.tensor(field).permute(2, 0, 1).requires_grad_()
optimiser = torch.optim.Adam([image], lr=0.015)
values = []
for _ in trange(100, desc="texture"):
    optimiser.zero_grad()
    by_scale = loss.by_scale(image)
    sum(by_scale).backward()
    optimiser.step()
    values.append([value.item() for value in by_scale])

# %%
# The texture, the start, and where it ended.
#
# The start has the colours' mean and covariances and no more. At the end the sky shines through in
# bright clumps between leaves, as in the texture: a mixture of four components can tell the two
# apart, and one Gaussian cannot. What lies beyond the reach of patches, the trunk for one, is not
# there. The coarsest scale has few patches, 169 in 48 dimensions, and comes down least.

figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained")
pictures = {"texture": texture, "start": field, "end": image.detach().permute(1, 2, 0).numpy()}
for ax, (name, picture) in zip(axes, pictures.items(), strict=False):
    ax.imshow(picture.clip(0, 1))
    ax.set_title(name)
    ax.axis("off")
axes[3].semilogy(values, label=[f"scale 1/{factor}" for factor in FACTORS])
axes[3].set(title="$MW_2^2$ between patches", xlabel="step")
axes[3].legend()
figure.savefig("texture.png", dpi=110)
