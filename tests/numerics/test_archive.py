"""Files of values: the same bits back, whole files or none, and nothing from strangers."""

import io
import json
import math
import os
import stat
import sys
import zipfile

import numpy as np
import pytest
import torch

from skgmmot.numerics import archive
from skgmmot.numerics.archive import ArchiveError, Kind, read, write

OPTIONS = {"what": "test file", "version": 3}

CONTENT = {
    "numbers": [1, -(2**80), 0.1, -0.0, math.inf, -math.inf, True, None, "näme", (1, (2.5,))],
    "tensors": [torch.arange(6.0).reshape(2, 3).mT, torch.zeros(0, 3), torch.tensor(1, dtype=int)],
    "arrays": [np.arange(4, dtype=np.float32), np.array([True, False]), np.array(2.0)],
    "scalars": (np.float64(0.1), np.int32(-3), np.bool_(True)),
    "names": [np.array(["a", "bé"]), np.array(["x0", "long name"], dtype=object), np.array("one")],
    7: {"empty": {}, "list": [], "tuple": ()},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.npz"


def same(value, other):
    """Whether two values are of one type and equal to the last bit."""
    assert type(value) is type(other), (value, other)
    if isinstance(value, dict):
        assert list(value) == list(other)
        return all(map(same, value.values(), other.values()))
    if isinstance(value, list | tuple):
        return len(value) == len(other) and all(map(same, value, other))
    if isinstance(value, torch.Tensor):
        return value.dtype == other.dtype and torch.equal(value, other)
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype == other.dtype and np.array_equal(value, other)
    return repr(value) == repr(other)  # which tells -0.0 from 0.0


def test_content_comes_back_with_its_types_and_bits(path):
    write(path, CONTENT, **OPTIONS)
    assert same(read(path, **OPTIONS), CONTENT)


def test_numpy_opens_a_file_and_equal_contents_give_equal_files(path, tmp_path):
    write(path, CONTENT, **OPTIONS)
    with np.load(path, allow_pickle=False) as file:
        assert json.loads(file["header.json"])["format"] == "test file"
        np.testing.assert_array_equal(file["0"], CONTENT["tensors"][0])
    write(tmp_path / "again.npz", CONTENT, **OPTIONS)
    assert path.read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_values_of_other_classes_are_stored_as_plainer_ones(path):
    half = Kind(slice, lambda s: [s.start, s.stop], lambda parts: slice(*parts))
    write(path, [slice(1, None)], kinds=[half], **OPTIONS)
    assert read(path, kinds=[half], **OPTIONS) == [slice(1, None)]
    with pytest.raises(ArchiveError, match="something unknown, 'slice'"):
        read(path, **OPTIONS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"content\['a'\]\[0\] must be a number, a string, .* got object"),
        (np.array([object()]), "got ndarray of dtype object"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "dtype datetime64"),
        (np.longdouble(1), "up to 8 bytes"),
        (torch.zeros(2, dtype=torch.complex64), "must be real"),
        (torch.zeros(2, dtype=torch.bfloat16), "dense tensor of a dtype that numpy has"),
        (torch.zeros(2, 2).to_sparse(), "dense tensor"),
        ({(1, 2): 3}, r"keys of .* must be strings or integers, got \(1, 2\)"),
        (lambda: 0, "got function"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(path, value, message):
    with pytest.raises(TypeError, match=message):
        write(path, {"a": [value]}, **OPTIONS)
    assert not list(path.parent.iterdir())


def test_contents_that_are_too_large_are_refused(path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_SIZE", 1000)
    with pytest.raises(ValueError, match="must be smaller than"):
        write(path, np.zeros(200), **OPTIONS)
    monkeypatch.undo()
    write(path, np.zeros(200), **OPTIONS)
    monkeypatch.setattr(archive, "MAX_SIZE", 1000)
    with pytest.raises(ArchiveError, match="must be smaller than"):
        read(path, **OPTIONS)


# --- writing is atomic ---------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    write(path, 1, **OPTIONS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, 2, **OPTIONS)
    monkeypatch.undo()
    assert read(path, **OPTIONS) == 1
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:Exception ignored")
def test_an_interrupted_write_leaves_the_old_file_and_no_descriptor(path):
    write(path, 1, **OPTIONS)
    n_open = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None

    def interrupt(_, event, function):
        if event == "c_return" and function is io.open:  # the file is there, and has no name yet
            sys.setprofile(None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sys.setprofile(interrupt)
        write(path, 2, **OPTIONS)
    assert read(path, **OPTIONS) == 1 and os.listdir(path.parent) == [path.name]
    assert n_open is None or len(os.listdir("/proc/self/fd")) == n_open


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_replaced_by_a_file(path, tmp_path):
    os.mkfifo(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    for place in (path, link):
        with pytest.raises(OSError, match="it is no regular file"):
            write(place, 1, **OPTIONS)
        with pytest.raises(OSError, match="it is no regular file"):
            archive.check_place(place)
    assert path.is_fifo() and link.is_symlink()


def test_a_full_disk_is_an_error(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError):
        write("/dev/full/x.npz", 1, **OPTIONS)


def test_a_link_stays_and_what_it_leads_to_is_replaced(path, tmp_path):
    (tmp_path / "there").mkdir()
    path.symlink_to(tmp_path / "there" / "real.npz")
    write(path, 1, **OPTIONS)
    write(path, 2, **OPTIONS)
    assert path.is_symlink() and read(path, **OPTIONS) == 2
    assert (tmp_path / "there" / "real.npz").is_file()


def test_files_may_be_read_by_whom_the_umask_lets(path):
    before = os.umask(0o027)
    try:
        write(path, 1, **OPTIONS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_place_is_checked_before_there_is_anything_to_write(path, tmp_path):
    archive.check_place(path)
    assert not list(tmp_path.iterdir())
    for wrong in (tmp_path, tmp_path / "none" / "file.npz", path / "file.npz"):
        if wrong.parent == path:
            path.write_bytes(b"")
        with pytest.raises(OSError):
            archive.check_place(wrong)


def test_unfinished_files_of_processes_that_died_are_removed_when_they_are_old(path):
    unfinished = [path.with_name(f".{path.name}.{'0' * 7}{i}.tmp") for i in range(2)]
    other = path.with_name("other.tmp")
    for file in (*unfinished, other):
        file.write_bytes(b"half")
    os.utime(unfinished[0], (0, 0))
    os.utime(other, (0, 0))
    archive.check_place(path)
    assert {f.name for f in path.parent.iterdir()} == {unfinished[1].name, other.name}


# --- hostile files -------------------------------------------------------------------------------


def test_a_truncated_file_is_refused_wherever_it_ends(path):
    write(path, CONTENT, **OPTIONS)
    whole = path.read_bytes()
    for share in range(20):
        path.write_bytes(whole[: len(whole) * share // 20])
        with pytest.raises(ArchiveError, match="is no test file, or a damaged one") as refused:
            read(path, **OPTIONS)
        assert "Error" not in str(refused.value)
    path.write_bytes(whole[:-1])
    with pytest.raises(ArchiveError):
        read(path, **OPTIONS)


def test_a_file_with_a_changed_byte_is_refused_or_reads_the_same(path, rng):
    write(path, CONTENT, **OPTIONS)
    whole, n_refused = path.read_bytes(), 0
    for at in rng.integers(len(whole), size=200):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:  # dates and attributes of members mean nothing
            assert same(read(path, **OPTIONS), CONTENT)
        except ArchiveError:
            n_refused += 1
    assert n_refused > 100


@pytest.mark.parametrize("size", [0, 1, 4, 100, 10_000])
def test_random_bytes_are_refused(path, rng, size):
    for begin in (b"", b"PK\x03\x04"):
        path.write_bytes(begin + rng.bytes(size))
        with pytest.raises(ArchiveError, match="is no test file"):
            read(path, **OPTIONS)


def forged(path, members, header=None, **options):
    """A file of given members behind a header."""
    tree = {"format": "test file", "version": 3, "content": {"array": 0}} | (header or {})
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("header.json", json.dumps(tree))
        for name, data in members.items():
            file.writestr(name, data)


def npy(array, header=None):
    """The bytes of an array, perhaps behind another header."""
    out = io.BytesIO()
    if header is None:
        np.lib.format.write_array(out, array, allow_pickle=True)
    else:
        text = header.encode() + b"\n"
        out.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + array.tobytes())
    return out.getvalue()


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_pickled_objects_are_refused_and_not_loaded(path, tmp_path):
    forged(path, {"0.npy": npy(np.array([Bomb(tmp_path / "made")], dtype=object))})
    with pytest.raises(ArchiveError, match=r"0\.npy must hold numbers, got object"):
        read(path, **OPTIONS)
    assert not (tmp_path / "made").exists()


def described(dtype="'<f8'", shape="(3,)", order="False"):
    return f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "header",
    [
        described(shape="(4,)"),
        described(shape="(2,)"),
        described(shape="(10**9, 10**9)"),
        described(shape="(1000000000, 1000000000)"),
        described(shape="(-1, -3)"),
        described(shape="(0, 99999999999999999999)"),
        described(order="True"),
        described(dtype="'<c16'"),
        described(dtype="'|O'"),
        described(dtype="'<f16'"),
        described(dtype="'|V8'"),
        described(dtype="[('a', '<f8')]"),
        described(dtype="__import__('os')"),
        "(" * 5000,
        "{" + "'a': 1, " * 5000 + "}",
    ],
)
def test_arrays_that_are_not_what_their_header_says_are_refused(path, header):
    forged(path, {"0.npy": npy(np.arange(3.0), header)})
    with pytest.raises(ArchiveError, match="is a damaged test file"):
        read(path, **OPTIONS)


@pytest.mark.parametrize(
    ("members", "options"),
    [
        ({"0.npy": npy(np.zeros(10**6))}, {"compression": zipfile.ZIP_DEFLATED}),
        ({"../0.npy": npy(np.zeros(1))}, {}),
        ({"/etc/0.npy": npy(np.zeros(1))}, {}),
        ({"1.npy": npy(np.zeros(1))}, {}),
        ({"0.npy": npy(np.zeros(1)), "code.py": b"import os"}, {}),
    ],
)
def test_members_that_are_compressed_or_have_other_names_are_refused(path, members, options):
    forged(path, members, **options)
    with pytest.raises(ArchiveError, match=r"other names|compressed"):
        read(path, **OPTIONS)


def test_members_that_overlap_are_refused(path):
    """A bomb without compression: many names for the same bytes."""
    forged(path, {f"{i}.npy": npy(np.zeros(1000)) for i in range(3)})
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("0.npy").header_offset
        for info in file.infolist()[1:]:
            info.header_offset = offset
        infos = file.infolist()
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "w") as file:
        file.fp.write(whole[: offset + 30 + 5 + infos[1].file_size])
        file.filelist, file.start_dir = infos, file.fp.tell()
        file._didModify = True
    with pytest.raises(ArchiveError):
        read(path, **OPTIONS)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"array": 1}, "list index out of range"),
        ({"array": -1}, "unknown"),
        ({"array": True}, "unknown"),
        ({"scalar": 0}, "no axes"),
        ({"text": 0}, "letters"),
        ({"strings": [[1], [3]]}, "must hold strings"),
        ({"strings": [[10**9, 10**9], []]}, "array|reshape|dimension"),
        ({"value": ["os", []]}, "unknown"),
        ({"__class__": 0}, "unknown"),
        ({"decode": 0}, "unknown"),
        ({"a": 0, "b": 0}, "too many values"),
        ({}, "not enough values"),
        ({"float": "1e5"}, "unknown"),
        ({"dict": [[[], 0]]}, "unknown"),
        ({"dict": [[1.5, 0]]}, "unknown"),
    ],
)
def test_contents_of_unknown_kinds_are_refused(path, content, match):
    forged(path, {"0.npy": npy(np.zeros(3))}, {"content": content})
    with pytest.raises(ArchiveError, match=f"is a damaged test file: .*{match}"):
        read(path, **OPTIONS)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": "test file", "version": 3}',
        b'{"format": "test file", "version": 3, "content": NaN}',
        b'{"format": "test file", "version": 3, "content": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        b'{"format": "test file", "version": 3, "content": ' + b"9" * 10**4 + b"}",
        "{'é'}".encode("latin1"),
    ],
)
def test_headers_that_are_none_are_refused(path, text):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.json", text)
    with pytest.raises(ArchiveError, match="is no test file, or a damaged one"):
        read(path, **OPTIONS)


def test_numbers_beyond_float64_are_refused(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.json", b'{"format": "test file", "version": 3, "content": 1e999}')
    with pytest.raises(ArchiveError, match="must be finite"):
        read(path, **OPTIONS)


def test_files_of_another_kind_or_version_say_so(path):
    write(path, 1, what="test file", version=4)
    with pytest.raises(ArchiveError, match=r"of version 3, got version 4\. A newer release"):
        read(path, **OPTIONS)
    write(path, 1, what="photograph", version=3)
    with pytest.raises(ArchiveError, match="must be a test file, got a photograph"):
        read(path, **OPTIONS)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ArchiveError, match="is no test file"):
        read(path, **OPTIONS)


def test_what_is_no_file_is_refused_without_waiting_for_it(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        read(path, **OPTIONS)
    with pytest.raises(IsADirectoryError, match="is a folder, no test file"):
        read(tmp_path, **OPTIONS)
    os.mkfifo(path)
    with pytest.raises(ArchiveError, match="no regular file"):
        read(path, **OPTIONS)
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(OSError):
        read(link, **OPTIONS)


def test_a_hole_that_claims_to_be_large_takes_no_memory(path):
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ArchiveError, match="must be smaller than"):
        read(path, **OPTIONS)
