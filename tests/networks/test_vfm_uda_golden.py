"""The heads of VFM-UDA, VFM-UDA++ and UniMatch V2 against outputs and gradients of the released code, tiny ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import assert_map_close, nchw, nhwc, relative_error

from uda_jax import networks, ops, weights
from uda_jax.networks.adapter import Adapter
from uda_jax.networks.deformable import DeformableAttention, centres, initial_offsets
from uda_jax.networks.dpt_head import DPTHead
from uda_jax.networks.pyramid_head import PyramidHead


@pytest.fixture(scope="module", autouse=True)
def precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def light():
    state_dict = vectors.stand_in("vfm-uda/vfm_uda_network.manifest.json")
    network = networks.build("light_dinov2_vits14", 19, width=32, depth=4, heads=2, table=4)
    return network, weights.from_torch(state_dict, "vfm_uda")


def test_light_head(light):
    network, variables = light
    golden = vectors.load("vfm-uda/vfm_uda_network.npz")

    def loss(params, images):
        outputs = network.apply({"params": params}, images)
        logits = ops.resize_bilinear(outputs["logits"], images.shape[1:3], align_corners=False)
        return (logits * nhwc(golden["cotangent"])).sum(), (outputs, logits)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (outputs, logits)), (params, images) = run(variables["params"], nhwc(golden["x"]))
    assert_map_close(outputs["features"], golden["features"], rtol=0, atol=2e-4)
    assert_map_close(outputs["logits"], golden["logits_stride"], rtol=0, atol=2e-4)
    assert_map_close(logits, golden["logits"], rtol=0, atol=2e-4)
    gradients = weights.to_torch({"params": jax.tree.map(np.asarray, params)}, "vfm_uda")
    assert relative_error(nchw(images), golden["grad_x"]) < 1e-4
    assert relative_error(gradients["out.weight"], golden["grad_out_weight"]) < 1e-4
    assert relative_error(gradients["encoder.pos_embed"], golden["grad_pos_embed"]) < 1e-4


def test_masked_tokens(light):
    network, variables = light
    golden = vectors.load("vfm-uda/vfm_uda_token_mask.npz")
    assert network.mask_grid((48, 48)) == (3, 3)
    mask = jnp.asarray(golden["u"] < golden["mask_ratio"]).reshape(1, 3, 3)
    np.testing.assert_array_equal(~mask.reshape(1, 9), golden["keep"])
    outputs = jax.jit(network.apply)(variables, nhwc(golden["x"]), mask=mask)
    logits = ops.resize_bilinear(outputs["logits"], (48, 48), align_corners=False)
    assert_map_close(logits, golden["logits"], rtol=0, atol=2e-4)


def matrices(state_dict):
    """The parameters of linear layers by the names of their modules."""
    tree = {}
    for name, array in state_dict.items():
        *modules, leaf = name.split(".")
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node["kernel" if leaf == "weight" else leaf] = array.T if array.ndim == 2 else array
    return tree


def test_deformable_attention():
    golden = vectors.load("vfm-uda/deformable_attention.npz")
    params = matrices(vectors.stand_in("vfm-uda/deformable_attention.manifest.json"))
    module, sizes = DeformableAttention(heads=2), [tuple(size) for size in golden["spatial_shapes"].tolist()]
    places = golden["reference_points"][0, :, 0]

    def loss(params, query, features):
        output = module.apply({"params": params}, query, places, features, sizes)
        return (output * golden["cotangent"]).sum(), output

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, output), (to_params, to_query, to_features) = run(params, golden["query"], golden["features"])
    np.testing.assert_allclose(output, golden["output"], rtol=0, atol=1e-5)
    assert relative_error(to_query, golden["grad_query"]) < 1e-4
    assert relative_error(to_features, golden["grad_features"]) < 1e-4
    assert relative_error(to_params["sampling_offsets"]["bias"], golden["grad_offset_bias"]) < 1e-4


def test_first_offsets():
    golden = vectors.load("vfm-uda/deformable_attention_init.npz")
    sizes = (int(golden[name]) for name in ("n_heads", "n_levels", "n_points"))
    np.testing.assert_allclose(initial_offsets(*sizes), golden["offset_bias"], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def pyramid():
    encoder = vectors.stand_in("vfm-uda/vit_adapter.manifest.json")
    head = vectors.stand_in("vfm-uda/pyramid_head.manifest.json")
    state_dict = {f"encoder.{name}": array for name, array in encoder.items()} | head
    network = networks.build("pyramid_dinov2_vits14", 19, width=64, depth=4, heads=1, table=4, input_scale=1.0)
    return network, weights.from_torch(state_dict, "vfm_uda_plusplus")


def test_parts_of_the_adapter(pyramid):
    golden = vectors.load("vfm-uda/adapter_modules.npz")
    params = pyramid[1]["params"]["adapter"]
    sizes, grid = [(4, 4), (2, 2), (1, 1)], (2, 2)
    np.testing.assert_allclose(centres(grid), golden["reference_points_vit"][0, :, 0], atol=1e-6)
    found = np.concatenate([centres(size) for size in sizes])
    np.testing.assert_allclose(found, golden["reference_points_pyramid"][0, :, 0], atol=1e-6)

    def part(name, *tokens):
        run = lambda adapter, *x: getattr(adapter.interactions[name[0]], name[1])(*x, sizes, grid)  # noqa: E731
        return jax.jit(lambda *x: Adapter(64).apply({"params": params}, *x, method=run))(*tokens)

    pyramid_tokens, vit_tokens = golden["pyramid_tokens"], golden["vit_tokens"]
    extracted = part((3, "extractor"), pyramid_tokens, vit_tokens)
    np.testing.assert_allclose(extracted, golden["extractor_out"], rtol=0, atol=5e-5)
    injected = part((1, "injector"), vit_tokens, pyramid_tokens)
    np.testing.assert_allclose(injected, golden["injector_out"], rtol=0, atol=5e-5)


def test_adapter(pyramid):
    network, variables = pyramid
    golden = vectors.load("vfm-uda/vit_adapter.npz")
    cell = int(golden["cell"])
    images = nhwc(golden["x_cells"]).repeat(cell, axis=1).repeat(cell, axis=2)

    def loss(params, images):
        maps = network.apply({**variables, "params": params}, images, method="pyramid")
        return (maps[3] * nhwc(golden["cotangent_f4"])).sum() + 0.1 * jnp.square(maps[1]).mean(), maps

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, maps), (params, to_images) = run(variables["params"], images)
    assert_map_close(maps[0][..., ::16], golden["f1_every_16th_channel"], rtol=0, atol=2e-4)
    assert_map_close(maps[1][..., ::8], golden["f2_every_8th_channel"], rtol=0, atol=2e-4)
    assert_map_close(maps[2], golden["f3"], rtol=0, atol=2e-4)
    assert_map_close(maps[3], golden["f4"], rtol=0, atol=2e-4)
    sums = np.asarray(to_images).reshape(1, 28, cell, 28, cell, 3).sum((2, 4))
    # Two points lie within 2e-6 pixels of a pixel's centre, where a bilinear gradient jumps: which side they are on is
    # rounding, and differs between processors. What they reach is bounded more loosely.
    errors = np.abs(nchw(sums) - golden["grad_x_cell_sums"]) / np.abs(golden["grad_x_cell_sums"]).max()
    assert np.quantile(errors, 0.75) < 1e-4 and np.quantile(errors, 0.95) < 1e-3 and errors.max() < 1e-2
    found = {
        "grad_level_embed": params["adapter"]["level_embed"],
        "grad_cls_token": params["encoder"]["cls_token"],
        "grad_injector0_gamma": params["adapter"]["interactions_0"]["injector"]["gamma"],
        "grad_block3_ls2_gamma": params["encoder"]["blocks_3"]["ls2"]["gamma"],
    }
    for name, gradient in found.items():
        assert relative_error(gradient, golden[name]) < (1e-4 if "block3" in name else 3e-3), name


def test_pyramid_head(pyramid):
    _, variables = pyramid
    golden = vectors.load("vfm-uda/pyramid_head.npz")
    own = {collection: tree["head"] for collection, tree in variables.items()}
    maps = [nhwc(golden[f"f{i}"]) for i in (1, 2, 3, 4)]
    head = PyramidHead()

    def loss(third, fourth):
        x, updated = head.apply(own, [*maps[:2], third, fourth], True, mutable=["batch_stats"])
        return (x * nhwc(golden["cotangent"])).sum(), (x, updated["batch_stats"])

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (trained, statistics)), (third, fourth) = run(*maps[2:])
    assert_map_close(trained, golden["upscaled_train"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(statistics["norm1"]["mean"], golden["running_mean_norm1"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(statistics["norm1"]["var"], golden["running_var_norm1"], rtol=0, atol=1e-5)
    assert relative_error(nchw(third), golden["grad_f3"]) < 1e-4
    assert relative_error(nchw(fourth), golden["grad_f4"]) < 1e-4
    evaluated = jax.jit(lambda *x: head.apply(own, x, False))(*maps)
    assert_map_close(evaluated, golden["upscaled_eval"], rtol=0, atol=1e-4)
    logits = pyramid[0].apply(variables, evaluated[:1], method="classify")
    expected = vectors.load("vfm-uda/pyramid_head_logits.npz")["logits_eval_first"]
    assert_map_close(logits, expected, rtol=0, atol=1e-4)


def convolutions(state_dict):
    """The parameters of the DPT head and its classifier by the names of their modules."""
    tree = {"head": {}, "classifier": {}}
    for name, array in state_dict.items():
        *modules, leaf = name.removeprefix("scratch.").split(".")
        if modules[-1].isdigit():
            modules = [f"{modules[-2]}_{modules[-1]}"]
        part = tree["classifier"] if modules == ["output_conv_2"] else tree["head"]
        for module in modules if part is tree["head"] else ():
            part = part.setdefault(module, {})
        if leaf == "bias":
            part["bias"] = array
        else:
            transposed = modules[0] in ("resize_layers_0", "resize_layers_1")
            part["kernel"] = array.transpose((2, 3, 0, 1) if transposed else (2, 3, 1, 0))
    return tree


def test_dpt_head():
    golden = vectors.load("vfm-uda/dpt_head.npz")
    tree = convolutions(vectors.stand_in("vfm-uda/dpt_head.manifest.json"))
    head, (height, width) = DPTHead((8, 12, 16, 20), 16), golden["grid_hw"].tolist()
    network = networks.build("dpt_dinov2_vits14", 7, channels=(8, 12, 16, 20), fused=16)

    def loss(features):
        maps = [x.reshape(len(x), height, width, -1) for x in features]
        read = head.apply({"params": tree["head"]}, maps)
        logits = network.apply({"params": {"classifier": tree["classifier"]}}, read, method="classify")
        images = ops.resize_bilinear(logits, (14 * height, 14 * width), align_corners=True)
        return (images * nhwc(golden["cotangent"])).sum(), (logits, images)

    (_, (logits, images)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(golden["features"])
    assert relative_error(nchw(logits), golden["logits"]) < 1e-5
    assert relative_error(nchw(images), golden["logits_image"]) < 1e-5
    assert relative_error(gradient, golden["grad_features"]) < 1e-5
    names = {f"params/head/{path}" for path, _ in weights.flatten(tree["head"])}
    expected = {path for path, _ in weights.flatten({"params": {"head": shapes(network)}})}
    assert names == expected


def shapes(network):
    images = jnp.zeros((1, 28, 28, 3))
    return jax.eval_shape(network.init, jax.random.key(0), images)["params"]["head"]
