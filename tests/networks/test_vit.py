"""DINOv2's and DINOv3's encoders: their sizes, inputs, masked patches and order of depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks
from uda_jax.errors import UserError
from uda_jax.networks.positions import resize_table, rotary_table, rotate
from uda_jax.networks.vit_blocks import hidden_width

TINY = {"width": 16, "depth": 2, "heads": 2}
IMAGES = jax.random.normal(jax.random.key(0), (2, 28, 112, 3))


@pytest.fixture(scope="module")
def dinov2(filled):
    network = networks.build_encoder("dinov2_vits14", **TINY, table=4, registers=4)
    return network, filled(network, IMAGES)


@pytest.mark.parametrize(
    ("name", "options", "count", "registers"),
    [
        ("dinov2_vits14", {}, 22_056_576, 1_536),
        ("dinov2_vitb14", {}, 86_580_480, 3_072),
        ("dinov2_vitl14", {}, 304_368_640, 4_096),
        ("dinov2_vitg14", {}, 1_136_480_768, 6_144),
        ("dinov3_vits16", {}, 21_601_152, 0),
        ("dinov3_vits16plus", {}, 28_697_472, 0),
        ("dinov3_vitb16", {}, 85_669_632, 0),
        ("dinov3_vitl16", {}, 303_154_176, 0),
        ("dinov3_vith16plus", {}, 840_633_600, 0),
    ],
)
def test_parameters_of_the_published_sizes(name, options, count, registers):
    def parameters(**more):
        network = networks.build_encoder(name, **options, **more)
        images = jnp.zeros((1, 2 * network.patch, 2 * network.patch, 3))
        shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), images, collect=("features",)))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert parameters() == count
    if registers and name != "dinov2_vitg14":
        assert parameters(registers=4) == count + registers


@pytest.mark.parametrize(("size", "grid"), [((28, 112), (2, 8)), ((70, 98), (5, 7)), ((518, 518), (37, 37))])
@pytest.mark.parametrize("registers", [0, 4])
def test_tokens_and_maps(size, grid, registers):
    network = networks.build_encoder("dinov2_vits14", **TINY, registers=registers)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    tokens, rotation = jax.eval_shape(lambda v, x: network.apply(v, x, method="embed"), shapes, images)
    assert tokens.shape == (2, 1 + registers + grid[0] * grid[1], 16) and rotation is None
    maps = jax.eval_shape(network.apply, shapes, images)
    assert set(maps) - {"registers"} == {"block0", "block1", "normed0", "normed1", "features", "class_token"}
    assert maps["block1"].shape == maps["normed0"].shape == maps["features"].shape == (2, *grid, 16)
    assert maps["class_token"].shape == (2, 1, 1, 16)
    assert ("registers" in maps) == (registers > 0) and (not registers or maps["registers"].shape == (2, 1, 4, 16))


def test_collected_maps_eager_and_compiled(dinov2):
    network, variables = dinov2
    apply = lambda v, x: network.apply(v, x, collect=("block0", "features"))  # noqa: E731
    eager, compiled = apply(variables, IMAGES), jax.jit(apply)(variables, IMAGES)
    assert tuple(eager) == ("block0", "features")
    for name in eager:
        np.testing.assert_allclose(eager[name], compiled[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="dinov2: unknown map 'block2'; known: block0, normed0, block1,"):
        network.apply(variables, IMAGES, collect=("block2",))


def test_a_table_that_fits_is_used_as_it_is():
    table = jax.random.normal(jax.random.key(1), (37, 37, 2))
    assert resize_table(table, (37, 37), antialias=False) is table
    assert resize_table(table, (37, 37), antialias=True) is table


@pytest.mark.parametrize(("name", "patch"), [("dinov2_vits14", 14), ("dinov3_vits16", 16)])
def test_sides_that_the_patch_does_not_divide(name, patch):
    network = networks.build_encoder(name, **TINY)
    with pytest.raises(UserError) as caught:
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 4 * patch, 30, 3)))
    assert str(caught.value) == (
        f"{name[:6]}: expected images whose sides are multiples of {patch} pixels, its patch, got {4 * patch}x30; "
        "crop or resize them"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, r"heads: expected heads of a multiple of 4 channels each, got 5 for a width of 384$"),
        ({"depth": 41}, "depth: expected an integer <= 40, got 41"),
        ({"registers": 3}, "registers: expected one of 0, 4, got 3"),
        ({"depth": 2, "remat": ("block1", "block2")}, "remat: expected blocks below depth = 2, got 'block2'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        networks.build_encoder("dinov2_vits14", **options)


def test_masked_patches(dinov2):
    network, variables = dinov2
    features = jax.jit(lambda x, mask: network.apply(variables, x, mask=mask)["features"])
    nothing, everything = jnp.zeros((2, 2, 8), bool), jnp.ones((2, 2, 8), bool)
    np.testing.assert_array_equal(features(IMAGES, nothing), network_features(dinov2, IMAGES))
    np.testing.assert_array_equal(features(IMAGES, everything), features(2 * IMAGES, everything))
    one = nothing.at[0, 1, 3].set(True)
    inside = IMAGES.at[0, 14:28, 42:56].add(5.0)
    np.testing.assert_array_equal(features(IMAGES, one), features(inside, one))
    assert np.abs(features(IMAGES, nothing) - features(inside, nothing)).max() > 1e-3


def network_features(case, images):
    network, variables = case
    return jax.jit(lambda x: network.apply(variables, x)["features"])(images)


def test_recomputed_blocks_and_bfloat16(dinov2, filled):
    def gradient(**options):
        network = networks.build_encoder("dinov2_vits14", **TINY, table=4, registers=4, **options)
        assert jax.tree.structure(dinov2[1]) == jax.tree.structure(
            jax.eval_shape(network.init, jax.random.key(0), IMAGES)
        )
        loss = lambda v: jnp.square(network.apply(v, IMAGES)["features"][..., 0]).mean()  # noqa: E731
        text = str(jax.make_jaxpr(jax.grad(loss))(dinov2[1]))
        return jax.jit(jax.grad(loss))(dinov2[1]), text.count("remat2") + text.count("checkpoint[")

    plain, none = gradient()
    again, both = gradient(remat="all")
    assert none == 0 and both > 0
    for x, y in zip(*map(jax.tree.leaves, (plain, again)), strict=True):
        np.testing.assert_allclose(y, x, rtol=0, atol=1e-5 * max(np.abs(x).max(), 1e-6))
    network = networks.build_encoder("dinov2_vits14", **TINY, table=4, registers=4, dtype=jnp.bfloat16)
    features = jax.jit(lambda x: network.apply(dinov2[1], x)["features"])(IMAGES)
    expected = network_features(dinov2, IMAGES)
    assert features.dtype == jnp.float32
    difference = np.abs(features - expected)
    assert 0 < difference.max() < 0.1 * np.abs(expected).max()


def test_rotary_positions_depend_on_each_axis_alone():
    wide, high = rotary_table((2, 5), 8), rotary_table((5, 2), 8)
    for a, b in zip(wide, high, strict=True):
        # Angles of y come before those of x, and all of them twice.
        swapped = b.reshape(5, 2, 2, 2, 2).transpose(1, 0, 2, 3, 4)[:, :, :, ::-1]
        np.testing.assert_allclose(a.reshape(2, 5, 2, 2, 2), swapped, rtol=1e-6)


def test_products_of_rotated_tokens_depend_on_their_distance():
    x = jax.random.normal(jax.random.key(2), (1, 1, 1, 8))
    tokens = jnp.broadcast_to(x, (1, 1 + 12, 1, 8))
    turned = rotate(tokens, rotary_table((3, 4), 8))[0, :, 0]
    np.testing.assert_array_equal(turned[0], x[0, 0, 0])  # The class token has no place.
    products = (turned[1:] @ turned[1:].T).reshape(3, 4, 3, 4)
    np.testing.assert_allclose(products[0, 0, 1, 1], products[1, 2, 2, 3], rtol=1e-5)
    assert abs(products[0, 0, 0, 1] - products[0, 0, 1, 0]) > 1e-4


def test_keys_have_no_bias_in_dinov3(filled):
    network = networks.build_encoder("dinov3_vits16", **TINY)
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    variables = filled(network, images)
    bias = variables["params"]["blocks_0"]["attn"]["qkv"]["bias"]
    loss = lambda v: jnp.square(network.apply(v, images)["block1"]).mean()  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(variables)["params"]["blocks_0"]["attn"]["qkv"]["bias"]
    assert bias[16:32].any() and not gradient[16:32].any()
    assert gradient[:16].any() and gradient[32:].any()


@pytest.mark.parametrize(
    ("width", "ratio", "expected"), [(1536, 4, 4096), (384, 6, 1536), (1280, 6, 5120), (32, 4, 88)]
)
def test_hidden_channels_of_swiglu(width, ratio, expected):
    assert hidden_width(width, ratio) == expected


@pytest.mark.parametrize("name", ["dinov2_vits14", "linear_dinov2_vits14", "linear_dinov3_vits16"])
def test_order_of_depth(name):
    depth = networks.layer_depth(name)
    within = "encoder/" if name.startswith("linear") else ""
    for stem in ("patch_embed/proj/kernel", "pos_embed", "cls_token", "mask_token", "register_tokens", "norm/bias"):
        assert depth(f"segmenter/{within}{stem}") == 0
    assert [depth(f"{within}blocks_{i}/mlp/fc1/kernel") for i in (0, 1, 11, 39)] == [1, 2, 12, 40]
    assert depth("segmenter/head/kernel") == depth("head_norm/scale") == 41


@pytest.mark.parametrize("name", ["linear_dinov2_vits14", "linear_dinov3_vits16"])
def test_linear_head(name, filled):
    network = networks.build(name, 3, **TINY, dropout=0.5)
    images = jax.random.normal(jax.random.key(3), (2, 40, 50, 3))
    variables = filled(network, images)
    patch = int(name[-2:])
    outputs = jax.jit(network.apply)(variables, images)
    assert outputs["logits"].shape == (2, 40 // patch, 50 // patch, 3)
    again = network.apply(variables, outputs["features"], method="classify")
    np.testing.assert_allclose(again, outputs["logits"], rtol=1e-5, atol=1e-5)
    train = jax.jit(
        lambda key: network.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs=None if key is None else {"dropout": key}
        )[0]["logits"]
    )
    # Without an rng nothing drops.
    np.testing.assert_array_equal(train(None), train(None))
    assert np.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 0
