"""Files of tensors, arrays and plain values: npz with a JSON header, written at once, no pickle.

A file is an uncompressed zip archive that `numpy.load` opens: `HEADER`, JSON that says what it
holds, and one ``.npy`` member for each array. Nothing in a file is executed, no member is taken by
a name of its own, and arrays hold numbers only and take no more memory than the file is long.
"""

import errno
import io
import json
import math
import os
import secrets
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: The member that says what a file holds, and the largest one that is read, in bytes.
HEADER, MAX_HEADER = "header.json", 2**26
#: The largest file that is written or read, in bytes.
MAX_SIZE = 2**33
#: Kinds of dtype that arrays in a file may have, and the largest size of a number.
NUMBERS, MAX_ITEM = "biuf", 8
#: Age in seconds from which an unfinished file is nobody's any more.
ABANDONED = 600
#: The date of all members: equal contents give equal files.
DATE = (1980, 1, 1, 0, 0, 0)
UNFINISHED = ".tmp"


class ArchiveError(ValueError):
    """A file that is damaged, or is not what it was taken for."""


class Kind(NamedTuple):
    """How the values of a class are stored: as plainer ones."""

    cls: type
    """The class."""
    take: Callable[[Any], Any]
    """The plainer values of one."""
    make: Callable[[Any], Any]
    """One of plainer values, which may be anything: raises an error where they make none."""


def write(
    path: str | os.PathLike,
    content: Any,
    *,
    what: str,
    version: int,
    kinds: Sequence[Kind] = (),
) -> None:
    """Write a file atomically: at any time there is the whole old one or the whole new one.

    Parameters
    ----------
    path : path-like
        Where; a link keeps its place, and the file it leads to is replaced.
    content : object
        None, booleans, numbers, strings, tensors, numpy arrays of numbers or of strings; lists,
        tuples and dictionaries of such values; and what ``kinds`` describes.
    what : str
        What the file holds.
    version : int
        Version of how it does.
    kinds : sequence of Kind, default=()
        Classes of other values.

    Raises
    ------
    TypeError
        If something in the content cannot be stored.
    ValueError
        If the file would be longer than `MAX_SIZE`.
    OSError
        If the file cannot be written; an earlier one is left as it was. So is a device or a pipe,
        whose place no file takes.
    """
    arrays: list[np.ndarray] = []
    tree = _Writer(kinds, arrays).encode(content, "content")
    header = {"format": what, "version": version, "content": tree}
    text = json.dumps(header, allow_nan=False, ensure_ascii=True).encode()
    size = len(text) + sum(array.nbytes for array in arrays)
    if len(text) > MAX_HEADER or size > MAX_SIZE:
        raise ValueError(
            f"{what} must be smaller than {MAX_SIZE / 2**30:.0f} GB, and than "
            f"{MAX_HEADER / 2**20:.0f} MB without its arrays, got {size / 2**30:.3g} GB and "
            f"{len(text) / 2**20:.3g} MB. Keep less in it."
        )
    path = os.path.realpath(path)
    _check_replaceable(path)
    unfinished = _unfinished(path)
    try:
        with open(unfinished, "xb") as file:  # a new file, never one that was there, nor a link
            _write_members(file, text, arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        with suppress(OSError):  # it has its place
            os.unlink(unfinished)
    _sync_folder(os.path.dirname(path))


def read(
    path: str | os.PathLike,
    *,
    what: str,
    version: int,
    kinds: Sequence[Kind] = (),
    device: torch.device | str | None = None,
) -> Any:
    """Read a file that `write` wrote, and refuse any other.

    Parameters
    ----------
    path : path-like
        Where.
    what : str
        What the file must hold.
    version : int
        Version of how it must do so.
    kinds : sequence of Kind, default=()
        Classes of other values.
    device : device, default=None
        Where tensors go; None is the CPU.

    Returns
    -------
    object
        The content, bit for bit; tensors require no gradient.

    Raises
    ------
    ArchiveError
        If the file is truncated, damaged, something else, of another version, or larger than
        `MAX_SIZE`.
    OSError
        If it cannot be opened.
    """
    with _opened(path, what) as file:
        return _read(file, os.fspath(path), what, version, kinds, device)


def check_place(path: str | os.PathLike) -> None:
    """Refuse a place where no file can be written, before there is anything to write.

    Parameters
    ----------
    path : path-like
        The place. Unfinished files that an earlier process left beside it are removed.

    Raises
    ------
    OSError
        If it is a folder, a device or a pipe, or in a folder that is missing or cannot be written,
        or no name.
    """
    if "\0" in os.fspath(path):
        raise OSError("no file has a NUL character in its name")
    path = os.path.realpath(path)
    _check_replaceable(path)
    unfinished = _unfinished(path)
    try:
        open(unfinished, "xb").close()
    finally:
        with suppress(OSError):  # it was not made
            os.unlink(unfinished)
    folder, name = os.path.split(unfinished)
    prefix = name[: -len(UNFINISHED) - 8]
    for entry in os.scandir(folder):
        if entry.name.startswith(prefix) and entry.name.endswith(UNFINISHED):
            with suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime > ABANDONED:
                    os.unlink(entry.path)


# --- writing -------------------------------------------------------------------------------------


def _write_members(file: BinaryIO, header: bytes, arrays: list[np.ndarray]) -> None:
    """Write all members to an open file."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as members:
        members.writestr(_info(HEADER), header)
        for i, array in enumerate(arrays):
            with members.open(_info(_member(i)), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def _check_replaceable(path: str) -> None:
    """Refuse folders, and devices and pipes, which would be gone when a file takes their place."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", path)
    if os.path.lexists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "it is no regular file", path)


def _unfinished(path: str) -> str:
    """The name of an unfinished file beside a path."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{secrets.token_hex(4)}{UNFINISHED}")


def _sync_folder(folder: str) -> None:
    """Have the new name of a file on disk too."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _member(i: int) -> str:
    """The name of an array."""
    return f"{i}.npy"


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, DATE)
    info.external_attr = 0o644 << 16
    return info


class _Writer:
    """Turns values into JSON and a list of arrays."""

    def __init__(self, kinds: Sequence[Kind], arrays: list[np.ndarray]):
        self.kinds, self.arrays = {kind.cls: kind for kind in kinds}, arrays

    def encode(self, value, place: str):
        """JSON of a value at a place in the content."""
        kind = self.kinds.get(type(value))
        if kind is not None:
            name = kind.cls.__name__
            return {"value": [name, self.encode(kind.take(value), f"{place}.{name}")]}
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is np.str_:
            return str(value)
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) in (list, tuple):
            parts = [self.encode(v, f"{place}[{i}]") for i, v in enumerate(value)]
            return parts if type(value) is list else {"tuple": parts}
        if type(value) is dict:
            return {"dict": [self._pair(key, part, place) for key, part in value.items()]}
        if isinstance(value, Tensor):
            return {"tensor": self._index(_as_array(value, place), place)}
        if isinstance(value, np.generic) and value.dtype.kind in NUMBERS:
            return {"scalar": self._index(np.asarray(value), place)}
        if type(value) is np.ndarray:
            if value.dtype.kind in NUMBERS:
                return {"array": self._index(value, place)}
            if value.dtype.kind == "U":
                letters = np.array(value, order="C")[..., np.newaxis].view(np.uint32)
                return {"text": self._index(letters, place)}
            flat = value.ravel().tolist()
            if value.dtype.kind == "O" and all(type(text) is str for text in flat):
                return {"strings": [list(value.shape), flat]}
        raise TypeError(
            f"{place} must be a number, a string, a tensor, an array of numbers or strings, or a "
            f"list, tuple or dictionary of such, got {_described(value)}. Nothing else is stored."
        )

    def _pair(self, key, value, place):
        if type(key) not in (int, str):
            raise TypeError(
                f"the keys of {place} must be strings or integers, got {key!r}. Rename it."
            )
        return [key, self.encode(value, f"{place}[{key!r}]")]

    def _index(self, array: np.ndarray, place: str) -> int:
        if array.dtype.itemsize > MAX_ITEM:
            raise TypeError(
                f"{place} must have numbers of up to {MAX_ITEM} bytes, got {array.dtype}. Convert "
                "it to float64."
            )
        dtype = array.dtype.newbyteorder("<")
        self.arrays.append(np.asarray(array, dtype, order="C"))
        return len(self.arrays) - 1


def _as_array(tensor: Tensor, place: str) -> np.ndarray:
    """The numbers of a tensor."""
    try:
        array = tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{place} must be a dense tensor of a dtype that numpy has, got {tensor.dtype}, "
            f"{tensor.layout}. Convert it."
        ) from error
    if array.dtype.kind not in NUMBERS:
        raise TypeError(f"{place} must be real, got {tensor.dtype}. Take real and imaginary parts.")
    return array


def _described(value) -> str:
    kind = type(value).__name__
    dtype = getattr(value, "dtype", None)
    return kind if dtype is None else f"{kind} of dtype {dtype}"


# --- reading -------------------------------------------------------------------------------------


def _opened(path, what: str) -> BinaryIO:
    """A regular file of a possible size, open."""
    about = os.stat(path)
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder, no {what}. Name a file.")
    if not stat.S_ISREG(about.st_mode):
        raise ArchiveError(f"{os.fspath(path)!r} is no regular file, and no {what}. Name a file.")
    if about.st_size > MAX_SIZE:
        raise ArchiveError(
            f"{os.fspath(path)!r} must be smaller than {MAX_SIZE / 2**30:.0f} GB, got "
            f"{about.st_size / 2**30:.3g} GB: it is no {what}."
        )
    return open(path, "rb")


def _read(file: BinaryIO, path: str, what: str, version: int, kinds, device) -> Any:
    """The content of an open file."""
    try:
        members = _Members(file)
        header = members.header()
    except Exception as error:  # zipfile, json and numpy raise many kinds over damaged files
        raise ArchiveError(f"{path!r} is no {what}, or a damaged one: {_reason(error)}.") from error
    if header["format"] != what:
        raise ArchiveError(f"{path!r} must be a {what}, got a {str(header['format'])[:80]}.")
    found = header["version"]
    if found != version:
        newer = isinstance(found, int) and found > version
        advice = (
            "A newer release wrote it: update"
            if newer
            else "Read it with the release that wrote it"
        )
        raise ArchiveError(
            f"{path!r} must be a {what} of version {version}, got version {str(found)[:20]}. "
            f"{advice}."
        )
    try:
        return _Reader(kinds, members.arrays(), device).decode(header["content"])
    except Exception as error:
        raise ArchiveError(f"{path!r} is a damaged {what}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """What is wrong with a file, from an error of any kind."""
    text = " ".join(str(error).split())[:200].rstrip(".")
    if isinstance(error, KeyError):
        return f"it has no entry {text}"
    return text or type(error).__name__


class _Members:
    """The members of a file, which together are no longer than the file."""

    def __init__(self, file: BinaryIO):
        if file.read(4) != b"PK\x03\x04":
            raise ValueError(
                "it does not begin as an archive does (files of pickle and joblib are not read)"
            )
        size = file.seek(0, io.SEEK_END)
        self.zip = zipfile.ZipFile(file)
        infos = self.zip.infolist()
        self.infos = {info.filename: info for info in infos}
        names = {HEADER, *map(_member, range(len(infos) - 1))}
        if self.infos.keys() != names or len(infos) != len(names):
            raise ValueError("its members have other names")
        for info in infos:
            stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
            if not stored or info.compress_size != info.file_size:
                raise ValueError("its members are compressed or encrypted")
        if sum(info.file_size for info in infos) > size:
            raise ValueError("its members are longer than it")
        if self.infos[HEADER].file_size > MAX_HEADER:
            raise ValueError(f"its header is longer than {MAX_HEADER} bytes")

    def header(self) -> dict:
        """What the file holds."""
        header = json.loads(self.zip.read(HEADER).decode("ascii"), parse_constant=_no_constant)
        if not isinstance(header, dict) or header.keys() != {"format", "version", "content"}:
            raise ValueError("its header has other entries")
        return header

    def arrays(self) -> list[np.ndarray]:
        """Its arrays, in memory of their own."""
        return [self._array(self.infos[_member(i)]) for i in range(len(self.infos) - 1)]

    def _array(self, info: zipfile.ZipInfo) -> np.ndarray:
        with self.zip.open(info) as member:
            if np.lib.format.read_magic(member) != (1, 0):
                raise ValueError(f"{info.filename} has another version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
            if dtype.hasobject or dtype.kind not in NUMBERS or dtype.itemsize > MAX_ITEM:
                raise ValueError(f"{info.filename} must hold numbers, got {dtype}")
            length = math.prod(shape) * dtype.itemsize
            if fortran or min(shape, default=0) < 0 or length > info.file_size:
                raise ValueError(f"{info.filename} must be as long as its shape says, got {shape}")
            data = bytearray(member.read())  # to its end, where zipfile compares the checksum
        if len(data) != length:
            raise ValueError(f"{info.filename} must hold {length} bytes, got {len(data)}")
        array = np.frombuffer(data, dtype).reshape(shape)
        return array.astype(dtype.newbyteorder("="), copy=False)


def _no_constant(name):
    raise ValueError(f"numbers must be finite, got {name}")


class _Reader:
    """Turns JSON and a list of arrays into values again."""

    def __init__(self, kinds: Sequence[Kind], arrays: list[np.ndarray], device):
        self.kinds = {kind.cls.__name__: kind for kind in kinds}
        self.arrays, self.device = arrays, device

    def decode(self, tree):
        """The value of some JSON."""
        if tree is None or isinstance(tree, bool | int | str):
            return tree
        if isinstance(tree, float):
            if not math.isfinite(tree):
                raise ValueError("numbers must be finite, got one beyond float64")
            return tree
        if isinstance(tree, list):
            return [self.decode(part) for part in tree]
        ((name, part),) = tree.items()
        return getattr(self, f"_{name}")(part) if name in TAGS else _unknown(name)

    def _float(self, text):
        if text not in ("inf", "-inf", "nan"):
            _unknown(text)
        return float(text)

    def _tuple(self, parts):
        return tuple(self.decode(part) for part in parts)

    def _dict(self, pairs):
        return {_key(k): self.decode(v) for k, v in pairs}

    def _array(self, index):
        if type(index) is not int or index < 0:
            _unknown(index)
        return self.arrays[index]

    def _tensor(self, index):
        return torch.from_numpy(self._array(index)).to(self.device)

    def _scalar(self, index):
        array = self._array(index)
        if array.shape != ():
            raise ValueError(f"a number must have no axes, got {array.shape}")
        return array[()]

    def _text(self, index):
        letters = self._array(index)
        if letters.dtype != np.uint32 or letters.max(initial=0) > sys.maxunicode:
            raise ValueError("an array of strings must hold letters")
        return letters.view(f"U{letters.shape[-1]}")[..., 0]

    def _strings(self, parts):
        shape, flat = parts
        if not all(type(text) is str for text in flat):
            raise ValueError("an array of strings must hold strings")
        return np.array(flat, dtype=object).reshape(shape)

    def _value(self, parts):
        name, tree = parts
        if name not in self.kinds:
            _unknown(name)
        return self.kinds[name].make(self.decode(tree))


#: What a JSON object with one entry of that name stands for.
TAGS = {"float", "tuple", "dict", "array", "tensor", "scalar", "text", "strings", "value"}


def _key(key):
    return key if type(key) in (int, str) else _unknown(key)


def _unknown(name):
    raise ValueError(f"its content has something unknown, {str(name)[:80]!r}")
