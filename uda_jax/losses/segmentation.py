"""Supervised segmentation losses."""

import jax
import jax.numpy as jnp


@jax.named_scope("cross_entropy")
def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    ignore_label: int = 255,
    class_weights: jax.Array | None = None,
    pixel_weights: jax.Array | None = None,
) -> jax.Array:
    r"""Softmax cross entropy of the labelled pixels.

    With the per-pixel negative log likelihood :math:`\ell_i = -\log \mathrm{softmax}(z_i)_{y_i}`, the valid pixels V,
    class weights w and pixel weights q, the result is

    * :math:`\sum_V \ell_i / |V|` by default,
    * :math:`\sum_V w_{y_i} \ell_i / \sum_V w_{y_i}` with class weights only,
    * :math:`\sum_V q_i w_{y_i} \ell_i / N` with pixel weights, where N counts **all** pixels, ignored ones included
      (DACS and CorDA; w = 1 without class weights).

    A denominator of 0, no valid pixel for instance, makes the loss 0 with zero gradient, where PyTorch returns NaN.

    Args:
      logits: class scores `[..., C]`, any float dtype; computed in float32.
      labels: integer classes `[...]`; `ignore_label` and everything outside [0, C) is ignored.
      ignore_label: the label of unlabelled pixels.
      class_weights: weight of each class `[C]`, >= 0.
      pixel_weights: weight of each pixel `[...]`, >= 0.

    Returns:
      A float32 scalar, in nats.

    Raises:
      ValueError: the shapes do not fit together.
    """
    num_classes = logits.shape[-1]
    expected = {"labels": (labels, logits.shape[:-1]), "class_weights": (class_weights, (num_classes,))}
    expected["pixel_weights"] = (pixel_weights, labels.shape)
    for name, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape} for logits {logits.shape}, got {array.shape}")

    valid, chosen = _labelled(labels, num_classes, ignore_label)
    losses = _cross_entropy_map(logits, valid, chosen, class_weights)
    if pixel_weights is not None:
        return jnp.sum(losses * pixel_weights.astype(jnp.float32)) / labels.size
    weights = 1.0 if class_weights is None else class_weights.astype(jnp.float32)
    total = jnp.sum(jnp.where(chosen, weights, 0.0))
    return jnp.where(total > 0.0, jnp.sum(losses) / jnp.where(total > 0.0, total, 1.0), 0.0)


@jax.named_scope("cross_entropy_map")
def cross_entropy_map(
    logits: jax.Array, labels: jax.Array, *, ignore_label: int = 255, class_weights: jax.Array | None = None
) -> jax.Array:
    """The per-pixel form of `cross_entropy`, for losses that weigh or select pixels by rules of their own.

    Args:
      logits, labels, ignore_label, class_weights: as `cross_entropy` takes them.

    Returns:
      float32 map `[...]` of w l in nats; 0 with zero gradient where the label is ignored.

    Raises:
      ValueError: the shapes do not fit together.
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels: expected shape {logits.shape[:-1]} for logits {logits.shape}, got {labels.shape}")
    return _cross_entropy_map(logits, *_labelled(labels, logits.shape[-1], ignore_label), class_weights)


def _labelled(labels: jax.Array, num_classes: int, ignore_label: int) -> tuple[jax.Array, jax.Array]:
    """Returns which pixels count, bool `[...]`, and the class of each of them, bool `[..., C]`."""
    # uint8 labels could not be compared with a negative ignore label or with more than 256 classes.
    labels = labels.astype(jnp.int32)
    valid = (labels >= 0) & (labels < num_classes) & (labels != ignore_label)
    # A comparison instead of a gather: out-of-range labels are harmless and the gradient needs no scatter.
    return valid, valid[..., None] & (labels[..., None] == jnp.arange(num_classes))


def _cross_entropy_map(
    logits: jax.Array, valid: jax.Array, chosen: jax.Array, class_weights: jax.Array | None
) -> jax.Array:
    # Masking the input as well keeps an infinite logit of an ignored pixel out of the gradient.
    log_probabilities = jax.nn.log_softmax(jnp.where(valid[..., None], logits.astype(jnp.float32), 0.0))
    weights = 1.0 if class_weights is None else class_weights.astype(jnp.float32)
    return -jnp.sum(jnp.where(chosen, weights * log_probabilities, 0.0), axis=-1)
