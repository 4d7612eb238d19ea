"""DINOv2's and DINOv3's encoders against outputs and gradients of the released code, on tiny networks."""

import jax
import numpy as np
import pytest
import vectors
from vectors import nchw, nhwc

from uda_jax import networks, weights
from uda_jax.networks.positions import resize_table, rotary_periods, rotary_table

TINY = {"width": 32, "depth": 4, "heads": 2}
CASES = {
    "dinov2_vit": ("dinov2", networks.build_encoder("dinov2_vits14", **TINY, table=4)),
    "dinov2_vit_registers": ("dinov2", networks.build_encoder("dinov2_vits14", **TINY, table=4, registers=4)),
    "dinov2_vit_swiglu": ("dinov2", networks.build_encoder("dinov2_vitg14", **TINY, table=4)),
    "dinov3_vit": ("dinov3", networks.build_encoder("dinov3_vits16", **TINY)),
    "dinov3_vit_swiglu": ("dinov3", networks.build_encoder("dinov3_vits16plus", **TINY)),
}


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request):
    """One compiled program: the outputs, what every module returned, and the gradients of a sum over the features."""
    dialect, network = CASES[request.param]
    golden = vectors.load(f"vfm-uda/{request.param}.npz")
    state_dict = vectors.stand_in(f"vfm-uda/{request.param}.manifest.json")
    params = weights.from_torch(state_dict, dialect)["params"]["encoder"]

    def loss(params, images):
        maps, found = network.apply({"params": params}, images, capture_intermediates=True, mutable=["intermediates"])
        cotangent = golden["cotangent"].reshape(maps["features"].shape)
        return (maps["features"] * cotangent).sum(), (maps, found["intermediates"])

    with jax.default_matmul_precision("highest"):
        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (value, (maps, inner)), gradients = run(params, nhwc(golden["x"]))
    return golden, dialect, value, maps, inner, gradients


def close(value, expected, atol=1e-4):
    np.testing.assert_allclose(np.asarray(value).reshape(np.shape(expected)), expected, rtol=0, atol=atol)


def test_maps(case):
    golden, dialect, value, maps, inner, _ = case
    normed = golden["intermediate_normed"]
    for i in range(4):
        if dialect == "dinov2":
            close(maps[f"block{i}"], golden["intermediate"][i])
        else:
            close(inner[f"blocks_{i}"]["__call__"][0], golden["intermediate_prenorm"][i])
            close(maps[f"normed{i}"], normed[i])
    if dialect == "dinov2":
        close(maps["normed1"], normed[0])
        close(maps["normed3"], normed[1])
        block = inner["blocks_0"]
        close(block["attn"]["__call__"][0], golden["block0_attn_out"])
        close(block["mlp"]["__call__"][0], golden["block0_mlp_out"])
        close(block["__call__"][0], golden["block0_out"])
        close(inner["blocks_3"]["__call__"][0], golden["x_prenorm"])
    close(maps["features"], golden["x_norm_patchtokens"])
    close(maps["class_token"], golden["x_norm_clstoken"])
    if "x_norm_regtokens" in golden:
        close(maps["registers"], golden["x_norm_regtokens"])
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-4)


def test_gradients(case):
    golden, dialect, _, _, _, (params, images) = case
    own = {"params": {"encoder": params}}
    state_dict = weights.to_torch(jax.tree.map(np.asarray, own), dialect)
    names = {
        "grad_pos_embed": "pos_embed",
        "grad_cls_token": "cls_token",
        "grad_register_tokens": "register_tokens",
        "grad_storage_tokens": "storage_tokens",
        "grad_block2_qkv_weight": "blocks.2.attn.qkv.weight",
        "grad_block3_ls1_gamma": "blocks.3.ls1.gamma",
        "grad_patch_bias": "patch_embed.proj.bias",
    }
    found = {name: state_dict[names[name]] for name in golden.files if name in names} | {"grad_x": nchw(images)}
    assert len(found) >= 4 and len(found) == sum(name.startswith("grad_") for name in golden.files)
    for name, gradient in found.items():
        close(gradient, golden[name], 2e-4 * max(1.0, np.abs(golden[name]).max()))


def test_tokens_before_the_first_block():
    for name, (dialect, network) in CASES.items():
        golden = vectors.load(f"vfm-uda/{name}.npz")
        params = weights.from_torch(vectors.stand_in(f"vfm-uda/{name}.manifest.json"), dialect)["params"]["encoder"]
        with jax.default_matmul_precision("highest"):
            tokens, _ = network.apply({"params": params}, nhwc(golden["x"]), method="embed")
        close(tokens, golden["tokens"])


def test_tables_of_positions():
    golden = vectors.load("vfm-uda/pos_embed_resize.npz")
    for k in range(sum(name.endswith("_grid_hw") for name in golden.files)):
        table, grid = golden[f"case{k}_pos_embed"], tuple(golden[f"case{k}_grid_hw"].tolist())
        side = round((table.shape[1] - 1) ** 0.5)
        for rule, antialias in (("offset", False), ("size", True)):
            found = resize_table(table[0, 1:].reshape(side, side, -1), grid, antialias=antialias)
            close(found, golden[f"case{k}_{rule}"][0, 1:], 3e-5)


@pytest.mark.parametrize("name", ["dinov3_vit", "dinov3_vit_swiglu"])
def test_rotary_positions(name):
    golden = vectors.load(f"vfm-uda/{name}.npz")
    cosine, sine = rotary_table(tuple(golden["x"].shape[i] // 16 for i in (2, 3)), 16)
    close(cosine, golden["rope_cos"], 1e-5)
    close(sine, golden["rope_sin"], 1e-5)
    np.testing.assert_allclose(rotary_periods(16), golden["rope_periods"], rtol=1e-6)
