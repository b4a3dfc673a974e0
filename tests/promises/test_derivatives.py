"""Derivatives of all that is differentiable, against differences with control of their error.

At mixtures in general position and where formulas that divide by differences of eigenvalues, by
eigenvalues or by weights would fail: equal covariances, isotropic ones, ones of low rank, weights
of zero (from the side where weights are), equal mixtures. A covariance is given by a factor,
``S = B B^T``: so a singular one stays one.
"""

import warnings

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from promises.problems import SEEDS, generator, normal, random_samples
from promises.slopes import assert_slopes

import skgmmot
import skgmmot.functional as F
from skgmmot import metrics, nn
from skgmmot.gaussian.mixture import GaussianMixtureParams

#: Closed forms and envelopes: differences of values that are right to rounding.
CLOSED = 1e-6
#: Of plans with entropy or penalties, solved to a gap of 1e-8, and of cells.
SOLVED = 1e-5
#: Of slices: envelopes of a value that has errors of nodes.
NODES = 1e-4
#: Through fits: `gradient_tol` is 1e-9, and values are converged to 1e-12.
FITTED = 1e-5

#: For what takes a tenth of a second or more: an example is some twenty values.
rarely = settings(max_examples=max(3, settings().max_examples // 4))

# --- mixtures and their parameters ---------------------------------------------------------------

TYPES = st.sampled_from(["full", "tied", "diag", "spherical", "lowrank"])
#: Where covariances are: in general position, all equal, isotropic, with two equal eigenvalues.
PLACES = ["general", "equal", "isotropic", "degenerate"]


def built(name, w, m, B):
    """A mixture of weights, means and factors of covariances ``(K, d, d)``."""
    if name == "lowrank":
        return GaussianMixtureParams(w, m, torch.cat([B[..., :1], B[..., 1:2].square()], -1), name)
    storage = {
        "full": lambda: B @ B.mT,
        "tied": lambda: B[:1] @ B[:1].mT,
        "diag": lambda: B[..., 0].square(),
        "spherical": lambda: B[..., :1, 0].square(),
    }
    return GaussianMixtureParams(w, m, storage[name](), name)


def parameters(K, d, of, place="general", *, rank=None):
    """Weights, means and factors of a random mixture, at some place."""
    w, m = normal(K, of=of).mul(0.5).softmax(0), normal(K, d, of=of)
    d_factors = max(d, 2)  # of low rank, the second column is the variances' root
    B = 0.6 * normal(K, d, d_factors, of=of) + torch.eye(d, d_factors, dtype=torch.float64)
    B[..., 1] = B[..., 1].abs() + 0.3 * (B[..., 1] >= 0)
    B[..., 0] = B[..., 0].abs() + 0.3
    if place == "equal":
        B = B[:1].repeat(K, 1, 1)
    if place in ("isotropic", "degenerate"):
        scale = torch.ones(d, dtype=torch.float64)
        if place == "degenerate":
            scale[0] = 0.5
        turns = torch.linalg.qr(normal(K, d, d, of=of))[0]
        B = torch.nn.functional.pad(turns * scale, (0, d_factors - d))
    if rank is not None:
        B[..., rank:] = 0.0
    return w, m, B


def directions_like(w, m, B, of):
    """A random way to go: weights keep their sum, and those that are zero grow."""
    dw = w * normal(len(w), of=of)
    dw = torch.where(w > 0, dw, 0.3)
    dw = dw - torch.where(w > 0, w, 0.0) * dw.sum()
    dB = torch.where(B == 0, 0.0, 1.0) * normal(*B.shape, of=of)
    return dw, normal(*m.shape, of=of), dB


# --- densities -----------------------------------------------------------------------------------


def moments(found):
    """All numbers of a mixture."""
    return torch.cat([t.flatten() for t in (found.weights, found.means, found.covariances)])


OF_A_MIXTURE = {
    "log_density": lambda mu, X: F.log_density(mu, X),
    "log_responsibilities": lambda mu, X: F.log_responsibilities(mu, X),
    "responsibilities": lambda mu, X: F.responsibilities(mu, X),
    "em_step": lambda mu, X: moments(F.em_step(mu, X, reg_covar=1e-3)),
    "entropic_ot_objective": lambda mu, X: F.entropic_ot_objective(mu, X),
    "balanced": lambda mu, X: F.entropic_ot_objective(mu, X, balanced=True),
    "marginal": lambda mu, X: moments(F.marginal(mu, [0])) + 0 * X.sum(),
    "condition": lambda mu, X: moments(F.condition(mu, X[0, :1], [0])),
    "to_torch": lambda mu, X: F.to_torch(mu).log_prob(X),
    "rsample": lambda mu, X: F.rsample(mu, 20, generator=generator(0))[0] + 0 * X.sum(),
}
#: Those of a plan between components and samples.
OBJECTIVES = {
    "entropic_ot_objective": OF_A_MIXTURE["entropic_ot_objective"],
    "balanced": OF_A_MIXTURE["balanced"],
    "plan_step": lambda mu, X: F.plan_step(mu, X),
    "plan_objective": lambda mu, X: F.plan_objective(F.plan_step(mu, X).detach(), mu, X),
    "mixture_step": lambda mu, X: moments(F.mixture_step(F.plan_step(mu, X), mu, X)),
}
OF_A_MIXTURE |= OBJECTIVES
#: What is not defined for covariances of low rank.
ELEMENTARY_ONLY = ("condition", "to_torch", "em_step")


@pytest.mark.parametrize("name", OF_A_MIXTURE)
@given(SEEDS, st.integers(2, 3), TYPES, st.sampled_from(PLACES))
def test_functions_of_a_mixture_and_samples(name, seed, d, of_type, place):
    if of_type == "lowrank" and name in ELEMENTARY_ONLY:
        of_type = "full"
    of = generator(seed)
    given = parameters(3, d, of, place)
    X = 1.5 * normal(8, d, of=of)
    ways = *directions_like(*given, of), normal(8, d, of=of)

    def function(w, m, B, X):
        return OF_A_MIXTURE[name](built(of_type, w, m, B), X)

    assert_slopes(function, (*given, X), ways, tol=CLOSED)


#: Where a component without weight has a derivative. (After an M-step it stays where it was.)
AT_ZERO = ["log_density", "responsibilities", *list(OBJECTIVES)[:4]]


@pytest.mark.parametrize("name", AT_ZERO)
@given(SEEDS, st.sampled_from(["full", "tied", "diag", "spherical"]))
def test_functions_of_a_mixture_where_a_weight_is_zero(name, seed, of_type):
    of = generator(seed)
    w, m, B = parameters(3, 2, of)
    w = torch.cat([w[:2] / w[:2].sum(), w.new_zeros(1)])
    # where g_k / p is large, differences see the slope at zero from very near only
    broad = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    m, B, X = 0.3 * m, 0.3 * B + broad, 0.5 * normal(8, 2, of=of)

    def function(w, m, B):
        if name == "plan_objective":  # infinite for another plan
            plan = F.plan_step(built(of_type, *zero), X)
            return F.plan_objective(plan, built(of_type, w, m, B), X)
        return OF_A_MIXTURE[name](built(of_type, w, m, B), X)

    zero = w, m, B

    ways = directions_like(w, m, B, of)
    assert_slopes(function, (w, m, B), ways, tol=CLOSED, one_sided=True)


# --- distances -----------------------------------------------------------------------------------


def lines(d):
    return F.directions("quasi", 7, d, generator=generator(0))


def sliced(mu, nu):
    return F.sliced_wasserstein_between(mu, nu, lines(mu.means.shape[1]), n_nodes=100)


def of_plan(**options):
    return lambda mu, nu: F.transport_plan(mu, nu, **options).cost


DISTANCES = {
    "costs": (F.cost_matrix, CLOSED),
    "exact": (of_plan(), CLOSED),
    "entropic": (of_plan(reg=0.7), SOLVED),
    "unbalanced": (of_plan(reg_m=2.0), SOLVED),
    "semi-relaxed": (of_plan(reg_m=(2.0, float("inf"))), SOLVED),
    "both": (of_plan(reg=0.7, reg_m=2.0), SOLVED),
    "debiased": (lambda mu, nu: F.debiased_cost(mu, nu, reg=5.0), SOLVED),
    "sliced": (sliced, NODES),
    "MSW": (lambda mu, nu: metrics.sliced_mixture_wasserstein(mu, nu, n_projections=7), CLOSED),
}


@pytest.mark.parametrize("name", DISTANCES)
@rarely
@given(SEEDS, st.integers(2, 3), TYPES, TYPES, st.sampled_from([*PLACES, "rank", "weight"]))
def test_distances(name, seed, d, source, target, place):
    function, tol = DISTANCES[name]
    of = generator(seed)
    rank = 1 if place == "rank" else None
    kept = place if place in PLACES else "general"
    one, other = (parameters(3, d, of, kept, rank=rank) for _ in range(2))
    if place == "rank":  # of these types, one factor is of low rank
        source = target = "full"
    if place == "equal":
        other = *other[:2], one[2]
    if place == "weight":
        w = one[0]
        one = torch.cat([w[:2] / w[:2].sum(), w.new_zeros(1)]), *one[1:]

    def distance(*given):
        return function(built(source, *given[:3]), built(target, *given[3:]))

    ways = *directions_like(*one, of), *directions_like(*other, of)
    assert_slopes(distance, (*one, *other), ways, tol=tol, one_sided=place == "weight")


# --- closed forms, and values by convention ------------------------------------------------------


@given(SEEDS, st.integers(1, 4), st.sampled_from(["general", "equal", "isotropic", "line", "zero"]))
def test_distances_between_gaussians_have_the_gradient_of_the_optimal_map(seed, d, place):
    """``I - A``, with ``A`` the map by eigenvalues; the pseudo-inverse where the source is thin."""
    of = generator(seed)
    B, C = (normal(d, d, of=of) + torch.eye(d, dtype=torch.float64) for _ in range(2))
    S, T = B @ B.mT, C @ C.mT
    if place == "equal":
        T = S.clone()
    if place == "isotropic":
        S, T = (torch.eye(d, dtype=torch.float64) * c for c in (1.0, 4.0))
    if place in ("line", "zero"):  # the target's rank may be any
        T = torch.zeros_like(S) if place == "zero" else torch.outer(C[0], C[0])
    S.requires_grad_()
    m = torch.zeros(1, d, dtype=torch.float64)
    F.bures_wasserstein_squared(m, S.unsqueeze(0), m, T.unsqueeze(0)).sum().backward()
    values, vectors = torch.linalg.eigh(S.detach())
    root, inverse = ((vectors * values**p) @ vectors.mT for p in (0.5, -0.5))
    values, vectors = torch.linalg.eigh(root @ T @ root)
    middle = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    A = inverse @ middle @ inverse
    expected = torch.eye(d, dtype=torch.float64) - A
    condition = float(torch.linalg.cond(S.detach()))
    assert (S.grad - expected).abs().max() <= 1e-7 * condition * (1 + float(A.abs().max()))


OF_EQUAL = {
    "MW2": lambda mu, nu: skgmmot.MixtureWasserstein()(mu, nu),
    "MW2 squared": lambda mu, nu: skgmmot.MixtureWasserstein(squared=True)(mu, nu),
    "penalised": lambda mu, nu: skgmmot.MixtureWasserstein(reg_m=2.0)(mu, nu),
    "sliced": lambda mu, nu: metrics.sliced_wasserstein_distance(mu, nu, n_projections=7),
    "MSW": lambda mu, nu: metrics.sliced_mixture_wasserstein(mu, nu, n_projections=7),
    "DSMW": lambda mu, nu: metrics.sliced_mixture_wasserstein(mu, nu, slicing="dsmw"),
}


@pytest.mark.parametrize("name", OF_EQUAL)
@rarely
@given(SEEDS, st.integers(1, 4), TYPES, st.booleans())
def test_distances_of_equal_mixtures_have_no_gradient(name, seed, d, of_type, empty):
    of = generator(seed)
    w, m, B = parameters(3, d, of)
    if empty:
        w = torch.cat([w[:2] / w[:2].sum(), w.new_zeros(1)])
    leaves = [t.clone().requires_grad_() for t in built(of_type, w, m, B)]
    mu = GaussianMixtureParams(*leaves, of_type)
    value = OF_EQUAL[name](mu, built(of_type, w, m, B))
    value.backward()
    assert value == 0
    assert all(t.grad is None or not t.grad.any() for t in leaves)


# --- samples -------------------------------------------------------------------------------------

OF_SAMPLES = {
    "frechet": lambda X, Y, mu: metrics.frechet_distance(X, Y, squared=True),
    "sliced": lambda X, Y, mu: F.sliced_wasserstein_of_samples(X, Y, lines(X.shape[1])),
    "sliced from a mixture": lambda X, Y, mu: F.sliced_wasserstein(mu, X, lines(X.shape[1])),
    "exactly": lambda X, Y, mu: F.sliced_wasserstein(mu, X, lines(X.shape[1]), exact=True),
    "layer's loss": lambda X, Y, mu: nn.MixtureWassersteinLoss(mu, 1, gradient="implicit")(X),
}


@pytest.mark.parametrize("name", OF_SAMPLES)
@rarely
@given(SEEDS, st.integers(2, 3), st.booleans())
def test_functions_of_samples(name, seed, d, flat):
    """Also where samples span no volume, if that has a distance."""
    of = generator(seed)
    w, m, B = parameters(2, d, of)
    X, Y = normal(12, d, of=of), normal(10, d, of=of)
    ways = [normal(*t.shape, of=of) for t in (X, Y)]
    if flat and name in ("frechet", "sliced"):
        X, Y = X[:d], Y[:d]
        ways = [way[:d] for way in ways]

    def function(X, Y):
        return OF_SAMPLES[name](X, Y, built("full", w, m, B))

    tol = NODES if name == "sliced from a mixture" else SOLVED
    assert_slopes(function, (X, Y), ways, tol=tol, kinks=True)  # samples change places on a line


@rarely
@given(SEEDS, st.sampled_from(["grid", "plane", "space", "nodes"]))
def test_semidiscrete_distances(seed, kind):
    of = generator(seed)
    d = {"space": 3, "nodes": 3}.get(kind, 2)
    w, m, B = parameters(2, d, of)
    points, masses = 1.5 * normal(4, d, of=of), normal(4, of=of).mul(0.3).softmax(0)
    image = normal(4, 4, of=of).exp()

    def function(w, m, B, points, masses, image):
        density = built("full", w, m, B)
        if kind == "grid":
            density = skgmmot.GridDensity(image)
        options = {"integration": "exact" if kind == "space" else "auto", "n_nodes": 64}
        if kind == "grid":
            points = 0.5 + 0.2 * points
        return skgmmot.semidiscrete_distance(density, points, masses, squared=True, **options)

    inputs = w, m, B, points, masses, image
    ways = [*directions_like(w, m, B, of), *(normal(*t.shape, of=of) for t in inputs[3:])]
    ways[4] = masses * (ways[4] - masses @ ways[4])
    tol = 3e-3 if kind == "nodes" else SOLVED  # a programme of nodes is smooth piece by piece
    assert_slopes(function, inputs, ways, tol=tol)


# --- fits ----------------------------------------------------------------------------------------

#: Of each gradient: implicit ones and the values they belong to are those of polished fits, and
#: automatic ones those of so many iterations.
FIT = {
    "implicit": {"tol": 1e-6, "max_iter": 3000, "reg_covar": 1e-3, "gradient_tol": 1e-9},
    "automatic": {"tol": 0.0, "max_iter": 60, "reg_covar": 1e-3},
}


def fit_problem(seed, d, of_type, n=30):
    """Samples, weights, and a mixture to start from."""
    of = generator(seed)
    X, a = random_samples(n, 2, d, of), normal(n, of=of).mul(0.5).exp()
    w, _, B = parameters(2, d, of)
    return X, a, built(of_type, w, X[:2].clone(), B), of


@settings(max_examples=max(5, settings().max_examples // 2))  # half a second each
@given(
    SEEDS,
    st.integers(1, 2),
    st.sampled_from(["full", "tied", "diag", "spherical"]),
    st.sampled_from(["implicit", "automatic"]),
    st.sampled_from([{}, {"fixed_weights": True}, {"prior": "auto"}, {"zero": True}]),
)
def test_fits(seed, d, of_type, gradient, extra):
    """In samples and their weights, of which some are zero; right, or with a warning."""
    X, a, start, of = fit_problem(seed, d, of_type)
    zero = torch.arange(len(a)) < (5 if "zero" in extra else 0)
    a = torch.where(zero, 0.0, a)
    options = {name: value for name, value in extra.items() if name != "zero"}

    def function(X, a):
        if not X.requires_grad:
            return moments(value_near(X, a, start, gradient, options))
        return moments(F.fit_em(start, X, a, gradient=gradient, **FIT[gradient], **options).value)

    da = normal(len(a), of=of)
    ways = normal(*X.shape, of=of), torch.where(zero, da.abs(), a * da)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert_slopes(function, (X, a), ways, tol=FITTED, one_sided="zero" in extra)
        except AssertionError:  # where components coincide, nothing determines their weights
            if not any(issubclass(w.category, F.InexactGradientWarning) for w in caught):
                raise


def value_near(X, a, start, gradient, options):
    """The fit for differences: polished, as that with an implicit gradient is, or rejected."""
    X = X.clone().requires_grad_(gradient == "implicit")
    with torch.enable_grad(), warnings.catch_warnings(action="ignore"):
        warnings.simplefilter("error", F.InexactGradientWarning)
        try:
            return F.fit_em(start, X, a, gradient=gradient, **FIT[gradient], **options).value
        except F.InexactGradientWarning:
            reject()


@settings(max_examples=max(1, settings().max_examples // 10))  # a matrix each
@given(SEEDS, st.sampled_from(["full", "diag"]))
def test_second_derivatives(seed, of_type):
    """Of densities, and of fits through all their iterations."""
    X, _, start, _ = fit_problem(seed, 2, of_type, n=6)
    X.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda X: F.log_density(start, X).sum(), X)

    def loss(X):
        options = {"gradient": "automatic", "tol": 0.0, "max_iter": 3, "reg_covar": 0.1}
        with warnings.catch_warnings(action="ignore"):
            return F.fit_em(start, X, **options).value.means.square().sum()

    assert torch.autograd.gradgradcheck(loss, X, atol=1e-4)
