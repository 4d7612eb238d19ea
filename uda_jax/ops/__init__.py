"""Pure array functions: arrays in, arrays out, no state, no gradient tricks."""

from uda_jax.ops.class_means import class_means
from uda_jax.ops.confusion import confusion_matrix
from uda_jax.ops.normalise import normalise
from uda_jax.ops.resize import resize_bilinear, resize_nearest_legacy

__all__ = ["class_means", "confusion_matrix", "normalise", "resize_bilinear", "resize_nearest_legacy"]
