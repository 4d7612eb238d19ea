"""What stands for the names in a pickle of plain containers and NumPy arrays: all that it can call."""

from typing import Any

import numpy as np

from uda_jax.weights.pickles import Builder, Pending, Refusal, as_dict, as_key, as_text, shown


def _namespace() -> Pending:
    return Pending(lambda state: as_dict(state.items()))


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 of Python 3 writes them."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError
    return as_text(text).encode("latin-1")


def _raw(data: Any) -> bytes:
    """Returns an array's bytes, which Python 2 wrote as a string."""
    if type(data) is not bytes:
        return _encode(data, "latin-1")
    return data


_DTYPE_CODES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}


def _dtype(code: str, align: bool = False, copy: bool = True) -> Pending:
    if as_text(code) not in _DTYPE_CODES:
        raise Refusal(f"holds a NumPy array of dtype {shown(code)}, which is not read; save plain numbers")

    def finish(state: tuple) -> np.dtype:
        _, order, *structure = state
        # Sub-arrays, field names and fields.
        if any(part is not None for part in structure[:3]):
            raise ValueError
        return np.dtype(code).newbyteorder(order)

    return Pending(finish)


def _shaped(data: Any, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    """Returns an array over the bytes, in the machine's byte order."""
    raw = _raw(data)
    if not isinstance(dtype, np.dtype):
        raise TypeError
    array = np.ndarray(shape, dtype, raw, order=order)
    if array.nbytes != len(raw):
        raise ValueError
    return array.astype(dtype.newbyteorder("="), copy=False)


def _array(kind: Any, shape: tuple, code: Any) -> Pending:
    def finish(state: tuple) -> np.ndarray:
        _, shape, dtype, fortran, raw = state
        return _shaped(raw, dtype, shape, "F" if fortran else "C")

    return Pending(finish)


def _scalar(dtype: np.dtype, data: Any) -> np.generic:
    return _shaped(data, dtype, (), "C")[()]


PLAIN_NAMES: dict[str, Any] = {
    "collections.OrderedDict": Builder(lambda items=(): as_dict(items)),
    "collections.Counter": Builder(lambda counts: as_dict(counts.items())),
    "collections.defaultdict": Builder(lambda factory=None: {}),
    "builtins.dict": Builder(lambda: {}),
    "builtins.list": Builder(lambda: []),
    "builtins.int": Builder(lambda: 0),
    "builtins.float": Builder(lambda: 0.0),
    "builtins.set": Builder(lambda items=(): set(map(as_key, items))),
    "builtins.frozenset": Builder(lambda items=(): frozenset(map(as_key, items))),
    "builtins.bytes": Builder(lambda: b""),
    "_codecs.encode": Builder(_encode),
    # Options of a training script, read as the dict of their fields.
    "argparse.Namespace": Builder(_namespace),
    "easydict.EasyDict": Builder(lambda: {}),
    "numpy.ndarray": object(),
    "numpy.dtype": Builder(_dtype),
    "numpy._core.multiarray._reconstruct": Builder(_array),
    "numpy._core.multiarray.scalar": Builder(_scalar),
    "numpy._core.numeric._frombuffer": Builder(_shaped),
}
