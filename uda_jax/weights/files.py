"""Files of weights, read and written without PyTorch: PyTorch's two formats, plain pickles and safetensors.

    container = files.read("model_25000.pth")                        nested dicts and lists of NumPy arrays
    files.write_safetensors("model.safetensors", state_dict, {"dialect": "advent"})

What a file is, its content decides; the suffix plays no part (`.pth`, `.pt`, `.pkl`, `.tar`, `.weights`, `.resume`).
"""

import io
import mmap
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from uda_jax.data.io import atomic
from uda_jax.errors import UserError
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
        # The length of the header, below 2**32, and its opening brace.
        if start[4:] == b"\0\0\0\0{":
            return _read_safetensors(path)
        if content[257:262] == b"ustar":
            raise Refusal("expected a file of weights, got a tar archive; unpack it and give the file inside")
        return _read_pickles(content)
    except Refusal as refusal:
        raise UserError(f"{path}: {refusal}") from refusal


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
        raise UserError(
            f"{path}: cannot be written ({_one_line(error)}); free some space or choose another folder"
        ) from error


_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_SAFETENSORS_DTYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64"),
}


def _mapped(path: pathlib.Path) -> mmap.mmap:
    """Maps a file into memory, for reading only."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError(f"{path}: the file is empty; copy or download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: expected a file of weights, got a folder; give a file in it") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise _damaged_safetensors(error) from error
    except (KeyError, TypeError) as error:
        raise Refusal(f"holds a tensor of a dtype that NumPy lacks ({_one_line(error)}); save it as float32") from error


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
