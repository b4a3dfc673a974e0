"""Estimators with a mixture inside, ``mixture=None`` being a default one."""

from abc import abstractmethod
from typing import Any, Self


class DefaultMixture:
    """Base of estimators whose ``mixture`` may be None: its parameters can be set all the same."""

    mixture: Any

    @abstractmethod
    def _default_mixture(self):
        """The unfitted mixture that is used where ``mixture`` is None."""

    def set_params(self, **params: Any) -> Self:
        """Set parameters.

        Parameters
        ----------
        **params : dict
            Parameters by name, those of ``mixture`` as ``mixture__name``. Where ``mixture`` is
            None, they are set on the default mixture, which then becomes ``mixture``.

        Returns
        -------
        estimator
            Itself.

        Raises
        ------
        ValueError
            For an unknown parameter.
        """
        inner = {n: value for n, value in params.items() if n.startswith("mixture__")}
        own = {n: value for n, value in params.items() if n not in inner}
        super().set_params(**own)  # type: ignore[misc]  # scikit-learn's
        if self.mixture is not None or not inner:
            return super().set_params(**inner)  # type: ignore[misc]
        mixture = self._default_mixture()
        mixture.set_params(**{n.removeprefix("mixture__"): value for n, value in inner.items()})
        self.mixture = mixture
        return self
