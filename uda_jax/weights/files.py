"""Files of weights, read and written without PyTorch: PyTorch's two formats, plain pickles and safetensors.

    container = files.read("model_25000.pth")                        nested dicts and lists of NumPy arrays
    files.write_safetensors("model.safetensors", state_dict, {"dialect": "advent"})

What a file is, its content decides; the suffix plays no part (`.pth`, `.pt`, `.pkl`, `.tar`, `.weights`, `.resume`).
"""

import io
import json
import mmap
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from uda_jax.data.io import atomic
from uda_jax.errors import UserError, os_error_line
from uda_jax.weights.pickles import Damaged, Refusal, Unpickler, shown
from uda_jax.weights.tensors import NAMES, Storage, storage_identity


def read(path: str | os.PathLike) -> Any:
    """Reads a file of weights. Nothing that a file contains is ever executed.

    Known are what `torch.save` writes (zip archives since PyTorch 1.6, streams of pickles before, by Python 2 or 3),
    plain pickles of NumPy arrays, and safetensors. Devices are ignored, parameters are tensors like any other.

    Args:
      path: the file.

    Returns:
      What was saved, in plain containers: dict (for OrderedDict, Namespace and the like), list, tuple, set, numbers,
      text, and NumPy arrays of PyTorch's shapes; bfloat16 as `ml_dtypes.bfloat16`. A dtype becomes NumPy's, a device
      or layout its name. Arrays out of PyTorch's files are read-only views of the memory-mapped file: bytes are
      loaded when they are touched, and tensors that shared a storage still do. Those of safetensors are copies.

    Raises:
      UserError: no such file, one of another kind, a damaged one, or one that asks for more than tensors and plain
        containers.
    """
    content = _mapped(pathlib.Path(path))
    start = content[:9]
    try:
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(content)
        if _is_safetensors(content):
            return _read_safetensors(path, content)
        if content[257:262] == b"ustar":
            raise Refusal("expected a file of weights, got a tar archive; unpack it and give the file inside")
        return _read_pickles(content)
    except Refusal as refusal:
        raise UserError(f"{path}: {refusal}") from refusal


def metadata(path: str | os.PathLike) -> dict[str, str]:
    """Returns the texts in the header of a safetensors file, {} of any other file.

    Raises:
      UserError: no such file, or a damaged one.
    """
    content = _mapped(pathlib.Path(path))
    if not _is_safetensors(content):
        return {}
    found = _header(content).get("__metadata__", {})
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def write_safetensors(path: str | os.PathLike, state_dict: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes a state dict as a safetensors file, completely or not at all; makes missing folders.

    Args:
      path: where the file goes; what is there is replaced once the new file is complete.
      state_dict: name to array, of any memory layout.
      metadata: kept in the file's header.

    Raises:
      UserError: a dtype that the format does not know, or a disk that does not take the file.
    """
    path = pathlib.Path(path)
    arrays = {name: np.asarray(array, order="C") for name, array in state_dict.items()}
    for name, array in arrays.items():
        if array.dtype.name not in _SAFETENSORS_DTYPES:
            raise UserError(f"{path}: '{name}': safetensors files cannot hold {array.dtype}; convert it to float32")
    try:
        with atomic.replacing(path, flush=True) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            safetensors.numpy.save_file(arrays, temporary, metadata)
            # The library's own temporary file is private to the user, whatever the umask.
            temporary.chmod(mode)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be written: {_reason(error)}") from error


_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
# As the format spells the types that NumPy has, bfloat16 among them.
_READ_DTYPES = frozenset(
    ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "F16", "BF16", "F32", "F64", "C64")
)
_SAFETENSORS_DTYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64"),
}


def _mapped(path: pathlib.Path) -> mmap.mmap:
    """Maps a file into memory, for reading only."""
    try:
        # Opening a pipe would wait for somebody to write into it.
        if path.exists() and not path.is_dir() and not path.is_file():
            raise UserError(f"{path}: expected a file of weights, got a pipe or device; give a file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError(f"{path}: the file is empty; copy or download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: expected a file of weights, got a folder; give a file in it") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error


def _is_safetensors(content: mmap.mmap) -> bool:
    # The length of the header, below 2**32, and its opening brace.
    return content[4:9] == b"\0\0\0\0{"


def _header(content: mmap.mmap) -> dict[str, Any]:
    """Returns the header of a safetensors file, {} where it cannot be read, which the library says better."""
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + min(length, len(content))])
    except (ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _read_safetensors(path: str | os.PathLike, content: mmap.mmap) -> dict[str, np.ndarray]:
    for name, entry in _header(content).items():
        dtype = entry.get("dtype") if isinstance(entry, dict) and name != "__metadata__" else None
        if isinstance(dtype, str) and dtype not in _READ_DTYPES:
            known = ", ".join(sorted(_READ_DTYPES))
            raise Refusal(f"{shown(name)} has the dtype {shown(dtype)}, expected one of {known}; save it as float32")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise _damaged_safetensors(error) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Refusal(f"holds a tensor that NumPy cannot take ({_one_line(error)}); save it as float32") from error


def _damaged_safetensors(error: Exception) -> Damaged:
    return Damaged(f"the safetensors file is damaged ({_one_line(error)}); copy or download it again")


def _read_zip(content: mmap.mmap) -> Any:
    """Reads PyTorch's archive: a pickle, and one record of raw bytes for every storage that it names."""
    records = _records(content)
    if "constants.pkl" in records or any(name.startswith("code/") for name in records):
        raise Refusal("holds a TorchScript program; load it with torch.jit.load and save its state_dict() instead")
    if "data.pkl" not in records:
        raise Refusal("expected a file of weights, got a zip archive without one; unpack it and give the file inside")
    order = bytes(_record(content, records, "byteorder")) if "byteorder" in records else b"little"
    if order != b"little":
        raise Refusal("was written on a big-endian machine; load it with PyTorch and save it again on this one")
    storages = {}

    def storage_of(identity: Any) -> Storage:
        dtype, key, elements, _ = storage_identity(identity, 5)
        if key not in storages:
            storages[key] = _record(content, records, f"data/{key}")
        expected = elements * dtype.itemsize
        if len(storages[key]) != expected:
            sizes = f"{len(storages[key])} bytes, expected {expected}"
            raise Damaged(f"record {shown(f'data/{key}')} has {sizes}; copy or download the file again")
        return Storage(dtype, storages[key])

    return Unpickler(NAMES, len(content), storage_of).load(io.BytesIO(_record(content, records, "data.pkl")))


def _records(content: mmap.mmap) -> dict[str, zipfile.ZipInfo]:
    """Returns an archive's entries by their names below the only folder."""
    try:
        with zipfile.ZipFile(content) as archive:
            entries = archive.infolist()
    # The module lets these through on some broken directories.
    except (zipfile.BadZipFile, NotImplementedError, LookupError, ValueError, OSError) as error:
        raise Damaged(f"the archive is damaged or cut short ({_one_line(error)}); copy or download it again") from error
    return {entry.filename.partition("/")[2]: entry for entry in entries}


def _record(content: mmap.mmap, records: Mapping[str, zipfile.ZipInfo], name: str) -> memoryview:
    """Returns the bytes of one entry, checked against its checksum."""
    damaged = Damaged(f"record {shown(name)} is missing or damaged; copy or download the file again")
    if name not in records:
        raise damaged
    entry = records[name]
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise Refusal(
            f"record {shown(name)} is compressed, as PyTorch never does; load the file and save it again with it"
        )
    # The entry's own header: 30 bytes, of which the last 4 are the lengths of a name and of a padding.
    start = entry.header_offset + 30
    header = content[entry.header_offset : start] if entry.header_offset >= 0 else b""
    if len(header) != 30 or not header.startswith(b"PK\x03\x04"):
        raise damaged
    start += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if start + entry.file_size > len(content):
        raise damaged
    data = memoryview(content)[start : start + entry.file_size]
    # PyTorch can be told to leave checksums out; it writes 0 then.
    if entry.CRC and zlib.crc32(data) != entry.CRC:
        raise damaged
    return data


def _read_pickles(content: mmap.mmap) -> Any:
    """Reads a plain pickle, or PyTorch's older format, which opens with a pickled magic number."""
    size = len(content)
    try:
        first = Unpickler(NAMES, size).load(content)
        is_checkpoint = type(first) is int and first == _MAGIC_NUMBER
        if not is_checkpoint and content.tell() != size:
            raise Damaged("something follows the pickle; copy or download the file again")
    except Damaged as damage:
        # All binary pickles begin with this opcode.
        if content[:1] == b"\x80":
            raise
        raise Refusal(
            "expected weights (PyTorch, pickle or safetensors), "
            f"got a file that starts with {shown(content[:16])}; download it again"
        ) from damage
    return _read_stream(content) if is_checkpoint else first


def _read_stream(content: mmap.mmap) -> Any:
    """Reads the rest of the older format: version, facts about the machine, object, keys, then all storages.

    The object comes before its storages, and only it tells how large their elements are. So it is read twice.
    """
    size = len(content)
    plain = Unpickler(NAMES, size)
    version = plain.load(content)
    if version != 1001:
        raise Damaged("the version of the format is unknown; copy or download the file again")
    # Storages are little-endian whatever these say.
    plain.load(content)
    start = content.tell()
    dtypes = {}
    Unpickler(NAMES, size, lambda identity: _declared(dtypes, identity)).load(content)
    keys = plain.load(content)
    storages = dict(_tail(content, keys, dtypes))

    def storage_of(identity: Any) -> Storage:
        dtype, key, _, view = storage_identity(identity, 6)
        if key not in storages:
            raise Damaged(f"storage {shown(key)} is missing; copy or download the file again")
        data = storages[key]
        if view is not None:
            _, offset, length = view
            data = data[offset * dtype.itemsize : (offset + length) * dtype.itemsize]
        return Storage(dtype, data)

    content.seek(start)
    return Unpickler(NAMES, size, storage_of).load(content)


def _declared(dtypes: dict[str, np.dtype], identity: Any) -> Storage:
    dtype, key, _, _ = storage_identity(identity, 6)
    return Storage(dtypes.setdefault(key, dtype), None)


def _tail(content: mmap.mmap, keys: Any, dtypes: Mapping[str, np.dtype]) -> Iterator[tuple[str, memoryview]]:
    """Yields (key, bytes) of the storages at the end of a file: the number of elements (int64), then the elements."""
    position = content.tell()
    if type(keys) is not list or not all(type(key) is str and key in dtypes for key in keys):
        raise Damaged("the list of storages is damaged; copy or download the file again")
    for key in keys:
        start = position + 8
        position = start + int.from_bytes(content[position:start], "little") * dtypes[key].itemsize
        if start > len(content) or position > len(content):
            raise Damaged(f"the file ends within storage {shown(key)}; copy or download it again")
        yield key, memoryview(content)[start:position]


def _reason(error: Exception) -> str:
    """Returns why a file cannot be read or written, and what to do; the library tells the system's number in words."""
    number = re.search(r"os error ([0-9]+)", str(error))
    code = error.errno if isinstance(error, OSError) else int(number[1]) if number else None
    return os_error_line(OSError(code, os.strerror(code))) if code else _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
