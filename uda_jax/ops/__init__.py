"""Pure array functions: arrays in, arrays out, no state, no gradient tricks."""

from uda_jax.ops.class_means import class_means
from uda_jax.ops.confusion import confusion_matrix
from uda_jax.ops.depth import NO_SUPERVISION, inverse_depth, relative_inverse_depth
from uda_jax.ops.normalise import normalise
from uda_jax.ops.resize import resize_bilinear, resize_nearest_legacy

__all__ = [
    "NO_SUPERVISION",
    "class_means",
    "confusion_matrix",
    "inverse_depth",
    "normalise",
    "relative_inverse_depth",
    "resize_bilinear",
    "resize_nearest_legacy",
]
