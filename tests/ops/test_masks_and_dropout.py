"""Masks of blocks and complementary dropout against the released code."""

import jax
import jax.numpy as jnp
import numpy as np
import vectors

from uda_jax import ops


def test_block_masks():
    golden = vectors.load("vfm-uda/block_mask.npz")
    for k in range(3):
        expected = golden[f"case{k}_mask"][:, 0]
        size = expected.shape[1:]
        assert ops.block_grid(size, int(golden["block_size"])) == tuple(golden[f"case{k}_grid_hw"])
        found = ops.block_mask(jnp.asarray(golden[f"case{k}_u"][:, 0]), size, float(golden["mask_ratio"]))
        np.testing.assert_array_equal(found, expected == 1)


def test_masked_share():
    draws = jax.random.uniform(jax.random.key(0), (1, 320, 320))
    assert abs(float(ops.block_mask(draws, (320, 320), 0.7).mean()) - 0.3) < 0.01
    assert ops.block_mask(draws.at[0, 0, 0].set(0.5), (320, 320), 0.0).mean() > 1 - 1e-4
    assert ops.block_grid((10, 1120), 64) == (1, 18)


def test_complementary_dropout():
    golden = vectors.load("vfm-uda/complementary_dropout.npz")
    kept = np.isin(np.arange(2), golden["kept"])
    found = ops.complementary_dropout(jnp.asarray(golden["features"]), golden["draw"] == 1, jnp.asarray(kept))
    np.testing.assert_allclose(found, golden["dropped"], rtol=0, atol=1e-7)


def test_drawn_pairs():
    draws, kept = jax.jit(lambda key: ops.draw_complementary(key, 5, 1000))(jax.random.key(0))
    assert draws.shape == (5, 1000) and abs(float(draws.mean()) - 0.5) < 0.05
    assert kept.sum() == 2
    features = jnp.ones((10, 3, 1000))
    dropped = ops.complementary_dropout(features, draws, kept)
    np.testing.assert_array_equal(dropped[:5] + dropped[5:], 2 * features[:5])
    np.testing.assert_array_equal((dropped == 1).all((1, 2)), np.tile(kept, 2))
