"""The history of generated images that a discriminator is trained on (SimGAN, CycleGAN)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def empty_pool(capacity: int, size: tuple[int, int]) -> dict[str, jax.Array]:
    """Returns {"pool": float32 images `[capacity, *size, 3]`, "pooled": how many of them there are, int32}."""
    return {"pool": jnp.zeros((capacity, *size, 3)), "pooled": jnp.zeros((), jnp.int32)}


def exchange_with_pool(
    pool: Mapping[str, jax.Array], images: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Shows a discriminator old images in place of some new ones.

    While the pool fills up, each image is stored and shown. After that each image, in turn, is shown and forgotten or,
    with probability one half, takes the place of a random stored one, which is shown instead.

    Args:
      pool: see `empty_pool`.
      images: new ones `[B, H, W, 3]`, of the pool's size.
      key: what is drawn from, for each image by its position in the batch.

    Returns:
      The images to show `[B, H, W, 3]`, and the pool after them.

    Source: CycleGAN's released code, which keeps 50.
    """
    capacity = pool["pool"].shape[0]

    def one(pool, item):
        image, position = item
        coin, place = jax.random.split(jax.random.fold_in(key, position))
        full = pool["pooled"] >= capacity
        index = jnp.where(full, jax.random.randint(place, (), 0, capacity), pool["pooled"])
        stored, swap = pool["pool"][index], full & jax.random.bernoulli(coin)
        entry = jnp.where(swap | ~full, image, stored)
        pool = {"pool": pool["pool"].at[index].set(entry), "pooled": jnp.minimum(pool["pooled"] + 1, capacity)}
        return pool, jnp.where(swap, stored, image)

    after, shown = jax.lax.scan(one, dict(pool), (images, jnp.arange(images.shape[0])))
    return shown, after
