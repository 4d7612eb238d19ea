"""What DeepLab-v2's options do, on networks of a few channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks
from uda_jax.networks.resnet import max_pool_ceil

IMAGES = jax.random.normal(jax.random.key(1), (2, 33, 48, 3))


def small(**options):
    return networks.build("deeplab_v2_resnet14", 5, **{"width": 4, "multi_level": True, **options})


@pytest.fixture(scope="module")
def variables():
    """Variables of `small()` from NumPy, with statistics unlike those of any batch."""
    generator = np.random.default_rng(0)

    def fill(path, leaf):
        match path[-1].key:
            case "kernel":
                return generator.normal(0, (2 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape)
            case "var" | "scale":
                return generator.uniform(0.5, 1.5, leaf.shape)
            case _:
                return generator.normal(0, 0.1, leaf.shape)

    shapes = jax.eval_shape(small().init, jax.random.key(0), IMAGES)
    return jax.tree.map_with_path(lambda path, leaf: jnp.asarray(fill(path, leaf), jnp.float32), shapes)


def evaluate(variables, **options):
    return jax.jit(small(**options).apply)(variables, IMAGES)


def train(variables, **options):
    return jax.jit(functools.partial(small(**options).apply, train=True, mutable=["batch_stats"]))(variables, IMAGES)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"multi_level": True}, 44_601_560),
        ({"multi_level": True, "aspp_branches": 2, "remat": True}, 44_601_560),
        ({}, 44_601_560 - 4 * 19 * (9 * 1024 + 1)),
        ({"aspp_bias": False}, 44_601_560 - 4 * 19 * (9 * 1024 + 1) - 4 * 19),
    ],
)
def test_parameter_count(options, expected):
    network = networks.build("deeplab_v2_resnet101", 19, **options)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 65, 97, 3)))
    assert count(shapes["params"]) == expected
    affine = [leaf for path, leaf in jax.tree.leaves_with_path(shapes["params"]) if "scale" in str(path[-1])]
    assert len(affine) == 104


def test_outputs(variables):
    outputs = evaluate(variables)
    assert {name: value.shape for name, value in outputs.items()} == {
        "logits": (2, 5, 7, 5),
        "aux_logits": (2, 5, 7, 5),
        "features": (2, 5, 7, 128),
    }
    assert (outputs["features"] > 0).any(), "dead units would make these tests pass in vain"
    classified = small().apply(variables, outputs["features"], method="classify")
    np.testing.assert_allclose(classified, outputs["logits"], rtol=1e-4, atol=1e-5)
    fine = jax.eval_shape(small(output_stride=4, multi_level=False).apply, variables, IMAGES)
    assert fine["logits"].shape == (2, 9, 12, 5)
    assert "aux_logits" not in fine


def test_unused_branches(variables):
    heads = {name: variables["params"][name] for name in ("head", "aux_head")}

    def loss(heads, branches):
        params = {**variables["params"], **heads}
        outputs = small(aspp_branches=branches, output_stride=4).apply({**variables, "params": params}, IMAGES)
        return jnp.square(outputs["logits"]).sum() + jnp.square(outputs["aux_logits"]).sum()

    two, four = jax.jit(lambda heads: (jax.grad(loss)(heads, 2), jax.grad(loss)(heads, 4)))(heads)
    for head in heads:
        for branch in range(4):
            for leaf in ("kernel", "bias"):
                assert np.any(two[head][f"branch_{branch}"][leaf]) == (branch < 2)
                assert np.any(four[head][f"branch_{branch}"][leaf])


def test_training_mode(variables):
    _, updated = train(variables)
    changed = jax.tree.map(lambda a, b: np.any(a != b), updated["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(changed))
    outputs, kept = train(variables, bn_mode="frozen")
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
    np.testing.assert_allclose(outputs["logits"], evaluate(variables)["logits"], rtol=1e-5, atol=1e-6)


def test_remat_changes_nothing(variables):
    def step(params, remat):
        outputs, updated = small(remat=remat).apply(
            {**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"]
        )
        return jnp.square(outputs["logits"]).mean(), updated

    gradient = jax.jit(jax.value_and_grad(step, has_aux=True), static_argnums=1)
    plain, remat = gradient(variables["params"], False), gradient(variables["params"], True)
    assert jax.tree.structure(plain) == jax.tree.structure(remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, remat)
    fresh = jax.eval_shape(small(remat=True).init, jax.random.key(0), IMAGES)
    assert jax.tree.map(lambda leaf: leaf.shape, fresh) == jax.tree.map(jnp.shape, variables)


def test_bfloat16_keeps_float32_state(variables):
    outputs, updated = train(variables, dtype=jnp.bfloat16)
    exact, _ = train(variables)
    fresh = jax.eval_shape(small(dtype=jnp.bfloat16).init, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, updated, fresh))} == {jnp.dtype(jnp.float32)}
    error = float(jnp.abs(outputs["logits"] - exact["logits"]).max() / exact["logits"].std())
    assert 0 < error < 0.3


@pytest.mark.parametrize(
    ("options", "encoder", "head"),
    [
        ({}, (2 / (9 * 128)) ** 0.5, 0.01),
        ({"encoder_init": "normal", "head_init": "he"}, 0.01, (2 / (9 * 512)) ** 0.5),
    ],
)
def test_start(options, encoder, head):
    network = networks.build("deeplab_v2_resnet14", 5, **options)

    @jax.jit
    def start(key):  # only what is looked at, so that only this is compiled
        params = network.init(key, jnp.zeros((1, 16, 16, 3)))["params"]
        return params["encoder"]["layer4_0"]["conv2"]["kernel"], params["head"]["branch_3"]

    kernel, branch = start(jax.random.key(0))
    np.testing.assert_allclose(kernel.std(), encoder, rtol=0.02)
    np.testing.assert_allclose(branch["kernel"].std(), head, rtol=0.05)
    assert 0 < float(jnp.abs(branch["bias"]).max()) <= (9 * 512) ** -0.5


def test_max_pool():
    x = jnp.asarray([[1.0, 5.0, 2.0, 4.0], [3.0, 0.0, 9.0, -1.0]])[None, :, :, None] - 20
    # Four columns: windows begin at -1, 1 and 3; the last one holds only the last column.
    expected = np.array([[5.0, 9.0, 4.0], [3.0, 9.0, -1.0]]) - 20
    np.testing.assert_array_equal(max_pool_ceil(x, 2)[0, :, :, 0], expected)
    np.testing.assert_array_equal(max_pool_ceil(x, 1)[0, :, :, 0], np.array([[5.0, 9, 9, 9], [5, 9, 9, 9]]) - 20)
    gradient = jax.grad(lambda x: max_pool_ceil(x, 2).sum())(x)[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[0, 1, 0, 1], [1, 0, 2, 1]])
