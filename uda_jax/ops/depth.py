"""What the depth heads of DADA and CorDA regress: inverse depth, at least 1, larger = nearer.

Batches hold depth in metres and relative disparity, both with 0 where there is no value. The targets made of them are
exactly 1 where there is nothing to learn: too far away to tell or, with `nearest` above 0, missing.
"""

import jax
import jax.numpy as jnp

NO_SUPERVISION = 1.0

# The largest depth, in metres, that 16 bits of centimetres can hold. One centimetre more is the numerator of the
# inverse depth, which so is exactly 1 there, in float32 too.
FARTHEST = 655.35
_NUMERATOR, _OFFSET = 655.36, 0.01


def inverse_depth(depth: jax.Array, *, nearest: float = 0.1) -> jax.Array:
    """Turns metric depth into the inverse depth that DADA and CorDA regress, 655.36 / (metres + 0.01).

    In centimetres v, as DADA writes it, this is 65536 / (v + 1). 1 m gives 648.9, 10 m gives 65.5, and 655.35 m, which
    is what SYNTHIA stores for the sky, exactly 1. It acts on each pixel, so it may come after nearest-neighbour
    resizing, where the references convert first.

    Args:
      depth: metres, any shape, 0 = invalid. Beyond 655.35 m it counts as 655.35 m.
      nearest: metres; anything nearer is taken for invalid. 0.1 is CorDA's rule for the completed stereo depth of
        Cityscapes. 0 is the rule of both for SYNTHIA, where a depth of 0 then gives 65536.

    Returns:
      float32 map of the same shape, 1 .. 65536, 1 = nothing to learn.

    Source: DADA's dataset/depth.py; CorDA's cityscapes_loader.py and synthia_dataset.py.
    """
    # Written so that NaN, too, is invalid.
    usable = (depth >= nearest) & (depth < FARTHEST)
    metres = jnp.where(usable, depth, FARTHEST).astype(jnp.float32)
    return jnp.where(usable, _NUMERATOR / (metres + _OFFSET), NO_SUPERVISION)


def relative_inverse_depth(disparity: jax.Array) -> jax.Array:
    """Turns the disparity of a monocular network into the target that CorDA regresses: disparity + 1.

    Args:
      disparity: any shape, the stored 16 bits divided by 256; 0 = invalid.

    Returns:
      float32 map of the same shape, 1 .. 256.996, 1 = nothing to learn. Its scale is relative, and chosen to resemble
      that of `inverse_depth`.

    Source: CorDA's gta5_dataset.py and cityscapes_loader.py.
    """
    return jnp.asarray(disparity, jnp.float32) + NO_SUPERVISION
