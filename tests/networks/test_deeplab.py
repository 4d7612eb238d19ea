"""What DeepLab-v2's options do, on networks of a few channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks

IMAGES = jax.random.normal(jax.random.key(1), (2, 33, 48, 3))


def small(**options):
    return networks.build("deeplab_v2_resnet14", 5, **{"width": 4, "multi_level": True, **options})


@pytest.fixture(scope="module")
def variables(filled):
    return filled(small(), IMAGES)


def evaluate(variables, **options):
    return jax.jit(small(**options).apply)(variables, IMAGES)


def train(variables, **options):
    return jax.jit(functools.partial(small(**options).apply, train=True, mutable=["batch_stats"]))(variables, IMAGES)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Of the encoder: that of ResNet-50 lacks 17 blocks of stage 3, each with 2 * (256 + 256 + 1024) numbers of batch norm.
RESNET101 = 42_500_160
RESNET50 = RESNET101 - 17 * (2 * 1024 * 256 + 9 * 256 * 256 + 2 * (256 + 256 + 1024))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("deeplab_v2_resnet101", {"multi_level": True}, 44_601_560),
        ("deeplab_v2_resnet101", {"multi_level": True, "aspp_branches": 2, "remat": True}, 44_601_560),
        ("deeplab_v2_resnet101", {}, RESNET101 + 4 * 19 * (9 * 2048 + 1)),
        ("deeplab_v2_resnet101", {"aspp_bias": False}, 43_900_992),  # PLCA
        ("deeplab_v2_resnet101", {"aspp_bias": False, "encoder_style": "torchvision"}, 43_900_992),
        ("deeplab_v2_resnet101", {"depth_head": True}, RESNET101 + 4 * 20 * (9 * 2048 + 1)),
        ("deeplab_v2_resnet50", {}, RESNET50 + 4 * 19 * (9 * 2048 + 1)),
    ],
)
def test_parameter_count(name, options, expected):
    network = networks.build(name, 19, **options)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 65, 97, 3)))
    assert count(shapes["params"]) == expected
    affine = [leaf for path, leaf in jax.tree.leaves_with_path(shapes["params"]) if "scale" in str(path[-1])]
    assert len(affine) == {"deeplab_v2_resnet101": 104, "deeplab_v2_resnet50": 53}[name]


def test_no_head_has_a_bias():
    heads = {"head", "aux_head", "depth_head"}
    network = small(depth_head=True, aspp_bias=False)
    params = jax.eval_shape(network.init, jax.random.key(0), IMAGES)["params"]
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)}
    of_heads = {leaf for leaf in leaves if leaf.split("/")[0] in heads}
    assert of_heads == {f"{head}/branch_{i}/kernel" for head in heads for i in range(4)}
    # With all kernels at zero, what is left of the logits is the bias.
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params["head"])
    np.testing.assert_array_equal(
        network.apply({"params": {"head": params}}, jnp.ones((1, 2, 2, 128)), method="classify"), 0
    )


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


@pytest.mark.parametrize("branches", [2, 4])
def test_depth_head(variables, branches):
    """Parallel to the classifier: one output through a sigmoid, and neither head's output depends on the other."""
    network = small(depth_head=True, aspp_branches=branches, multi_level=False)
    # A classifier of one class is what the depth head must be, up to the sigmoid.
    depth_head = jax.tree.map(lambda leaf: leaf[..., 3:4], variables["params"]["head"])
    params = {**variables["params"], "depth_head": depth_head}
    del params["aux_head"]
    shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)

    def total(params, name):
        outputs = network.apply({**variables, "params": params}, IMAGES)
        return outputs[name].sum(), outputs

    gradient = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    of_logits, outputs = gradient(params, "logits")
    of_depth, _ = gradient(params, "depth")
    assert outputs["depth"].shape == (2, 5, 7, 1)
    expected = 1 / (1 + np.exp(-np.asarray(outputs["logits"][..., 3:4], np.float64)))
    assert 0.05 < expected.std()
    np.testing.assert_allclose(outputs["depth"], expected, rtol=1e-4, atol=1e-5)
    for gradients, own, other in [(of_logits, "head", "depth_head"), (of_depth, "depth_head", "head")]:
        assert all(np.any(leaf) for i in range(branches) for leaf in gradients[own][f"branch_{i}"].values())
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients[other]))
        assert np.any(gradients["encoder"]["conv1"]["kernel"])


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
        ({"encoder_init": "uniform", "head_init": "uniform"}, (3 * 9 * 128) ** -0.5, (3 * 9 * 512) ** -0.5),
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
    bound = (9 * 512) ** -0.5
    assert 0 < float(jnp.abs(branch["bias"]).max()) <= bound
    if network.options.head_init == "uniform":
        assert 0.99 * bound < float(jnp.abs(branch["kernel"]).max()) <= bound
