"""Activations that are computed again in the backward pass: of which stages, and that nothing else changes."""

import functools
import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax import networks
from uda_jax.errors import UserError
from uda_jax.networks import mit, resnet, vgg

IMAGES = jax.random.normal(jax.random.key(1), (2, 33, 40, 3))
RESNET = functools.partial(networks.build, "deeplab_v2_resnet14", 3, width=4)
MIT = functools.partial(
    networks.build, "daformer_mit_b0", 3, width=4, blocks=(1, 1, 1, 1), head_width=4, fusion="linear"
)
VGG = functools.partial(networks.build, "deeplab_v2_vgg16", 3, width=4)


@functools.cache
def shapes(build):
    return jax.eval_shape(build().init, jax.random.key(0), IMAGES)


@pytest.mark.parametrize(
    ("build", "remat", "expected"),
    [
        (RESNET, (), []),
        (RESNET, False, []),
        (RESNET, ("layer3", "layer4"), ["layer3", "layer4"]),
        (RESNET, ("stem",), ["stem"]),
        (RESNET, "all", list(resnet.STAGES)),
        (RESNET, True, list(resnet.STAGES)),
        (VGG, ("stage1", "fc7"), ["stage1", "fc7"]),
        (VGG, "all", list(vgg.NAMES)),
        (MIT, ("stage1", "stage3"), ["stage1", "stage3"]),
        (MIT, "all", list(mit.STAGES)),
    ],
)
def test_exactly_the_named_stages_are_recomputed(build, remat, expected):
    """A stage is known by the names of the parameters that are used in what is computed again."""
    train = functools.partial(build(remat=remat).apply, train=True, mutable=["batch_stats"])
    jaxpr = jax.make_jaxpr(train)(shapes(build), IMAGES).jaxpr
    paths = [path for path, _ in jax.tree.leaves_with_path(shapes(build))]
    modules = {variable: path[2].key for variable, path in zip(jaxpr.invars, paths, strict=False)}
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("checkpoint", "remat", "remat2"):
            inner = equation.params["jaxpr"]
            used = {v for e in inner.eqns for v in e.invars if not isinstance(v, jax.extend.core.Literal)}
            arguments = zip(equation.invars, inner.invars, strict=True)
            found |= {stage_of(modules[outer]) for outer, own in arguments if own in used and outer in modules}
    assert sorted(found) == sorted(expected)


def stage_of(module):
    """Returns the stage that "layer3_0", "bn1" or "conv2_1" belongs to."""
    if module in ("conv1", "bn1"):
        return "stem"
    if found := re.fullmatch(r"(?:conv|block|(layer))(\d)_\d+", module):
        return f"{found[1] or 'stage'}{found[2]}"
    return module


@pytest.mark.parametrize("build", [RESNET, VGG, MIT])
def test_an_unknown_stage_is_refused(build):
    with pytest.raises(UserError, match=r"remat\[1\]: expected one of 'all', '\w+', .* got 'layer9'$") as error:
        build(remat=("all", "layer9"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("build", [RESNET, VGG, MIT])
def test_losses_gradients_and_statistics_are_the_same(build, filled):
    variables = filled(build(), IMAGES)
    assert jax.tree.map(jnp.shape, shapes(build)) == jax.tree.map(
        jnp.shape, jax.eval_shape(build(remat="all").init, jax.random.key(0), IMAGES)
    )

    def step(params, remat):
        inputs = {**variables, "params": params}
        outputs, updated = build(remat=remat).apply(inputs, IMAGES, train=True, mutable=["batch_stats"])
        return jnp.square(outputs["logits"]).mean(), updated

    gradient = jax.jit(jax.value_and_grad(step, has_aux=True), static_argnums=1)
    (plain, updated), gradients = gradient(variables["params"], ())
    (again, updated_again), gradients_again = gradient(variables["params"], "all")
    np.testing.assert_allclose(again, plain, rtol=1e-6)
    # Statistics that were updated twice would be off by a tenth. What moves all keys alike has a gradient of 0.
    for a, b in ((updated, updated_again), (gradients, gradients_again)):
        for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
            np.testing.assert_allclose(y, x, rtol=0, atol=1e-5 * np.abs(x).max() + 1e-7)
