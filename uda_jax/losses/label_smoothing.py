"""Label smoothing whose strength adapts to each pixel (PLCA, NeurIPS 2020, arXiv 2011.00147)."""

import jax
import jax.numpy as jnp


@jax.named_scope("adaptive_label_smoothing")
def adaptive_label_smoothing(logits: jax.Array, *, strength: float = 10.0) -> jax.Array:
    r"""Cross entropy against uniform labels, weighted by how far it is from a fixed point.

    With :math:`r_i = -\frac{1}{C} \sum_c \log p_{ic} \ge \log C` of pixel i and the strength :math:`\lambda`, the
    result is the mean of :math:`\mathrm{sg}(r_i / \lambda - 1)\, r_i`, where sg passes no gradient. Below
    :math:`\lambda` it sharpens the prediction, above it smooths; so a negative value is nothing unusual.

    Args:
      logits: class scores `[..., C]`, any float dtype; computed in float32. Every pixel counts.
      strength: :math:`\lambda` in nats; with 0 or less the result is the plain mean of r.

    Returns:
      A float32 scalar, in nats.
    """
    uniform = -jnp.mean(jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
    if strength <= 0:
        return jnp.mean(uniform)
    return jnp.mean(jax.lax.stop_gradient(uniform / strength - 1.0) * uniform)
