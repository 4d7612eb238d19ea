"""Supervised segmentation losses."""

import jax
import jax.numpy as jnp


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

    # uint8 labels could not be compared with a negative ignore label or with more than 256 classes.
    labels = labels.astype(jnp.int32)
    valid = (labels >= 0) & (labels < num_classes) & (labels != ignore_label)
    # Masking the input as well keeps an infinite logit of an ignored pixel out of the gradient.
    log_probabilities = jax.nn.log_softmax(jnp.where(valid[..., None], logits.astype(jnp.float32), 0.0))
    # A comparison instead of a gather: out-of-range labels are harmless and the gradient needs no scatter.
    chosen = valid[..., None] & (labels[..., None] == jnp.arange(num_classes))
    weights = 1.0 if class_weights is None else class_weights.astype(jnp.float32)
    losses = -jnp.sum(jnp.where(chosen, weights * log_probabilities, 0.0), axis=-1)

    if pixel_weights is not None:
        return jnp.sum(losses * pixel_weights.astype(jnp.float32)) / labels.size
    total = jnp.sum(jnp.where(chosen, weights, 0.0))
    return jnp.where(total > 0.0, jnp.sum(losses) / jnp.where(total > 0.0, total, 1.0), 0.0)
