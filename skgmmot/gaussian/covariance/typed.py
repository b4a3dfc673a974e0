"""Tensors together with the covariance type that they are of: values, and pytrees of torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.utils import _pytree


class TypedTensors(Sequence):
    """Base of frozen dataclasses whose fields are tensors and, after them, ``covariance_type``.

    They iterate over their tensors. With `as_pytree` torch walks them too, as in `torch.func.grad`:
    the tensors are leaves; the covariance type, and constants after it, are part of the structure.
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]]
    _tensors: ClassVar[Any]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._tensors(self))

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index):
        return self._tensors(self)[index]

    def map(self, function: Callable[..., Tensor], *others: "TypedTensors") -> Self:
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
        return type(self)(*tensors, *self._constants(self))

    def to(self, **options: Any) -> Self:
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

    def detach(self) -> Self:
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
    names = [field.name for field in fields(cls)]
    n_tensors = names.index("covariance_type")
    cls._fields = tuple(names[:n_tensors])
    cls._tensors = attrgetter(*cls._fields)
    constants = attrgetter(*names[n_tensors:])
    one = len(names) == n_tensors + 1
    cls._constants = staticmethod((lambda value: (value.covariance_type,)) if one else constants)
    _pytree.register_pytree_node(
        cls,
        lambda value: (list(value), cls._constants(value)),
        lambda leaves, kept: cls(*leaves, *kept),
    )
    return cls
