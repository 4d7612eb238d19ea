"""DADA's network: golden outputs of the released PyTorch code, the gate, where gradients flow, options."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from flax import linen as nn
from vectors import nchw, nhwc, relative_error

from uda_jax import networks, weights
from uda_jax.errors import UserError

GOLDEN = vectors.FOLDER
FILES = sorted((GOLDEN / "gio-ada").glob("dada_network*.npz"))
IMAGES = jax.random.normal(jax.random.key(1), (2, 33, 48, 3))


def small(**options):
    return networks.build("dada_resnet14", 5, **{"width": 4, **options})


@pytest.fixture(scope="module")
def variables(filled):
    return filled(small(), IMAGES)


def replaced(variables, **parts):
    return {**variables, "params": {**variables["params"], **parts}}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_golden(file):
    golden = np.load(file)
    network = networks.build("dada_resnet101", golden["seg"].shape[1])

    @jax.jit
    def run(variables, images):
        outputs = network.apply(variables, images)
        return outputs, network.apply(variables, outputs["features"], method="classify")

    variables = weights.from_torch(vectors.stand_in(file.with_suffix(".manifest.json")), "dada")
    with jax.default_matmul_precision("highest"):
        outputs, classified = run(variables, nhwc(golden["image"]))
    for ours, expected in [(outputs["logits"], golden["seg"]), (outputs["depth"], golden["depth"])]:
        assert relative_error(nchw(ours), expected) <= 1e-4
    np.testing.assert_array_equal(classified, outputs["logits"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_parameters(file):
    skipped = ("running_mean", "running_var", "num_batches_tracked")
    manifest = {
        name: shape
        for name, shape in vectors.manifest(file.with_suffix(".manifest.json")).items()
        if not name.endswith(skipped)
    }
    num_classes = manifest["layer6.conv2d_list.0.bias"][0]
    published = 47_418_624 + 4 * (9 * 2048 + 1) * (num_classes - 16)  # of 16 classes, and four branches for each more
    network = networks.build("dada_resnet101", num_classes)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 65, 65, 3)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(map(math.prod, manifest.values())) == published
    kernels = {name: layer["kernel"].shape for name, layer in params["depth_branch"].items()}
    assert kernels == {
        "enc4_1": (1, 1, 2048, 512),
        "enc4_2": (3, 3, 512, 512),
        "enc4_3": (1, 1, 512, 128),
        "dec4": (1, 1, 128, 2048),
    }


def test_gate_of_one_is_deeplab(variables):
    branch = variables["params"]["depth_branch"]
    dec4 = {"kernel": jnp.zeros_like(branch["dec4"]["kernel"]), "bias": jnp.ones_like(branch["dec4"]["bias"])}
    open_gate = replaced(variables, depth_branch={**branch, "dec4": dec4})
    plain = replaced(variables)
    del plain["params"]["depth_branch"]
    deeplab = networks.build("deeplab_v2_resnet14", 5, width=4)
    gated, expected, ours = jax.jit(
        lambda: (small().apply(open_gate, IMAGES), deeplab.apply(plain, IMAGES), small().apply(variables, IMAGES))
    )()
    for name in ("logits", "features"):
        np.testing.assert_allclose(gated[name], expected[name], rtol=1e-5, atol=1e-6)
        assert np.abs(ours[name] - expected[name]).max() > 0.1
    np.testing.assert_allclose(gated["depth"], ours["depth"], rtol=1e-5, atol=1e-6)


def test_depth_and_gate(variables):
    """With an encoding that is the same everywhere, both are known."""
    branch = dict(variables["params"]["depth_branch"])
    encoding = np.array([-3.0, 1.0, 0.5, -2.0, 0.25, -1.0, 0.0, 0.5], np.float32)
    branch["enc4_3"] = {"kernel": jnp.zeros_like(branch["enc4_3"]["kernel"]), "bias": jnp.asarray(encoding)}
    # Channel c of the gate reads channel c % 8 of the encoding.
    branch["dec4"] = {"kernel": jnp.tile(jnp.eye(8), 16)[None, None], "bias": jnp.full(128, 0.125)}
    gated = replaced(variables, depth_branch=branch)
    apply = jax.jit(lambda v: small().apply(v, IMAGES, method=lambda m, x: (m(x), m.encoder(x)["layer4"])))
    outputs, features = apply(gated)
    np.testing.assert_allclose(outputs["depth"], np.full((2, 5, 7, 1), -0.46875), rtol=1e-6)
    gate = np.tile([0, 1.125, 0.625, 0, 0.375, 0, 0.125, 0.625], 16)
    np.testing.assert_allclose(outputs["features"], features * gate, rtol=1e-6)
    classified = small().apply(gated, outputs["features"], method="classify")
    np.testing.assert_allclose(classified, outputs["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stopped", [False, True], ids=["free", "gate_stopped"])
def test_gradient_routes(variables, stopped):
    params = {name: variables["params"][name] for name in ("depth_branch", "head")}

    def intercept(call, arguments, keywords, context):
        if context.module.name == "encoder":  # what comes before the last stage plays no part
            return {"layer4": arguments[0]}
        y = call(*arguments, **keywords)
        return jax.lax.stop_gradient(y) if stopped and context.module.name == "dec4" else y

    @jax.jit
    @jax.jacrev
    def gradients(inputs):
        with nn.intercept_methods(intercept):
            outputs = small().apply({"params": inputs["params"]}, inputs["features"])
        return {name: jnp.square(outputs[name]).sum() for name in ("logits", "depth")}

    features = nn.relu(jax.random.normal(jax.random.key(2), (1, 7, 8, 128)))
    by_output = gradients({"params": params, "features": features})

    def reached(name):
        layers = by_output[name]["params"]["depth_branch"]
        return {layer for layer, leaves in layers.items() if all(map(np.any, leaves.values()))}

    encoding = {"enc4_1", "enc4_2", "enc4_3"}
    assert reached("logits") == (set() if stopped else encoding | {"dec4"})
    assert reached("depth") == encoding
    assert not any(map(np.any, jax.tree.leaves(by_output["depth"]["params"]["head"])))
    for gradient in by_output.values():
        assert np.any(gradient["features"])


def test_unused_branches(variables):
    """Two-branch classifiers ignore the others' parameters."""
    head = variables["params"]["head"]
    other = {**head, **jax.tree.map(lambda leaf: leaf + 1, {name: head[name] for name in ("branch_2", "branch_3")})}
    features = jax.random.normal(jax.random.key(2), (1, 15, 15, 128))

    def loss(head):
        logits = small(aspp_branches=2).apply({"params": {"head": head}}, features, method="classify")
        return jnp.square(logits).sum(), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(head)
    np.testing.assert_array_equal(jax.jit(loss)(other)[1], logits)
    for branch in range(4):
        for leaf in gradient[f"branch_{branch}"].values():
            assert np.any(leaf) == (branch < 2)


def test_options(variables):
    apply = functools.partial(jax.eval_shape, variables=variables, images=IMAGES)

    def sizes(**options):
        outputs = apply(lambda variables, images: small(**options).apply(variables, images))
        return {name: value.shape[1:] for name, value in outputs.items()}

    assert sizes() == {"logits": (5, 7, 5), "features": (5, 7, 128), "depth": (5, 7, 1)}
    assert sizes(output_stride=4)["depth"] == (9, 12, 1)
    assert sizes(encoder_style="torchvision")["depth"] == (5, 6, 1)  # the stem's pool rounds down
    with pytest.raises(UserError, match="multi_level: unknown field"):
        small(multi_level=True)


def test_training_mode(variables):
    def train(**options):
        return jax.jit(functools.partial(small(**options).apply, train=True, mutable=["batch_stats"]))(
            variables, IMAGES
        )

    outputs, updated = train(remat=True)
    changed = jax.tree.map(lambda a, b: np.any(a != b), updated["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(changed))
    frozen, kept = train(bn_mode="frozen")
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
    assert np.abs(frozen["depth"] - outputs["depth"]).max() > 1e-3


def test_bfloat16_keeps_float32_state(variables):
    network = small(dtype=jnp.bfloat16)
    fresh = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
    outputs, exact = jax.jit(lambda v: (network.apply(v, IMAGES), small().apply(v, IMAGES)))(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves((fresh, outputs))} == {jnp.dtype(jnp.float32)}
    for name in ("logits", "depth"):
        error = float(jnp.abs(outputs[name] - exact[name]).max() / exact[name].std())
        assert 0 < error < 0.3


@pytest.mark.parametrize(("init", "deviation"), [("normal", 0.01), ("he", (2 / (9 * 128)) ** 0.5)])
def test_start(init, deviation):
    network = networks.build("dada_resnet14", 5, encoder_init=init)
    start = jax.jit(lambda key: network.init(key, jnp.zeros((1, 16, 16, 3)))["params"]["depth_branch"]["enc4_2"])
    layer = start(jax.random.key(0))
    np.testing.assert_allclose(layer["kernel"].std(), deviation, rtol=0.02)
    bound = (9 * 128) ** -0.5
    assert 0.9 * bound < float(jnp.abs(layer["bias"]).max()) <= bound
