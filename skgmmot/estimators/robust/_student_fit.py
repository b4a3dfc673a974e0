"""Fits of mixtures of Student-t distributions: what is otherwise than for Gaussians."""

import torch

from skgmmot.estimators.mixtures._em_fit import EMFit, OutOfCoreFit
from skgmmot.fitting.robust.noise import clear_of_noise
from skgmmot.fitting.robust.student import LEAST, MOST, StudentMixtureParams
from skgmmot.fitting.robust.student_fit import MAX_TAPE, STUDENT, StudentEM

#: Degrees of freedom that EM starts from where they are estimated.
START = 10.0


class _OfStudents:
    """What a fit of t distributions does otherwise than one of Gaussians."""

    def _e_step(self):
        return STUDENT

    def _iteration(self, samples, origin):
        e = self.estimator
        return StudentEM(samples, origin, e.reg_covar, e.degrees_of_freedom is None)

    def _gradient(self, X, sample_weight):
        found, e = super()._gradient(X, sample_weight), self.estimator
        size = X.numel() * e.n_components
        if (found is not None or e.certify) and size > MAX_TAPE:
            what, instead = "a gradient", "detached ones"
            if found is None:
                what, instead = "a fit with certify=True", "set certify=False"
            raise ValueError(
                f"{what} must be of at most {MAX_TAPE} numbers n K d, got {size}: it holds one "
                f"iteration over all samples. Pass fewer samples, or {instead}."
            )
        return found

    def _cleared(self, em):
        e = self.estimator
        return (em if callable(e.init_params) else clear_of_noise(em, e.n_components)[0]), 0.0

    def _whole(self, theta, given, share=None, *, warm=False):
        e = self.estimator
        nu = check_degrees(e.degrees_of_freedom, e.n_components)
        if nu is None and warm and hasattr(e, "degrees_of_freedom_"):
            nu = e._degrees().detach().clamp(LEAST, MOST)  # perhaps given before, and infinite
        nu = torch.full_like(theta.weights, START) if nu is None else nu.to(theta.weights)
        theta = theta._replace(weights=theta.weights / theta.weights.sum())
        return StudentMixtureParams(*theta, nu, theta.covariance_type)

    def show(self, solution):
        super().show(solution)
        self.estimator._set_degrees(solution.value.degrees_of_freedom, self.kind)

    def _gap(self, solution):
        """None: entropic transport is that to Gaussians."""


class StudentFit(_OfStudents, EMFit):
    """EM on samples in memory."""


class StudentOutOfCoreFit(_OfStudents, OutOfCoreFit):
    """EM on samples that are not in memory."""

    def __init__(self, estimator, samples, kind):
        if estimator.certify:
            raise ValueError(
                "certify must be False for samples out of memory, got True: it holds one iteration "
                "over all samples. Pass fewer samples, in memory, or set certify=False."
            )
        super().__init__(estimator, samples, kind)


def check_degrees(given, n_components: int) -> torch.Tensor | None:
    """Validate degrees of freedom; return them for each component, or None if they are to be found.

    Parameters
    ----------
    given : float, array-like of shape (n_components,) or None
        What a user writes.
    n_components : int
        K.

    Returns
    -------
    Tensor of shape (n_components,) or None
        In float64.

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If one is not positive, or their shape is another.
    """
    if given is None:
        return None
    try:
        nu = torch.as_tensor(given)
        if nu.dtype == torch.bool or nu.is_complex():
            raise TypeError("truth values or complex numbers")
        nu = nu.detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"degrees_of_freedom must be None, a number or one for each component, got {given!r}. "
            "Pass positive floats."
        ) from error
    if nu.ndim and nu.shape != (n_components,):
        raise ValueError(
            f"degrees_of_freedom must be a number or have shape ({n_components},), one for each "
            f"component, got shape {tuple(nu.shape)}. Match n_components."
        )
    if not (nu > 0).all():
        raise ValueError(
            f"degrees_of_freedom must be positive, got {float(nu.min()):.6g}. Use 1 for Cauchy "
            "tails, about 4 for heavy ones, and infinity for a Gaussian."
        )
    return nu.expand(n_components).clone()
