"""Mixture estimators as scikit-learn's and torch's, and back."""

import inspect
from typing import Any, Self

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from sklearn.utils._param_validation import InvalidParameterError, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from skgmmot.gaussian import torch_distributions
from skgmmot.gaussian.covariance.registry import ELEMENTARY_TYPES

#: Parameters that follow from the mixture.
FROM_MIXTURE = {"n_components", "covariance_type"}


class Interchange:
    """What mixture estimators have to become those of other packages, and to come from them."""

    def to_sklearn(self) -> GaussianMixture:
        """Return the fitted mixture as an estimator of scikit-learn.

        Returns
        -------
        sklearn.mixture.GaussianMixture
            Fitted, with the attributes that it has too, as arrays; it predicts the same, to
            rounding. It gets the parameters that both have, where it accepts their values.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If the components are no Gaussians.
        ValueError
            If a covariance is singular, or the mixture has noise beside its components.

        See Also
        --------
        sklearn.mixture.GaussianMixture : The class.

        Examples
        --------
        >>> from skgmmot import DifferentiableGaussianMixture
        >>> mixture = DifferentiableGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [9.0]])
        >>> mixture.to_sklearn()
        GaussianMixture(n_components=2, random_state=0)
        """
        check_is_fitted(self, "means_")
        self._check_gaussian("a GaussianMixture", "to_sklearn")
        theta = torch_distributions.in_elementary(self._params().detach())
        covariance_type, shown = self._shown_elementary(theta)
        other = GaussianMixture(**_shared(self, GaussianMixture))
        other.set_params(n_components=len(theta.weights), covariance_type=covariance_type.name)
        own = {name: value for name, value in vars(self).items() if name in OF_A_FIT}
        for name, value in (own | shown).items():
            setattr(other, name, _as_numpy(value))
        return other

    def _check_gaussian(self, what: str, method: str) -> None:
        """Refuse a mixture that others have not: here one with noise beside its components."""
        if (share := float(getattr(self, "noise_weight_", 0.0))) > 0:
            raise ValueError(
                f"the mixture must be without noise to become {what}, got noise of weight "
                f"{share:.3g}. Make a mixture of its components by from_parameters."
            )

    def _shown_elementary(self, theta) -> tuple:
        """The elementary type of the mixture and its attributes in that."""
        own = self._covariance().base
        if own in ELEMENTARY_TYPES:  # also where another type is the same model
            covariance, factors = own, self._prepared(theta.means).factors
        else:
            covariance, factors = theta.covariance_type, theta.prepare().factors
        factors = factors.to(theta.means)
        return covariance, {
            "weights_": theta.weights,
            "means_": theta.means,
            "covariances_": covariance.to_public(theta.covariances),
            "precisions_cholesky_": covariance.to_public(factors),
            "precisions_": covariance.to_public(covariance.precisions(factors)),
        }

    @classmethod
    def from_sklearn(cls, mixture: GaussianMixture, **parameters: Any) -> Self:
        """Return a fitted mixture of scikit-learn as an estimator of this class.

        Parameters
        ----------
        mixture : sklearn.mixture.GaussianMixture
            A fitted mixture.
        **parameters : dict
            Other parameters of this class, such as ``gradient``.

        Returns
        -------
        MixtureEstimator
            Fitted, with copies of its attributes, and with the parameters that both have where
            this class accepts their values. It predicts the same, to rounding.

        Raises
        ------
        TypeError
            If it is an estimator of another class, or for an unknown parameter.
        NotFittedError
            If it is not fitted.

        Examples
        --------
        >>> from sklearn.mixture import GaussianMixture
        >>> from skgmmot import DifferentiableGaussianMixture
        >>> mixture = GaussianMixture(2, random_state=0).fit([[0.0], [1.0], [9.0]])
        >>> DifferentiableGaussianMixture.from_sklearn(mixture)
        DifferentiableGaussianMixture(n_components=2, random_state=0)
        """
        if not isinstance(mixture, GaussianMixture):
            raise TypeError(
                "mixture must be a GaussianMixture of scikit-learn, got "
                f"{type(mixture).__name__}. Use from_parameters with its weights_, means_ and "
                "covariances_."
            )
        check_is_fitted(mixture, "means_")
        shape = {"n_components": len(mixture.weights_), "covariance_type": mixture.covariance_type}
        found = cls(**_shared(mixture, cls) | shape | parameters)
        for name, value in vars(mixture).items():
            if name in OF_A_FIT or name in OF_A_MIXTURE:
                copied = value.copy() if isinstance(value, np.ndarray | list) else value
                setattr(found, name, copied)
        return found

    def to_torch(self) -> torch.distributions.MixtureSameFamily:
        """Return the fitted mixture as a distribution of torch.

        Returns
        -------
        torch.distributions.MixtureSameFamily
            With the numbers of the present attributes, in their dtype; where they are tensors that
            require a gradient, on their graph. Weights are divided by their sum.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If the components are no Gaussians.
        ValueError
            If a covariance is singular, or the mixture has noise beside its components.

        See Also
        --------
        skgmmot.functional.to_torch : The same for mixtures that are values.

        Examples
        --------
        >>> from skgmmot import DifferentiableGaussianMixture
        >>> mixture = DifferentiableGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [9.0]])
        >>> mixture.to_torch().sample((4,)).shape
        torch.Size([4, 1])
        """
        check_is_fitted(self, "means_")
        self._check_gaussian("a MixtureSameFamily", "to_torch")
        return torch_distributions.to_torch(self._params().map(torch.clone))

    @classmethod
    def from_torch(cls, distribution: torch.distributions.Distribution, **parameters: Any) -> Self:
        """Return a distribution of torch as an estimator of this class.

        Parameters
        ----------
        distribution : torch.distributions.MixtureSameFamily or MultivariateNormal
            A mixture of Gaussians, or one Gaussian; see `skgmmot.functional.from_torch`.
        **parameters : dict
            Parameters of this class, such as ``random_state``.

        Returns
        -------
        MixtureEstimator
            Fitted, as by `from_parameters`: its attributes are arrays, or tensors where one
            requires a gradient (they stay on its graph) or is not on the CPU.

        Raises
        ------
        TypeError
            If it is another distribution, or for an unknown parameter.
        ValueError
            If it has batches.
        """
        weights, means, covariances = found = torch_distributions.from_torch(distribution)
        covariance_type = found.covariance_type
        shown = covariance_type.to_public(covariances)
        return cls.from_parameters(weights, means, shown, covariance_type.name, **parameters)


#: Attributes of mixtures, and of their fits, that ours and scikit-learn's have by the same names.
OF_A_MIXTURE = {"weights_", "means_", "covariances_", "precisions_cholesky_", "precisions_"}
OF_A_FIT = {
    *("converged_", "n_iter_", "lower_bound_", "lower_bounds_"),
    *("n_features_in_", "feature_names_in_"),
}


def _shared(estimator, cls) -> dict:
    """The parameters of an estimator that another class has and accepts."""
    accepted, constraints = inspect.signature(cls).parameters, cls._parameter_constraints
    found = {}
    for name, value in estimator.get_params(deep=False).items():
        if name not in accepted or name in FROM_MIXTURE:
            continue
        value = _as_numpy(value)
        try:
            validate_parameter_constraints(
                {name: constraints[name]}, {name: value}, caller_name=cls.__name__
            )
        except InvalidParameterError:
            continue
        found[name] = value
    return found


def _as_numpy(value):
    """A tensor as an array of its own; anything else as it is."""
    return value.detach().cpu().numpy().copy() if isinstance(value, torch.Tensor) else value
