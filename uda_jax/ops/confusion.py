"""Confusion matrix of integer maps, counted on the device."""

import jax
import jax.numpy as jnp

from uda_jax.ops.platform import platform


def confusion_matrix(
    labels: jax.Array, predictions: jax.Array, num_classes: int, *, ignore_label: int = 255
) -> jax.Array:
    """Counts (label, prediction) pairs.

    Args:
      labels: integer maps of any shape; `ignore_label` and everything outside [0, num_classes) is not counted.
      predictions: integer maps of the same shape, in [0, num_classes); a pixel predicted outside is not counted.
      num_classes: C, static.
      ignore_label: the label of unlabelled pixels, also when it lies inside [0, num_classes).

    Returns:
      int32 counts `[C, C]`, rows = labels, columns = predictions. Sum several batches in int64 on the host: int32
      overflows at 2^31 pixels, about 1000 Cityscapes frames.

    Raises:
      ValueError: the shapes differ.
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"labels and predictions: expected one shape, got {labels.shape} and {predictions.shape}")
    labels, predictions = (x.reshape(-1).astype(jnp.int32) for x in (labels, predictions))
    counted = _within(labels, num_classes) & _within(predictions, num_classes) & (labels != ignore_label)
    # Scatter is the fastest form everywhere but on TPU, where the matrix unit is.
    count = _by_product if platform() == "tpu" else _by_bincount
    return count(labels, predictions, counted, num_classes)


def _within(x: jax.Array, num_classes: int) -> jax.Array:
    return (x >= 0) & (x < num_classes)


def _by_bincount(labels: jax.Array, predictions: jax.Array, counted: jax.Array, num_classes: int) -> jax.Array:
    # Pixels that do not count go to one extra bin, since bincount puts negative values into bin 0.
    bins = jnp.where(counted, labels * num_classes + predictions, num_classes**2)
    counts = jnp.bincount(bins, length=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes).astype(jnp.int32)


def _by_product(labels: jax.Array, predictions: jax.Array, counted: jax.Array, num_classes: int) -> jax.Array:
    rows = jax.nn.one_hot(jnp.where(counted, labels, -1), num_classes, dtype=jnp.int8)
    columns = jax.nn.one_hot(predictions, num_classes, dtype=jnp.int8)
    return jnp.einsum("nr,nc->rc", rows, columns, preferred_element_type=jnp.int32)
