"""Losses on a discriminator's raw output."""

import jax
import jax.numpy as jnp


@jax.named_scope("adversarial")
def adversarial(logits: jax.Array, label: float, *, kind: str = "bce") -> jax.Array:
    """Distance of a discriminator's decision from a constant domain label.

    The discriminator minimises it with the true label, the adapted network with the other one. The library labels the
    source 0 and the target 1, as the AdaptSegNet and ADVENT code does (the papers use the opposite letters).

    Args:
      logits: raw outputs of any shape, without sigmoid.
      label: 0 for source, 1 for target.
      kind: "bce", the sigmoid cross entropy `softplus(z) - label z`, or "least_squares", `(z - label)^2` on the raw
        output (LS-GAN).

    Returns:
      A float32 scalar, the mean over all elements.

    Raises:
      ValueError: an unknown kind.
    """
    logits = logits.astype(jnp.float32)
    if kind == "bce":
        return jnp.mean(jax.nn.softplus(logits) - label * logits)
    if kind == "least_squares":
        return jnp.mean(jnp.square(logits - label))
    raise ValueError(f"kind: expected 'bce' or 'least_squares', got {kind!r}")
