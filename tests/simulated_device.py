"""A simulated accelerator: what code does to a device is seen on a machine that has none.

Tensors on the device keep their numbers on the CPU and compute there, with the same bits. As on
CUDA, an operation on tensors of both devices raises, and so does a conversion to numpy. Three
things are counted that decide the speed of an accelerator: kernels (operations that compute, not
views and not allocations), synchronisations (the host waits for numbers), and transfers.

The device goes by the name of one that torch has and that nothing here uses otherwise: ``lazy``.
Unlike devices that are registered (or CUDA), it needs no thread for backward, so that processes can
still be forked.
"""

import functools
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch

#: torch's name of the device, and of its operations.
NAME, KEY = "lazy", "Lazy"

#: Operations that allocate and compute nothing.
ALLOCATIONS = ("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided")
#: Operations after which CUDA's host waits: a number is read, or the size of the result depends on
#: numbers, or LAPACK's status is.
WAITING = (
    "_local_scalar_dense",
    "_linalg_check_errors",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
)
#: Numbers read in one go that are no transfer, only a synchronisation.
FEW = 1024
#: Operations between devices.
COPIES = ("_to_copy", "copy_")
#: Sets the shape of a tensor, whatever its device: for what works in place or resizes.
RESTRIDE = torch.ops.aten.as_strided_.default
CPU, DEVICE = torch.device("cpu"), torch.device(NAME, 0)
META = torch._C.DispatchKeySet(torch._C.DispatchKey.Meta)
#: Operations that take indices from either device.
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


@dataclass
class Counts:
    """What a piece of code has done to the device."""

    kernels: Counter = field(default_factory=Counter)
    """Operations that compute, by name."""
    synchronisations: Counter = field(default_factory=Counter)
    """Operations that the host waited for, transfers to it included, by name."""
    to_host: Counter = field(default_factory=Counter)
    """Tensors copied from the device, by their number of entries."""
    to_device: Counter = field(default_factory=Counter)
    """Tensors copied to the device, likewise."""

    def totals(self) -> dict[str, int]:
        """Their numbers."""
        return {name: counter.total() for name, counter in vars(self).items()}

    def transfers(self, least: int = 1) -> int:
        """Copies in either direction of at least so many entries."""
        both = (*self.to_host.items(), *self.to_device.items())
        return sum(times for size, times in both if size >= least)


_counting: list[Counts] = []


@contextmanager
def counting():
    """Count within; yields the `Counts`."""
    counts = Counts()
    _counting.append(counts)
    try:
        yield counts
    finally:
        _counting.remove(counts)


class SimulatedTensor(torch.Tensor):
    """A tensor on the device, whose numbers are ``raw``, on the CPU."""

    @staticmethod
    def __new__(cls, raw):
        # (without an index of the device, backward finds no stream of it)
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=DEVICE,
            requires_grad=raw.requires_grad,
            storage_size=2**40,  # nothing is stored: any shape is within bounds
        )
        wrapper.raw = raw
        return wrapper

    def __init__(self, raw):
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _run(op, *args, **(kwargs or {}))

    # what torch writes in C++ by device

    def tolist(self):
        if self.numel() > FEW:
            return self.cpu().tolist()
        for counts in _counting:
            counts.synchronisations["tolist"] += 1
        return self.detach().raw.tolist()

    def numpy(self, *, force=False):
        if not force:
            raise TypeError(f"can't convert {self.device} to numpy. Use Tensor.cpu() first.")
        return self.detach().cpu().numpy()

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        options = {"dtype": dtype or self.dtype, "device": device or self.device}
        return torch.tensor(data, requires_grad=requires_grad, **options)

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        made = [torch.tensor(i, device=NAME) if isinstance(i, list) else i for i in parts]
        return super().__getitem__(tuple(made) if isinstance(index, tuple) else made[0])

    def __format__(self, spec):
        return format(self.cpu(), spec)

    def __repr__(self):
        return f"{self.raw!r} on {self.device}"


def _is_sim(device) -> bool:
    return device is not None and torch.device(device).type == NAME


def _run(op, *args, **kwargs):
    """Check devices, count, run ``op`` on the CPU, and put on the device what belongs there."""
    inside, outside = [], []
    raw = _taken_apart(args, inside, outside)
    device = kwargs.get("device")
    to_sim = bool(inside) if device is None else _is_sim(device)
    if kwargs:
        values = _taken_apart(kwargs.values(), inside, outside)
        kwargs = dict(zip(kwargs, values, strict=True))
        to_sim = bool(inside) if device is None else to_sim
    if "device" in kwargs:
        kwargs["device"] = CPU
    name = _name(op)
    if name == "copy_":
        to_sim = isinstance(args[0], SimulatedTensor)
    elif inside and outside and name not in COPIES:
        _check_devices(op, name, args, outside)
    result = op(*raw, **kwargs)
    if _counting:
        _count(op, name, args, result, inside, to_sim)
    if not to_sim:
        return result
    written = {}
    if op._schema.is_mutable:  # returns its argument, whose shape may be another
        written = {id(t.raw): t for t in inside}
        for t in inside:
            if t.shape != t.raw.shape or t.stride() != t.raw.stride():
                RESTRIDE.redispatch(META, t, t.raw.shape, t.raw.stride(), t.raw.storage_offset())
    return _put_on(result, written)


# Operations take and return tensors, and lists and tuples of them: torch's trees are slower.


def _taken_apart(values, inside, outside):
    """Values with the numbers of tensors in their place; lists the tensors of both devices."""
    raw = []
    for value in values:
        if isinstance(value, SimulatedTensor):
            inside.append(value)
            value = value.raw
        elif isinstance(value, torch.Tensor):
            outside.append(value)
        elif isinstance(value, (list, tuple)):
            value = type(value)(_taken_apart(value, inside, outside))
        raw.append(value)
    return raw


def _put_on(value, written):
    """A result on the device: what was written to, or new."""
    if isinstance(value, torch.Tensor):
        if isinstance(value, SimulatedTensor):
            return value
        found = written.get(id(value))
        return SimulatedTensor(value) if found is None else found
    if isinstance(value, (list, tuple)):
        return type(value)([_put_on(part, written) for part in value])
    return value


@functools.cache
def _name(op) -> str:
    return op._schema.name.removeprefix("aten::")


def _check_devices(op, name, args, outside):
    """Raise for tensors of both devices; pointwise operations take numbers from the CPU."""
    if torch.Tag.pointwise in op.tags or name in ("where", "fill_", "masked_fill", "masked_fill_"):
        outside = [t for t in outside if t.dim()]
    if name in INDEXED and isinstance(args[0], SimulatedTensor):
        values = args[2] if len(args) > 2 else None
        outside = [t for t in outside if t is values and t.dim()]
    if outside:
        shapes = [tuple(t.shape) for t in outside]
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{NAME}:0 and cpu: {name} got CPU tensors of shapes {shapes}"
        )


@functools.cache
def _computes(op) -> bool:
    """Whether it is a kernel: no allocation, and no view of an argument that is not written to."""
    returns = [r.alias_info for r in op._schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in returns)
    return not is_view and _name(op) not in ALLOCATIONS


def _count(op, name, args, result, inside, to_sim):
    """Count an operation."""
    copied, given = 0, ()
    if name == "copy_":
        copied = isinstance(args[1], SimulatedTensor) != to_sim
        size = args[0].numel()
    elif name == "_to_copy":
        copied = bool(inside) != to_sim
        size = result.numel()
    elif name in INDEXED and inside:
        given = [i for i in args[1] if isinstance(i, torch.Tensor)]
    waiting = name in WAITING or any(i.dtype in (torch.bool, torch.uint8) for i in given)
    waiting |= name == "repeat_interleave" and isinstance(result, torch.Tensor)
    brought = [i for i in given if not isinstance(i, SimulatedTensor)]
    for counts in _counting:
        if copied:
            (counts.to_device if to_sim else counts.to_host)[size] += 1
        elif _computes(op):
            counts.kernels[name] += 1
        if waiting or (copied and not to_sim):
            counts.synchronisations[name] += 1
        for index in brought:
            counts.to_device[index.numel()] += 1


# --- making it known to torch --------------------------------------------------------------------

_tensor, _Generator = torch.tensor, torch.Generator


def _make_tensor(data, *, dtype=None, device=None, requires_grad=False, **options):
    if not _is_sim(device):
        return _tensor(data, dtype=dtype, device=device, requires_grad=requires_grad, **options)
    return _tensor(data, dtype=dtype, **options).to(device).requires_grad_(requires_grad)


class SimulatedGenerator(torch.Generator):
    """A generator of the CPU's numbers, whichever device is named."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu" if _is_sim(device) else device)


@functools.cache
def register() -> torch.library.Library:
    """Have operations on the device simulated, while what is returned is kept."""
    library = torch.library.Library("_", "IMPL")
    library.fallback(_run, KEY)
    return library


@contextmanager
def simulated_device():
    """Have the device within; yields its name. Skips the test if torch is too old to have one."""
    if not hasattr(torch.library.Library, "fallback"):
        pytest.skip("torch registers no device from Python")
    register()
    torch.tensor, torch.Generator = _make_tensor, SimulatedGenerator
    try:
        yield NAME
    finally:
        torch.tensor, torch.Generator = _tensor, _Generator
