r"""Stepwise EM: one M-step a block of samples, from a running average of the E-step's sums.

With :math:`\bar s(\text{block}; \theta)` the sums of a block at the current mixture, divided by the
block's weight, and a step :math:`0 < \eta_t \le 1`,

.. math:: S_{t+1} = (1 - \eta_t) S_t + \eta_t \bar s(\text{block}_t; \theta_t), \qquad
    \theta_{t+1} = \operatorname{M-step}(S_{t+1}).

The sums are centred at the current means: when those move, the running sums are centred anew.
"""

from skgmmot.fitting.em.constraint import constraint_of
from skgmmot.fitting.em.step import m_step
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.gaussian.statistics import Statistics


def stepwise_step(
    theta: GaussianMixtureParams,
    running: Statistics,
    block: Statistics,
    eta: float,
    reg_covar: float = 0.0,
    *,
    fixed_weights: bool = False,
) -> tuple[GaussianMixtureParams, Statistics]:
    """Average a block's sums into the running ones, and read the next mixture off the average.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The current mixture, at whose means both sums are centred.
    running : Statistics
        The running sums, of weight one.
    block : Statistics
        The E-step's sums over the block at ``theta``, divided by the sum of its samples' weights.
    eta : float
        The step, between 0 (the block is left out) and 1 (only the block counts, which makes this
        an iteration of EM on it).
    reg_covar : float, default=0.0
        Added to the variances.
    fixed_weights : bool, default=False
        Whether the weights stay those of ``theta``.

    Returns
    -------
    theta : GaussianMixtureParams
        The next mixture. A component without samples keeps its mean and covariance.
    running : Statistics
        The new running sums, of weight one and centred at the next means.

    References
    ----------
    .. [1] Cappe and Moulines 2009, the online EM recursion.
    """
    pairs = zip(running, block, strict=True)
    running = Statistics(*((1 - eta) * old + eta * new for old, new in pairs))
    constraint = constraint_of(
        theta.covariance_type,
        len(theta.weights),
        weights=fixed_weights,
        device=theta.weights.device,
    )
    theta_next = m_step(theta, running, reg_covar, constraint)
    moved = theta.means - theta_next.means
    return theta_next, running.recentred(moved, theta.covariance_type.base)


def step_size(n_blocks: int, decay: float, share: float = 1.0) -> float:
    r"""Return the step with which a block enters the running average.

    .. math:: \eta_t = (t + 2)^{-\alpha}, \qquad
        \frac{\eta}{1 - \eta} = r \, \frac{\eta_t}{1 - \eta_t},

    for the block t of relative weight r: a block of half the weight counts half as much against
    what has been averaged before. The average then spans the last :math:`2 t^\alpha` blocks or so.

    Parameters
    ----------
    n_blocks : int
        The number t of blocks before this one, at least 1.
    decay : float
        The exponent, above 0.5 and at most 1.
    share : float, default=1.0
        The block's weight over the mean weight of the blocks before it, r.

    Returns
    -------
    float
        The step, between 0 and 1.

    References
    ----------
    .. [1] Cappe and Moulines 2009, who have blocks of one sample.
    """
    eta = (n_blocks + 2.0) ** -decay
    return share * eta / (1.0 - eta + share * eta)


def implied_statistics(theta: GaussianMixtureParams, reg_covar: float = 0.0) -> Statistics:
    """Return sums of weight one, centred at its means, off which the M-step reads a mixture.

    Parameters
    ----------
    theta : GaussianMixtureParams
        The mixture.
    reg_covar : float, default=0.0
        What the M-step adds to the variances, and is taken off them here.

    Returns
    -------
    Statistics
        The sums that its samples would have; their log-likelihood is NaN, which nothing implies.
    """
    weights, means, covariances = theta.in_base()
    base = theta.covariance_type.base
    added = base.from_root(covariances.new_zeros(covariances.shape), reg_covar)
    return Statistics(
        mass=weights,
        shift=means.new_zeros(means.shape),
        scatter=base.each(base.total(weights)) * (covariances - added),
        log_likelihood=means.new_full((), float("nan")),
    )
