"""Descent: known minima, the schedule, the point kept, and steps to nowhere."""

import math
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from skgmmot.numerics.minimise import (
    EPOCH,
    LBFGS,
    N_HALVINGS,
    OPTIMIZERS,
    PATIENCE,
    Adam,
    RMSprop,
    adam,
    lbfgs,
    minimise,
    rmsprop,
)

F64 = torch.float64
TARGET = torch.tensor([3.0, -2.0, 0.5], dtype=F64)
SCALES = torch.tensor([1.0, 100.0, 0.01], dtype=F64)
OPTIONS = {"tol": 1e-2, "max_iter": 2000, "learning_rate": 0.1}


def quadratic(theta):
    """Least at ``TARGET`` in the first leaf and 1 in the second."""
    return (SCALES * (theta[0] - TARGET).square()).sum() + (theta[1] - 1).square().sum()


def start():
    return torch.zeros(3, dtype=F64), torch.zeros(2, dtype=F64)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_ill_conditioned_quadratic_is_minimised(name):
    solution = minimise(quadratic, start(), optimizer=OPTIMIZERS[name], **OPTIONS)
    assert solution.converged
    assert solution.objective < 1e-2
    assert solution.objective == min(solution.objectives) == float(quadratic(solution.value))


def test_what_the_loss_does_not_depend_on_stays():
    solution = minimise(lambda theta: (theta[0] - TARGET).square().sum(), start(), **OPTIONS)
    assert (solution.value[0] - TARGET).abs().max() < 0.05
    assert torch.equal(solution.value[1], start()[1])


def test_any_optimiser_of_torch_will_do():
    solution = minimise(
        quadratic, start(), optimizer=lambda p, rate: torch.optim.LBFGS(p, lr=1.0), **OPTIONS
    )
    assert_close(solution.value[0], TARGET, rtol=0, atol=1e-3)


def test_steps_are_those_of_torch():
    leaf = torch.zeros(3, dtype=F64, requires_grad=True)
    other = torch.zeros(2, dtype=F64, requires_grad=True)
    reference = torch.optim.Adam([leaf, other], lr=0.1)
    for _ in range(EPOCH):
        reference.zero_grad()
        quadratic((leaf, other)).backward()
        reference.step()
    solution = minimise(quadratic, start(), optimizer=adam, **OPTIONS | {"max_iter": EPOCH})
    assert_close(solution.value[0], leaf.detach())
    assert solution.n_iter == EPOCH and not solution.converged


def test_the_best_point_is_kept_though_the_loss_is_another_every_time():
    generator = torch.Generator().manual_seed(0)

    def noisy(theta):
        noise = 3 * torch.randn(3, dtype=F64, generator=generator)
        return quadratic((theta[0] + noise, theta[1]))

    solution = minimise(noisy, start(), objective=lambda t: float(quadratic(t)), **OPTIONS)
    assert solution.converged
    assert solution.objective == min(solution.objectives)
    assert_close(float(quadratic(solution.value)), solution.objective)


def test_late_leaves_wait_until_the_others_stop_and_then_rates_are_halved():
    rates, held = [], []

    def recording(parameters, learning_rate):
        def record(descent, *_):
            rates.append(descent.param_groups[0]["lr"])
            held.append(bool((parameters[1] == 0).all()))

        descent = rmsprop(parameters, learning_rate)
        descent.register_step_post_hook(record)
        return descent

    solution = minimise(quadratic, start(), optimizer=recording, late=(1,), **OPTIONS)
    n_held = sum(held)
    assert all(held[:n_held]) and not any(held[n_held:])
    assert n_held >= PATIENCE * EPOCH
    assert rates[n_held] == 0.1  # they start at the full rate
    assert_close(solution.value[1], torch.ones(2, dtype=F64), atol=0.02, rtol=0)
    assert sorted(set(rates), reverse=True) == [0.1 / 2**i for i in range(N_HALVINGS + 1)]


def test_a_smaller_tolerance_takes_more_steps_to_a_smaller_value():
    def raised(theta):
        return 1 + quadratic(theta)

    options = OPTIONS | {"optimizer": adam}
    loose, tight = (minimise(raised, start(), **options | {"tol": t}) for t in (0.5, 1e-3))
    assert loose.converged and tight.converged
    assert loose.n_iter < tight.n_iter and tight.objective < loose.objective


def test_the_callback_sees_the_best_so_far_after_every_epoch():
    seen = []
    solution = minimise(quadratic, start(), callback=seen.append, **OPTIONS)
    assert [s.n_iter for s in seen] == list(range(EPOCH, solution.n_iter + 1, EPOCH))
    values = [s.objective for s in seen]
    assert values == sorted(values, reverse=True)
    assert seen[-1].objectives == solution.objectives


def test_an_interrupted_descent_has_shown_its_best_point():
    seen = []

    def interrupt(solution):
        seen.append(solution)
        if solution.n_iter == 3 * EPOCH:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimise(quadratic, start(), callback=interrupt, **OPTIONS)
    assert seen[-1].objective < float(quadratic(start()))


def test_a_step_out_of_the_domain_is_taken_back():
    # log is not a number below zero, where long steps lead
    def barrier(theta):
        return theta[0].sum() - torch.log(theta[0]).sum()

    solution = minimise(
        barrier, (torch.full((2,), 0.2, dtype=F64),), **OPTIONS | {"learning_rate": 1.0}
    )
    assert torch.isfinite(solution.value[0]).all()
    assert solution.objective < float(barrier((torch.full((2,), 0.2, dtype=F64),)))
    assert math.inf in solution.objectives or solution.converged


def test_no_steps_return_the_start():
    solution = minimise(quadratic, start(), **OPTIONS | {"max_iter": 0})
    assert solution.n_iter == 0 and not solution.converged
    for found, given in zip(solution.value, start(), strict=True):
        assert torch.equal(found, given)
    assert solution.objectives == (float(quadratic(start())),)


def test_the_start_is_left_as_it_was():
    theta0 = start()
    minimise(quadratic, theta0, **OPTIONS | {"max_iter": 20})
    assert all((t == 0).all() for t in theta0)


def test_the_environment_is_left_alone_and_no_compiler_is_loaded():
    code = """if True:
        import os, sys, torch
        from skgmmot.numerics.minimise import adam, lbfgs, minimise, rmsprop
        before, start = dict(os.environ), (torch.zeros(1),)
        options = {"tol": 0.0, "max_iter": 11, "learning_rate": 0.1}
        for optimizer in (rmsprop, adam, lbfgs):
            minimise(lambda t: (t[0] - 1).square().sum(), start, optimizer=optimizer, **options)
        assert "torch._dynamo" not in sys.modules
        sgd = lambda parameters, learning_rate: torch.optim.SGD(parameters, lr=learning_rate)
        minimise(lambda t: t[0].square().sum(), start, optimizer=sgd, **options)
        assert dict(os.environ) == before, set(os.environ) - set(before)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("light", "options"),
    [
        (RMSprop, {"lr": 0.05, "momentum": 0.5}),
        (Adam, {"lr": 0.05}),
        (LBFGS, {"max_iter": 1, "line_search_fn": "strong_wolfe"}),
    ],
)
def test_optimisers_without_the_compiler_take_the_steps_of_torchs_own(light, options):
    ends = []
    for optimizer in (light, light.__base__):
        leaves = [t.requires_grad_() for t in start()]
        descent = optimizer(leaves, **options)

        def closure(descent=descent, leaves=leaves):
            descent.zero_grad()
            with torch.enable_grad():
                value = quadratic(leaves)
            value.backward()
            return value

        for _ in range(5):
            descent.step(closure)
        ends.append(leaves)
    assert all(map(torch.equal, *ends))
    assert not torch.equal(ends[0][0], start()[0])


class Journal:
    """Keeps the states of a descent."""

    def __init__(self, loop=None):
        self.loop, self.states = loop, []

    def step(self, loop):
        self.states.append(loop)


@pytest.mark.parametrize("optimizer", [rmsprop, adam, lbfgs])
def test_a_descent_goes_on_from_any_of_its_epochs_bit_for_bit(optimizer):
    def run(journal, callback=None):
        options = {"optimizer": optimizer, "late": (1,), "journal": journal, "callback": callback}
        return minimise(quadratic, start(), **OPTIONS | options)

    def flat(solution):
        points = torch.cat([*solution.value, *solution.previous]).tolist()
        return points, solution._replace(value=None, previous=None)

    whole = Journal()
    expected = run(whole)
    assert flat(run(None)) == flat(expected)
    some = whole.states[:: max(1, len(whole.states) // 3)]
    for state in [*some, whole.states[-1]]:
        seen = []
        assert flat(run(Journal(state), seen.append)) == flat(expected)
        assert flat(seen[0]) == flat(state.best)


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("n_halvings", [0, 2])
def test_a_stage_ends_after_so_many_epochs_without_progress_and_the_last_after_one(
    patience, n_halvings
):
    least = TARGET, torch.ones(2, dtype=F64)
    options = OPTIONS | {"optimizer": lbfgs, "learning_rate": 1.0, "n_halvings": n_halvings}
    solution = minimise(quadratic, least, patience=patience, **options)
    assert solution.converged and solution.n_iter == (patience * n_halvings + 1) * EPOCH


def test_a_value_of_the_start_that_is_known_is_not_evaluated():
    points = []

    def objective(theta):
        points.append(theta[0].clone())
        return float(quadratic(theta))

    options = OPTIONS | {"objective": objective, "max_iter": EPOCH}
    expected = minimise(quadratic, start(), **options)
    found = minimise(quadratic, start(), start_value=expected.objectives[0], **options)
    assert found.objectives == expected.objectives
    assert len(points) == 3 and points[0].equal(start()[0]) and points[2].equal(points[1])


def valley(theta):
    """A curved valley, which Rosenbrock's function has."""
    x = theta[0]
    return 100 * (x[1:] - x[:-1].square()).square().sum() + (1 - x[:-1]).square().sum()


@pytest.mark.parametrize("optimizer", [rmsprop, lbfgs])
def test_a_deterministic_loss_is_not_evaluated_where_it_was_last(optimizer):
    def loss(theta):
        points.append(theta[0].detach().clone())
        return valley(theta)

    options = {"optimizer": optimizer, "max_iter": 40, "n_halvings": 0, "patience": 9}
    options["objective"] = lambda theta: float(valley(theta))
    found = []
    for deterministic in (False, True):
        points, theta0 = [], (torch.tensor([-1.2, 1.0, 0.5], dtype=F64),)
        solution = minimise(loss, theta0, deterministic=deterministic, **OPTIONS | options)
        found.append((solution.objectives, solution.value[0].tolist()))
        repeated = sum(map(torch.equal, points[1:], points[:-1]))
        # a step of L-BFGS begins where the last one ended
        assert repeated > 20 if optimizer is lbfgs and not deterministic else repeated == 0
    assert found[0] == found[1]
