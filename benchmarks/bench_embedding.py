"""Mixtures in the embedding of an adversarial autoencoder: what their samples, decoded, are worth.

The experiment of Kolouri, Rohde and Hoffmann 2018 on small pictures: an encoder, a decoder, and a
discriminator that tells pictures from their reconstructions; mixtures fitted to the embedded
pictures by EM and by the sliced distance; and samples of these, decoded. Two data sets that come
with packages: scikit-learn's digits, and the hundred faces of scikit-image, where it is installed
(``--data digits`` does without). Each seed trains networks of its own, and all methods share them.
Columns:

- *fooling rate*: share of decoded samples that the discriminator takes for real;
- *error in the embedding*: of a network trained to tell embedded pictures from samples, on held-out
  pictures and further samples; 50 % is perfect;
- *purity*: share of decoded samples that show the most frequent digit of their component, by a
  classifier trained on real pictures;
- mean log-likelihood and sliced distance of held-out embedded pictures.

Beside the methods stand the pictures themselves, which were held out, and their reconstructions.

    python benchmarks/bench_embedding.py          # five seeds, a quarter of an hour on one core
    python benchmarks/bench_embedding.py --quick  # one seed, short training

Writes ``results/bench_embedding.csv`` and ``.md`` beside this file.
"""

import argparse
import itertools
import math
import time
import warnings

import numpy as np
import torch
from _common import RESULTS, machine, markdown, write_csv
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from tqdm import tqdm, trange

from skgmmot import DifferentiableGaussianMixture, SlicedWassersteinGMM
from skgmmot.metrics import sliced_wasserstein_distance

NAME = "bench_embedding"
SEEDS, N_SAMPLES, N_PROJECTIONS = range(5), 2000, 200
#: Weight of what the discriminator says in the autoencoder's loss, beside a squared error a pixel.
ADVERSARIAL = 0.03
COLUMNS = (
    "fooling rate",
    "error in the embedding",
    "purity",
    "log-likelihood",
    "sliced distance",
    "CPU seconds",
)


# --- data --------------------------------------------------------------------------------------


def digits():
    """Pictures of digits ``(n, 1, 8, 8)`` in [0, 1], and what they show."""
    pictures, labels = load_digits(return_X_y=True)
    return torch.tensor(pictures / 16, dtype=torch.float32).view(-1, 1, 8, 8), labels


def faces():
    """The hundred faces of scikit-image ``(100, 1, 24, 24)``, without labels."""
    from skimage.data import lfw_subset

    found = torch.tensor(lfw_subset()[:100, :24, :24], dtype=torch.float32).unsqueeze(1)
    return found, None


#: By name: function of data, features of the embedding, components, and epochs of training.
DATA = {"digits": (digits, 8, 10, 100), "faces": (faces, 4, 4, 200)}


# --- networks ----------------------------------------------------------------------------------


def encoder_of(size, n_outputs, n_levels):
    """Convolutions that halve a picture so many times, and a linear layer."""
    widths = [1, *(32 * 2**level for level in range(n_levels))]
    layers = []
    for narrow, wide in itertools.pairwise(widths):
        layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
    flat = widths[-1] * (size // 2**n_levels) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, n_outputs))


def decoder_of(size, n_inputs, n_levels):
    """The same in reverse."""
    widths = [*(32 * 2**level for level in reversed(range(n_levels))), 1]
    side = size // 2**n_levels
    layers = [nn.Linear(n_inputs, widths[0] * side**2), nn.Unflatten(1, (widths[0], side, side))]
    for wide, narrow in itertools.pairwise(widths):
        layers += [nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
    return nn.Sequential(*layers, nn.Sigmoid())


def adversarial_autoencoder(pictures, n_features, n_epochs):
    """Encoder, decoder and discriminator, trained in turns."""
    size = pictures.shape[-1]
    n_levels = int(math.log2(size / 2))
    encoder = encoder_of(size, n_features, n_levels)
    decoder = decoder_of(size, n_features, n_levels)
    discriminator = encoder_of(size, 1, n_levels)
    descent = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    ascent = torch.optim.Adam(discriminator.parameters(), lr=5e-4, betas=(0.5, 0.999))
    for _ in trange(n_epochs, desc="autoencoder", leave=False):
        for batch in pictures[torch.randperm(len(pictures))].split(100):
            made = decoder(encoder(batch))
            # of real pictures log D, of reconstructions log (1 - D), both to be large
            real, fake = discriminator(batch), discriminator(made.detach())
            step(ascent, softplus(-real).mean() + softplus(fake).mean())
            error = (made - batch).square().mean()
            step(descent, error + ADVERSARIAL * softplus(-discriminator(made)).mean())
    return encoder, decoder, discriminator


def step(optimiser, loss):
    """One step of descent."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def error_of_a_network(real, made, real_held_out, made_held_out, seed):
    """Share of errors, on what was held out, of a network that tells real from made points."""
    torch.manual_seed(seed)
    X = torch.tensor(np.concatenate([real, made]), dtype=torch.float32)
    y = torch.tensor([0.0] * len(real) + [1.0] * len(made))
    network = nn.Sequential(
        nn.Linear(X.shape[1], 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
    )
    descent = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(60):
        for rows in torch.randperm(len(X)).split(250):
            step(descent, binary_cross_entropy_with_logits(network(X[rows])[:, 0], y[rows]))
    return 0.5 * float((network(as_floats(real_held_out)) > 0).float().mean()) + 0.5 * float(
        (network(as_floats(made_held_out)) <= 0).float().mean()
    )


def as_floats(X):
    """Points for a network."""
    return torch.as_tensor(X, dtype=torch.float32)


# --- methods -----------------------------------------------------------------------------------

#: Runs of each fit. The sliced fit compares its two with EM from k-means, so EM has three.
SLICED_RUNS, EM_RUNS = 2, 3
REG = 1e-4


def em(Z, K, seed, **options):
    """EM, run to its end from several starts."""
    options = {"n_init": EM_RUNS, "max_iter": 500, "reg_covar": REG, "random_state": seed} | options
    return DifferentiableGaussianMixture(K, **options).fit(Z)


def sliced(Z, K, seed, **options):
    """The sliced fit."""
    options = {"n_init": SLICED_RUNS, "reg_covar": REG, "random_state": seed} | options
    return SlicedWassersteinGMM(K, **options).fit(Z)


METHODS = {
    "EM, random responsibilities": lambda *given: em(*given, init_params="random"),
    "EM, k-means": em,
    "sliced": sliced,
    "sliced then EM": lambda *given: sliced(*given, refine="em"),
}


# --- a seed ------------------------------------------------------------------------------------


class Judges:
    """Networks trained with one seed on pictures of which a quarter is held out.

    The hundred faces are too few for a discriminator: of real ones that it has not seen it takes
    none for real, or all, by seed. Rates of faces mean little; digits show what they are for.
    """

    def __init__(self, pictures, labels, n_features, n_epochs, seed):
        self.seed = seed
        torch.manual_seed(seed)
        rows = train_test_split(
            np.arange(len(pictures)), test_size=0.25, stratify=labels, random_state=seed
        )
        self.inside, self.outside = (pictures[r] for r in rows)
        networks = adversarial_autoencoder(self.inside, n_features, n_epochs)
        self.encoder, self.decoder, self.discriminator = (net.eval() for net in networks)
        self.Z, self.Z_held_out = self.encoded(self.inside), self.encoded(self.outside)
        self.classifier = None
        if labels is not None:
            self.classifier = SVC().fit(self.inside.flatten(1), labels[rows[0]])
            accuracy = self.classifier.score(self.outside.flatten(1), labels[rows[1]])
            tqdm.write(
                f"seed {seed}: the classifier is right in {accuracy:.1%} of held-out pictures"
            )

    @torch.no_grad()
    def encoded(self, pictures):
        """Embedded pictures ``(n, d)``."""
        return self.encoder(pictures).double().numpy()

    @torch.no_grad()
    def decoded(self, Z):
        """Pictures of points."""
        return self.decoder(as_floats(Z))

    @torch.no_grad()
    def fooling_rate(self, pictures):
        """Share that the discriminator takes for real."""
        return float((self.discriminator(pictures) > 0).float().mean())

    def purity(self, pictures, components):
        """Share of pictures that show the most frequent digit of their component."""
        if self.classifier is None:
            return None
        found = self.classifier.predict(pictures.flatten(1))
        counts = [np.bincount(found[components == k]).max() for k in np.unique(components)]
        return float(sum(counts) / len(found))

    def of_mixture(self, fit):
        """All columns of a fitted mixture, without its time."""
        samples, components = fit.sample(len(self.Z) + N_SAMPLES)
        order = np.random.default_rng(self.seed).permutation(len(samples))
        samples, components = samples[order], np.asarray(components)[order]
        first, rest = samples[: len(self.Z)], samples[len(self.Z) :]
        pictures = self.decoded(rest)
        return {
            "fooling rate": self.fooling_rate(pictures),
            "error in the embedding": error_of_a_network(
                self.Z, first, self.Z_held_out, rest, self.seed
            ),
            "purity": self.purity(pictures, components[len(self.Z) :]),
            "log-likelihood": float(fit.score(self.Z_held_out)),
            "sliced distance": sliced_wasserstein_distance(
                fit, self.Z_held_out, n_projections=N_PROJECTIONS, random_state=0
            ),
        }

    def of_pictures(self):
        """Names and columns of the held-out pictures, and of their reconstructions."""
        yield "pictures", {"fooling rate": self.fooling_rate(self.outside)}
        made = self.decoded(self.Z_held_out)
        yield "reconstructions", {"fooling rate": self.fooling_rate(made)}


def rows_of(name, seed, quick):
    """Yield rows of one data set and seed."""
    load, n_features, K, n_epochs = DATA[name]
    pictures, labels = load()
    judges = Judges(pictures, labels, n_features, 10 if quick else n_epochs, seed)
    for method, columns in judges.of_pictures():
        yield {"data": name, "seed": seed, "method": method, **columns}
    for method, fit_to in METHODS.items():
        began = time.process_time()
        fit = fit_to(judges.Z, K, seed)
        spent = time.process_time() - began
        columns = judges.of_mixture(fit) | {"CPU seconds": spent}
        yield {"data": name, "seed": seed, "method": method, **columns}


# --- results -----------------------------------------------------------------------------------


def summary(rows):
    """Mean and standard deviation over seeds, a row for each data set and method."""
    for data, method in dict.fromkeys((row["data"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["method"]) == (data, method)]
        found = {"data": data, "method": method, "seeds": len(mine)}
        for column in COLUMNS:
            values = [row[column] for row in mine if row.get(column) is not None]
            if values:
                spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
                found[column] = f"{np.mean(values):.3f}{spread}"
        yield found


def write(rows):
    """Write all results so far."""
    RESULTS.mkdir(exist_ok=True)
    write_csv(rows, RESULTS / f"{NAME}.csv")
    lines = [
        "# Mixtures in the embedding of an adversarial autoencoder",
        "",
        f"Written by `python benchmarks/{NAME}.py` on {machine()}, on one thread.",
        "",
        "Mean and standard deviation over seeds, each with networks of its own that all methods",
        f"share. EM has {EM_RUNS} runs, the sliced fit {SLICED_RUNS} and EM's fit from k-means to",
        "compare with. *Fooling rate*: share of decoded samples that the autoencoder's",
        "discriminator takes for real. *Error in the embedding*: of a network trained to tell",
        "embedded pictures from samples; 0.5 is perfect. *Purity*: share of decoded samples that",
        "show the most frequent digit of their component, by a classifier of real ones.",
        "Log-likelihood and sliced distance are those of held-out pictures.",
        "",
        *markdown(list(summary(rows))),
    ]
    (RESULTS / f"{NAME}.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=list(DATA), nargs="+", default=list(DATA))
    parser.add_argument("--quick", action="store_true", help="one seed, short training")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    torch.set_num_threads(1)
    rows = []
    for name in args.data:
        for seed in tqdm(SEEDS[:1] if args.quick else SEEDS, desc=name):
            rows += rows_of(name, seed, args.quick)
            write(rows)


if __name__ == "__main__":
    main()
