"""Entropy of class probabilities: the loss of MinEnt and the input of AdvEnt's discriminator (ADVENT, CVPR 2019)."""

import jax
import jax.numpy as jnp

from uda_jax.ops.self_information import self_information


def entropy_map(probabilities: jax.Array) -> jax.Array:
    """Normalised entropy of every pixel, the sum of `self_information` over its classes.

    Args:
      probabilities: `[..., C]`, summing to 1 over the last axis.

    Returns:
      float32 map `[...]` in [0, 1].
    """
    return jnp.sum(self_information(probabilities), axis=-1)


@jax.named_scope("entropy")
def entropy(probabilities: jax.Array) -> jax.Array:
    """Mean normalised entropy of all pixels, the MinEnt loss (ADVENT section 3.1; the mean, as in the released code).

    Args:
      probabilities: `[..., C]`, summing to 1 over the last axis.

    Returns:
      A float32 scalar in [0, 1]: C times the mean of `self_information`.
    """
    return jnp.mean(entropy_map(probabilities))


@jax.named_scope("hard_entropy")
def hard_entropy(probabilities: jax.Array, *, fraction: float = 0.3) -> jax.Array:
    """Mean normalised entropy of each image's most uncertain pixels (the "entropy range" variant of MinEnt).

    Args:
      probabilities: `[B, H, W, C]`, summing to 1 over the last axis.
      fraction: the share of each image's pixels, highest entropy first, that enter the mean; in (0, 1].

    Returns:
      A float32 scalar in [0, 1].
    """
    values = entropy_map(probabilities).reshape(probabilities.shape[0], -1)
    return jnp.mean(jax.lax.top_k(values, max(1, round(fraction * values.shape[1])))[0])


@jax.named_scope("class_ratio_prior")
def class_ratio_prior(probabilities: jax.Array, prior: jax.Array, *, relaxation: float = 0.5) -> jax.Array:
    r"""Penalty on classes that an image shows too little of, :math:`\sum_c \max(0, \mu\, p_s(c) - \bar p_t(c))`.

    ADVENT section 3.3. It keeps entropy minimisation from growing the frequent classes over everything.

    Args:
      probabilities: target predictions `[B, H, W, C]`.
      prior: share of each class among the source's labelled pixels `[C]`, summing to 1.
      relaxation: mu in [0, 1]; 0 switches the penalty off, 1 asks for the full source share.

    Returns:
      A float32 scalar, the mean over the images.
    """
    share = jnp.mean(probabilities.astype(jnp.float32), axis=(1, 2))
    return jnp.mean(jnp.sum(jax.nn.relu(relaxation * prior - share), axis=-1))
