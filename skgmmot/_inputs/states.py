"""States of estimators in arrays and plain values, which pickle and skops save alike.

skops takes no tensors. In a packed state each is a dictionary with its numbers and its device, and
a value that holds tensors one with its parts; lists, tuples and dictionaries are gone through.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skgmmot.fitting.em.prior import Prior
from skgmmot.gaussian.covariance.registry import COVARIANCE_TYPES
from skgmmot.gaussian.mixture import GaussianMixtureParams
from skgmmot.numerics.adjoint import Adjoint, Asked
from skgmmot.numerics.fixed_point import Solution
from skgmmot.numerics.krylov import Products
from skgmmot.transport.discrete.plan import Plan
from skgmmot.transport.semidiscrete.grid import GridDensity

#: The key that tells the dictionary of a packed value from those of users.
KIND = "skgmmot kind"
TENSOR, DEVICE = "tensor", "device"
#: Classes of values that hold tensors among their attributes, by their names.
WITH_ATTRIBUTES = {cls.__name__: cls for cls in (Adjoint, Asked, Products, Prior)}
#: Named tuples that do, which would be one more class to trust in a file.
NAMED_TUPLES = {cls.__name__: cls for cls in (Plan, Solution, GridDensity)}


def packed(value: Any) -> Any:
    """Return a value with arrays in place of tensors.

    Parameters
    ----------
    value : object
        Any value; what is not a tensor, holds none or is of an unknown class stays as it is.

    Returns
    -------
    object
        The packed value, which shares the memory of tensors on the CPU. Graphs are left out.
    """
    if isinstance(value, Tensor):
        return _packed_tensor(value)
    if isinstance(value, torch.device):
        return {KIND: DEVICE, "device": str(value)}
    if isinstance(value, GaussianMixtureParams):
        return _packed_mixture(value)
    name = type(value).__name__
    if WITH_ATTRIBUTES.get(name) is type(value):
        return {KIND: name, "parts": packed(value.__getstate__())}
    if NAMED_TUPLES.get(name) is type(value):
        return {KIND: name, "parts": packed(tuple(value))}
    return _each(packed, value)


def unpacked(value: Any) -> Any:
    """Return a packed value as it was.

    Parameters
    ----------
    value : object
        What `packed` returned, or a copy of it.

    Returns
    -------
    object
        The value; tensors are on the devices that they were on, and require no gradient.
    """
    if type(value) is not dict or KIND not in value:
        return _each(unpacked, value)
    kind = value[KIND]
    if kind == TENSOR:
        return torch.from_numpy(np.asarray(value["array"])).to(value["device"])
    if kind == DEVICE:
        return torch.device(value["device"])
    parts = unpacked(value["parts"])
    if kind == GaussianMixtureParams.__name__:
        covariance_type = COVARIANCE_TYPES[value["covariance_type"]]
        return GaussianMixtureParams(*parts, covariance_type, value.get("noise"))
    if kind in NAMED_TUPLES:
        return NAMED_TUPLES[kind](*parts)
    found = object.__new__(WITH_ATTRIBUTES[kind])
    vars(found).update(parts)
    return found


def _packed_tensor(tensor: Tensor):
    """The numbers of a tensor and its device; the tensor itself if numpy has no such numbers."""
    try:
        array = tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError):  # bfloat16, sparse: pickle saves them
        return tensor.detach()
    return {KIND: TENSOR, "array": array, "device": str(tensor.device)}


def _packed_mixture(mixture: GaussianMixtureParams):
    """The tensors of a mixture and the name of its type, if that is registered."""
    name = mixture.covariance_type.name
    if COVARIANCE_TYPES.get(name) != mixture.covariance_type:
        return mixture  # pickle saves it
    parts = packed(tuple(mixture))
    found = {KIND: type(mixture).__name__, "covariance_type": name, "parts": parts}
    return found if mixture.noise is None else found | {"noise": mixture.noise}


def _each(function, value):
    """A list, tuple or dictionary of the results for its values; anything else as it is."""
    if type(value) is dict:
        return {name: function(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(function, value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(function, value))
    return value
