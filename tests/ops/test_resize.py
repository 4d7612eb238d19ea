"""Resizing against PyTorch's outputs and gradients."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import vectors
from vectors import nhwc

from uda_jax import ops

GOLDEN = vectors.FOLDER
RESIZE = np.load(GOLDEN / "adaptsegnet-ass/resize.npz")


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("case", [str(case) for case in RESIZE["cases"]])
def test_bilinear_golden(case, align_corners):
    x, cotangent = nhwc(RESIZE[f"{case}_x"]), nhwc(RESIZE[f"{case}_cotangent"])
    size, name = tuple(map(int, RESIZE[f"{case}_size"])), f"ac{align_corners:d}"
    y, pullback = jax.vjp(lambda x: ops.resize_bilinear(x, size, align_corners=align_corners), x)
    np.testing.assert_allclose(y, nhwc(RESIZE[f"{case}_{name}"]), rtol=0, atol=2e-5)
    gradient = pullback(jnp.asarray(cotangent))[0]
    np.testing.assert_allclose(gradient, nhwc(RESIZE[f"{case}_grad_{name}"]), rtol=1e-5, atol=2e-5)


def test_bilinear_golden_advent():
    golden = np.load(GOLDEN / "advent-intrada/upsample_align_corners.npz")
    size = tuple(map(int, golden["size_hw"]))
    resize = jax.jit(lambda x: ops.resize_bilinear(x, size, align_corners=True))
    y, pullback = jax.vjp(resize, nhwc(golden["input"]))
    np.testing.assert_allclose(y, nhwc(golden["output"]), rtol=1e-5, atol=2e-5)
    gradient = pullback(jnp.asarray(nhwc(golden["cotangent"])))[0]
    np.testing.assert_allclose(gradient, nhwc(golden["grad_input"]), rtol=1e-5, atol=2e-5)


def test_bilinear_by_hand():
    x = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    aligned = ops.resize_bilinear(x, (1, 5), align_corners=True).ravel()
    np.testing.assert_allclose(aligned, [0, 1, 2, 3, 4], atol=1e-6)
    centred = ops.resize_bilinear(x, (1, 4), align_corners=False).ravel()
    np.testing.assert_allclose(centred, [0, 1, 3, 4], atol=1e-6)


def test_bilinear_with_corners_keeps_corners_and_ramps():
    rows, columns = np.mgrid[:9, :13].astype(np.float32)
    x = np.stack([3 * rows - 2 * columns + 1, np.random.RandomState(0).rand(9, 13).astype(np.float32)], axis=-1)[None]
    y = np.asarray(ops.resize_bilinear(x, (33, 97), align_corners=True))
    np.testing.assert_array_equal(y[0, ::32, ::96], x[0, ::8, ::12])
    rows, columns = np.mgrid[:33, :97]
    np.testing.assert_allclose(y[0, ..., 0], 3 * rows / 4 - 2 * columns / 8 + 1, atol=1e-5)


def test_bilinear_edges():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    # One output reads position 0, one input is copied.
    np.testing.assert_array_equal(ops.resize_bilinear(x, (1, 1), align_corners=True).ravel(), [0.0])
    spread = ops.resize_bilinear(x[:, :1, :1] + 7.0, (3, 5), align_corners=True)
    np.testing.assert_array_equal(spread, np.full((1, 3, 5, 1), 7.0))
    for align_corners in (True, False):
        np.testing.assert_array_equal(ops.resize_bilinear(x, (3, 4), align_corners=align_corners), x)


@pytest.mark.parametrize("align_corners", [True, False])
def test_bilinear_keeps_constants_and_returns_float32(align_corners):
    for n_in, n_out in [(9, 512), (65, 512), (129, 1024), (161, 1280), (512, 91), (7, 1)]:
        y = ops.resize_bilinear(jnp.full((1, n_in, 2, 1), 3.0, jnp.bfloat16), (n_out, 2), align_corners=align_corners)
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, 3.0, rtol=1e-6)


@pytest.mark.parametrize("case", [str(case) for case in RESIZE["cases"]])
def test_nearest_golden(case):
    size = tuple(map(int, RESIZE[f"{case}_size"]))
    y = ops.resize_nearest_legacy(nhwc(RESIZE[f"{case}_x"]), size)
    np.testing.assert_array_equal(y, nhwc(RESIZE[f"{case}_nearest"]))


def test_nearest_golden_plca():
    golden = np.load(GOLDEN / "plca/label_nearest.npz")
    names = [name for name in golden if name.startswith(("label_", "index_"))]
    assert names
    for name in names:
        if name.startswith("label_"):
            expected = golden[name.replace("label", "resized")]
            label = golden[name]
        else:
            expected = golden[name][None, None]
            label = np.arange(int(name.split("_")[1]), dtype=np.int32)[None, None]
        resize = jax.jit(ops.resize_nearest_legacy, static_argnums=1)
        y = resize(label, expected.shape[1:])
        np.testing.assert_array_equal(y, expected)
        assert y.dtype == label.dtype


def test_nearest_is_not_the_half_pixel_rule():
    y = ops.resize_nearest_legacy(jnp.arange(4).reshape(1, 1, 4), (1, 2))
    np.testing.assert_array_equal(y.ravel(), [0, 2])


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("have", "size"), [((3, 4), (9, 13)), ((9, 13), (3, 4)), ((1, 5), (4, 1)), ((4, 4), (4, 4))])
def test_a_program_for_any_size_interpolates_as_one_for_a_known_one(have, size, align_corners):
    # What `jax.export` traces with is no number.
    dimensions = jax.export.symbolic_shape("h, w, a, b")

    def resize(x, like):
        return ops.resize_bilinear(x, like.shape, align_corners=align_corners)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *dimensions[:2], 2), dimensions[2:])]
    exported = jax.export.export(jax.jit(resize))(*shapes)
    x = np.random.default_rng(0).normal(size=(1, *have, 2)).astype(np.float32)
    expected = ops.resize_bilinear(x, size, align_corners=align_corners)
    np.testing.assert_allclose(exported.call(x, np.zeros(size, np.float32)), expected, atol=1e-6)
