"""The PyTorch names of a checkpoint's pickle, and what they stand for here: NumPy views of storages."""

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np

from uda_jax.weights.builders import PLAIN_NAMES
from uda_jax.weights.pickles import Builder, Damaged, Refusal, Unsupported, shown

# A few bytes could stand for terabytes otherwise, to whoever copies the view.
_MAX_EXPANDED_BYTES = 2**26


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """The bytes that tensors are views of; None while their place in the file is not known yet."""

    dtype: np.dtype
    data: memoryview | None


@dataclasses.dataclass(frozen=True, slots=True)
class StorageKind:
    """What PyTorch's storage classes say: the dtype of their elements."""

    dtype: np.dtype


def storage_identity(identity: Any, length: int) -> tuple[np.dtype, str, int, tuple | None]:
    """Checks a persistent id, the pickle's reference to a storage.

    Args:
      identity: ("storage", kind, key, device, elements) in archives; older files add a view, (key, offset, length) in
        elements or None.
      length: of such a tuple.

    Returns:
      (dtype, key, number of elements, view).

    Raises:
      Refusal: an id of another form.
    """
    if type(identity) is tuple and len(identity) == length and type(identity[0]) is str and identity[0] == "storage":
        _, kind, key, device, elements, *rest = identity
        view = rest[0] if rest else None
        fits = view is None or (type(view) is tuple and len(view) == 3 and all(map(_is_count, view[1:])))
        if fits and type(kind) is StorageKind and type(key) is type(device) is str and _is_count(elements):
            return kind.dtype, key, elements, view
    raise Refusal("the pickle refers to an object that is no storage of a tensor; refused (the file may be harmful)")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, dtype: np.dtype | None = None) -> np.ndarray:
    """Returns a tensor as a view of its storage; offset and stride count elements."""
    if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
        raise TypeError
    # NumPy's arrays have at most 64 dimensions.
    if len(size) != len(stride) or len(size) > 64 or not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError
    dtype = storage.dtype if dtype is None else dtype
    if storage.data is None:
        return np.zeros(0, dtype)
    elements = math.prod(size)
    if elements == 0:
        return np.zeros(size, dtype)
    end = (offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1) * dtype.itemsize
    available = len(storage.data)
    if end > available:
        raise Damaged(
            f"a tensor of shape {shown(size)} ends at byte {end} of a storage of {available}; download it again"
        )
    if elements * dtype.itemsize > max(available, _MAX_EXPANDED_BYTES):
        raise Refusal(f"a tensor of shape {shown(size)} repeats a storage of {available} bytes; save a copy of it")
    # The stride of a dimension of length 1 has no meaning and may be any number.
    strides = [step * dtype.itemsize if n > 1 else dtype.itemsize for n, step in zip(size, stride, strict=True)]
    return np.ndarray(size, dtype, storage.data, offset * dtype.itemsize, strides)


def _rebuild_v2(storage, offset, size, stride, requires_grad, hooks, metadata=None) -> np.ndarray:
    return _unflagged(_rebuild(storage, offset, size, stride), metadata)


def _rebuild_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None) -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise TypeError
    return _unflagged(_rebuild(storage, offset, size, stride, dtype), metadata)


def _unflagged(tensor: np.ndarray, metadata: Any) -> np.ndarray:
    """Returns the tensor unless PyTorch still owes it an operation (`conj`, `neg`)."""
    if metadata:
        raise Refusal("holds a tensor with a pending conjugate or sign; save a copy of it (resolve_conj, resolve_neg)")
    return tensor


def _first(tensor: Any, *_: Any) -> np.ndarray:
    """Returns a parameter's tensor, without gradient flag, hooks and attributes."""
    if type(tensor) is not np.ndarray:
        raise TypeError
    return tensor


def _rebuild_from_type(builder: Any, kind: Any, arguments: tuple, state: Any) -> np.ndarray:
    """Returns the tensor of one with attributes, without them."""
    if type(builder) is not Builder or builder.make not in (_rebuild_v2, _rebuild_v3):
        raise TypeError
    return builder.make(*arguments)


def _size(items: Any = ()) -> tuple[int, ...]:
    if not all(map(_is_count, items)):
        raise ValueError
    return tuple(items)


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or not (index is None or _is_count(index)):
        raise TypeError
    return kind if index is None else f"{kind}:{index}"


def _layout(name: Any) -> str:
    if type(name) is not str:
        raise TypeError
    return name


_DENSE = "save it dense and as float32 with PyTorch"
_DTYPES = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


def _names() -> dict[str, Any]:
    names = dict(PLAIN_NAMES)
    for name, dtype in _DTYPES.items():
        names[f"torch.{name}"] = np.dtype(dtype)
    for name, dtype in _STORAGES.items():
        names[f"torch.{name}"] = names[f"torch.cuda.{name}"] = StorageKind(np.dtype(_DTYPES[dtype]))
    for name in ("torch.UntypedStorage", "torch.storage.UntypedStorage"):
        names[name] = StorageKind(np.dtype(np.uint8))
    for name in ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"):
        names[f"torch.{name}"] = Unsupported("a quantised tensor", _DENSE)
    return names | {
        "torch._utils._rebuild_tensor": Builder(_rebuild),
        "torch._utils._rebuild_tensor_v2": Builder(_rebuild_v2),
        "torch._utils._rebuild_tensor_v3": Builder(_rebuild_v3),
        "torch._utils._rebuild_parameter": Builder(_first),
        "torch._utils._rebuild_parameter_with_state": Builder(_first),
        "torch._tensor._rebuild_from_type_v2": Builder(_rebuild_from_type),
        "torch._utils._rebuild_qtensor": Unsupported("a quantised tensor", _DENSE),
        "torch._utils._rebuild_sparse_tensor": Unsupported("a sparse tensor", _DENSE),
        "torch._utils._rebuild_nested_tensor": Unsupported("a nested tensor", _DENSE),
        "torch._utils._rebuild_meta_tensor_no_storage": Unsupported("a tensor without values", _DENSE),
        "torch.storage._load_from_bytes": Unsupported("a tensor pickled without torch.save", "save it with torch.save"),
        "torch.Tensor": object(),
        "torch.nn.parameter.Parameter": object(),
        "torch.Size": Builder(_size),
        "torch.device": Builder(_device),
        "torch.serialization._get_layout": Builder(_layout),
    }


NAMES = _names()
