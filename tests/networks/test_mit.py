"""The Mix Transformer: golden outputs of the released code, sizes, what training drops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import assert_map_close, nhwc

from uda_jax import networks, weights
from uda_jax.errors import UserError
from uda_jax.networks import mit

GOLDEN = vectors.FOLDER / "daformer"
TINY = {"width": 4, "blocks": (2, 1, 1, 1)}
IMAGES = jax.random.normal(jax.random.key(0), (2, 33, 49, 3))


def stand_in(name):
    state_dict = vectors.stand_in(f"daformer/{name}.manifest.json")
    variables = weights.from_torch(state_dict, "mit")
    return {"params": variables["params"]["encoder"]}


@pytest.mark.parametrize("name", ["mit_b0", "mit_b5"])
def test_golden_maps(name):
    golden = np.load(GOLDEN / f"{name}.npz")
    apply = jax.jit(networks.build_encoder(name).apply)
    with jax.default_matmul_precision("highest"):
        maps = apply(stand_in(name), nhwc(golden["x"]))
    assert tuple(maps) == mit.STAGES
    for stage in range(1, 5):
        assert_map_close(maps[f"stage{stage}"], golden[f"c{stage}"], rtol=0, atol=1e-4)


def test_golden_block():
    golden = np.load(GOLDEN / "mit_b0_stage1_block0.npz")
    params = stand_in("mit_b0")["params"]
    block = params["block1_0"]
    height, width = golden["hw"]
    with jax.default_matmul_precision("highest"):
        embedded = mit.PatchEmbedding(32, 7, 4, jnp.float32).apply(
            {"params": params["patch_embed1"]}, nhwc(golden["x"])
        )
        both = mit.Block(1, 8, jnp.float32, 0.0).apply(
            {"params": block}, embedded, False, capture_intermediates=True, mutable=["intermediates"]
        )
    found = both[1]["intermediates"]
    for ours, name in (
        (embedded, "tokens"),
        (found["attn"]["__call__"][0], "attn_out"),
        (found["mlp"]["__call__"][0], "mlp_out"),
        (both[0], "block_out"),
    ):
        expected = golden[name].reshape(1, height, width, -1)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("name", "count"), [("mit_b0", 3_319_392), ("mit_b5", 81_443_008)])
def test_sizes(name, count):
    network = networks.build_encoder(name)
    images = jnp.zeros((1, 512, 512, 3))
    maps, shapes = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    width, blocks = mit.SIZES[name]
    assert [sum(part.startswith(f"block{s}_") for part in shapes["params"]) for s in range(1, 5)] == list(blocks)
    sides, channels = (128, 64, 32, 16), (width, 2 * width, 5 * width, 8 * width)
    assert [x.shape[1:] for x in maps.values()] == [(n, n, c) for n, c in zip(sides, channels, strict=True)]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_maps_of_odd_sizes_and_their_names():
    network = networks.build_encoder("mit_b0", **TINY)
    shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
    maps = jax.eval_shape(lambda v, x: network.apply(v, x, collect=("stage2", "stage4")), shapes, IMAGES)
    assert {name: x.shape for name, x in maps.items()} == {"stage2": (2, 5, 7, 8), "stage4": (2, 2, 2, 32)}
    with pytest.raises(UserError, match=r"mit: unknown map 'layer4'; known: stage1, stage2, stage3, stage4"):
        jax.eval_shape(lambda v, x: network.apply(v, x, collect=("layer4",)), shapes, IMAGES)
    with pytest.raises(UserError, match=r"mit: expected images of at least 29x29 pixels, got 28x49"):
        jax.eval_shape(network.apply, shapes, IMAGES[:, :28])


def test_depth_order():
    depth = networks.layer_depth("daformer_mit_b0")
    paths = {
        "segmenter/encoder/patch_embed1/norm/scale": 0,
        "segmenter/encoder/block2_0/norm1/scale": 1,
        "segmenter/encoder/norm4/bias": 3,
        "segmenter/head/embed_layers_0/proj/kernel": 4,
    }
    assert {path: depth(path) for path in paths} == paths


def test_training_drops_branches_of_whole_images_only_with_an_rng(filled):
    network = networks.build_encoder("mit_b0", **TINY, drop_path=0.9)
    variables = filled(network, IMAGES)
    apply = jax.jit(network.apply, static_argnames="train")
    plain = apply(variables, IMAGES)
    jax.tree.map(np.testing.assert_array_equal, plain, apply(variables, IMAGES, train=True))
    key = jax.random.key(3)
    dropped = apply(variables, IMAGES, train=True, rngs={"dropout": key})
    # Of the first block nothing is dropped, of the last one nine branches in ten.
    assert not np.allclose(dropped["stage4"], plain["stage4"])
    evaluated = apply(variables, IMAGES, train=False, rngs={"dropout": key})
    jax.tree.map(np.testing.assert_array_equal, plain, evaluated)


def test_drop_path_scales_what_is_kept():
    """A branch of an image is either left out or enlarged by as much as the others are missing."""
    x = jax.random.normal(jax.random.key(1), (64, 2, 2, 4))
    block = mit.Block(1, 1, jnp.float32, 0.5)
    params = block.init(jax.random.key(2), x, False)
    params["params"]["mlp"] = jax.tree.map(jnp.zeros_like, params["params"]["mlp"])
    plain = block.apply(params, x, False) - x
    dropped = block.apply(params, x, True, rngs={"dropout": jax.random.key(0)}) - x
    kept = np.abs(dropped).max(axis=(1, 2, 3)) > 0
    assert 0.2 < kept.mean() < 0.8
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-3, atol=1e-5)


def test_low_precision_keeps_masters():
    network = networks.build_encoder("mit_b0", **TINY, dtype=jnp.bfloat16)
    maps, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), IMAGES)
    assert {x.dtype for x in maps.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
