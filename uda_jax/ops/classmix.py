"""ClassMix: half of an image's classes, cut out along their labels and pasted onto another image.

Source: DACS (arXiv 2007.08702), which pastes from one domain into the other, with its released code.
"""

import jax
import jax.numpy as jnp

# Values that an 8-bit label can hold.
VALUES = 256


def choose_classes(
    key: jax.Array, labels: jax.Array, *, ignore_label: int | None = None, of_batch: bool = False
) -> jax.Array:
    """Draws half of the values that each image's label shows, uniformly and without replacement.

    Args:
      key: PRNG key; the draw of an image depends on its position in the batch.
      labels: integer maps `[B, H, W]` in [0, 256).
      ignore_label: a value that is never drawn and does not count; None counts and draws every value, 255 included, as
        the released code does.
      of_batch: whether values are those of the whole batch, for each image drawn anew, as in DAFormer's code.

    Returns:
      bool `[B, 256]`, indexed by label value: ceil(n / 2) of the n values that are present.
    """
    present = jax.vmap(lambda values: jnp.zeros(VALUES, bool).at[values].set(True))(_flat(labels))
    if of_batch:
        present = jnp.broadcast_to(jnp.any(present, axis=0, keepdims=True), present.shape)
    if ignore_label is not None:
        present = present.at[:, ignore_label].set(False)
    random_scores = jnp.where(present, jax.random.uniform(key, present.shape), jnp.inf)
    rank = jnp.argsort(jnp.argsort(random_scores, axis=-1), axis=-1)
    half = (jnp.sum(present, axis=-1, keepdims=True) + 1) // 2
    return present & (rank < half)


def classmix_mask(labels: jax.Array, chosen: jax.Array) -> jax.Array:
    """Marks the pixels of the chosen classes.

    Args:
      labels: integer maps `[B, H, W]` in [0, 256); anything else belongs to no class.
      chosen: bool `[B, 256]`, indexed by label value.

    Returns:
      bool `[B, H, W]`, the union of the chosen classes.

    Raises:
      ValueError: the shapes do not fit together.
    """
    if labels.ndim != 3 or chosen.shape != (labels.shape[0], VALUES):
        raise ValueError(f"chosen: expected shape [B, {VALUES}] for labels {labels.shape}, got {chosen.shape}")
    values = _flat(labels)
    mask = jnp.take_along_axis(chosen, jnp.clip(values, 0, VALUES - 1), axis=1)
    return (mask & (values >= 0) & (values < VALUES)).reshape(labels.shape)


def mix(mask: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the source where the mask is True and the target elsewhere, bit for bit.

    Args:
      mask: bool `[B, H, W]`.
      source, target: images `[B, H, W, C]`, or labels, weights or depth `[B, H, W]`, both of one type.
    """
    return jnp.where(mask.reshape(mask.shape + (1,) * (source.ndim - mask.ndim)), source, target)


def _flat(labels: jax.Array) -> jax.Array:
    return labels.reshape(labels.shape[0], -1).astype(jnp.int32)
