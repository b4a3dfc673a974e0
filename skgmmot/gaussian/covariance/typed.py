"""Tensors together with the covariance type that they are of: values, and pytrees of torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from operator import attrgetter

from torch import Tensor
from torch.utils import _pytree


class TypedTensors(Sequence):
    """Base of frozen dataclasses whose fields are tensors and, last, their ``covariance_type``.

    They iterate over their tensors. With `as_pytree` torch walks them too, as in `torch.func.grad`:
    the tensors are leaves, and the covariance type is part of the structure.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._tensors(self))

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index):
        return self._tensors(self)[index]

    def map(self, function: Callable[..., Tensor], *others: "TypedTensors"):
        """Apply a function to each tensor.

        Parameters
        ----------
        function : callable
            ``function(tensor, ...)``, of one tensor of this value and one of each of the others.
        *others : TypedTensors
            Other values of this class.

        Returns
        -------
        TypedTensors
            The results, as a value of the same class and covariance type.
        """
        tensors = (function(*each) for each in zip(self, *others, strict=True))
        return type(self)(*tensors, self.covariance_type)

    def to(self, **options):
        """Return the same value with another ``device`` or ``dtype``.

        Parameters
        ----------
        **options : dict
            Options of ``Tensor.to``.

        Returns
        -------
        TypedTensors
            The same value there.
        """
        return self.map(lambda t: t.to(**options))

    def detach(self):
        """Return the same value as a constant.

        Returns
        -------
        TypedTensors
            The value without its graph.
        """
        return self.map(Tensor.detach)

    _replace = replace


def as_pytree(cls: type[TypedTensors]) -> type[TypedTensors]:
    """Register a class as a pytree of torch, and name its tensors.

    Parameters
    ----------
    cls : type
        A frozen dataclass derived from `TypedTensors`.

    Returns
    -------
    type
        The same class.
    """
    cls._fields = tuple(field.name for field in fields(cls))[:-1]
    cls._tensors = attrgetter(*cls._fields)
    _pytree.register_pytree_node(
        cls,
        lambda value: (list(value), value.covariance_type),
        lambda leaves, covariance_type: cls(*leaves, covariance_type),
    )
    return cls
