"""Every method's published step lowers for GPUs and TPUs, on shapes alone, to plain static programs without float64.

Networks are the narrow ones of `test_published_settings`; images have the papers' sizes. What is traced is the form of
accelerators: of all operations, only the confusion matrix, which no step has, differs between GPUs and TPUs.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from tests.test_published_settings import kind, small
from uda_jax import config, methods
from uda_jax.config import settings
from uda_jax.networks.convolution import transposed_convolve
from uda_jax.ops.platform import LOWERING, made_for, platform
from uda_jax.runs import plan, stages
from uda_jax.runs.instruments import TrainStep
from uda_jax.runs.states import abstract
from uda_jax.training import sharding

FORBIDDEN = {
    "float64": re.compile(r"\bf64\b|xf64>"),
    "a dynamic shape": re.compile(r"tensor<[^>]*\?|stablehlo\.(?:real_)?dynamic_(?!slice|update_slice)\w+"),
    "a call to the host": re.compile(
        r"custom_call @\w*(?:callback|python|py_)\w*|stablehlo\.(?:send|recv|infeed|outfeed)"
    ),
}


def faults(text):
    return [name for name, pattern in FORBIDDEN.items() if pattern.search(text)]


def segmenter_of(method):
    """Returns the section of the network that predicts, of depth alone where there are no classes."""
    return method.segmenter if hasattr(method, "segmenter") else method.disparity


def steps():
    """Returns the first published stage of each method, and of each network, by both names."""
    found, seen = {}, set()
    for reference in settings.published():
        for stage in stages.recipe(config.experiment(config.load(reference)), 19):
            names = (type(stage.method).__name__, kind(segmenter_of(stage.method)))
            if stage.kind.TRAINS and not seen.issuperset(names):
                seen.update(names)
                found["-".join(names)] = stage
    return found


STEPS = steps()


def test_every_method_is_there():
    assert {name.partition("-")[0] for name in STEPS} == {methods.get(name).__name__ for name in methods.names()}


@pytest.mark.parametrize("name", STEPS)
def test_it_lowers_for_accelerators(name):
    stage = dataclasses.replace(STEPS[name], method=small(STEPS[name].method))
    mesh = sharding.abstract_mesh(1)
    step = TrainStep(stage.method.train_step, abstract(stage, mesh), mesh)
    traced = step.trace(plan.batch_before_data(stage), "gpu")
    # One module for both, which holds what either makes of an operation; of long constants, whose text would be most of
    # it, the types alone.
    lowered = traced.lower(lowering_platforms=("cuda", "tpu"))
    text = lowered.compiler_ir().operation.get_asm(large_elements_limit=16)
    assert not faults(text) and "stablehlo.convolution" in text


def test_faults_are_found():
    # Calls to the host are refused outright for a platform that is not here.
    lowered = lambda f, *x: jax.jit(f).lower(*x).as_text()  # noqa: E731
    x = jax.ShapeDtypeStruct((3,), jnp.float32)
    assert faults(lowered(lambda x: jnp.sort(x)[jnp.argmax(x)], x)) == []
    assert faults(lowered(lambda x: jax.debug.print("{}", x), x)) == ["a call to the host"]
    assert faults(lowered(lambda x: jax.pure_callback(lambda x: x, x, x), x)) == ["a call to the host"]
    with jax.enable_x64(True):
        assert faults(lowered(lambda x: x.astype(jnp.float64), x)) == ["float64"]
    assert faults("%0 = stablehlo.add %a, %b : tensor<?x3xf32>") == ["a dynamic shape"]


def test_a_platform_that_is_not_here_gets_its_own_forms():
    kernel = jnp.zeros((3, 3, 8, 2))

    def form():
        return str(jax.make_jaxpr(lambda x: transposed_convolve(x, kernel))(jnp.zeros((1, 9, 9, 8))))

    here = form()
    with made_for("tpu"):
        assert platform() == "tpu" and "conv_general_dilated" in form()
    with made_for("cpu"):
        assert "conv_general_dilated" not in form()
    assert form() == here and platform() == jax.default_backend()
    with pytest.raises(ValueError, match="expected one of cpu, gpu, tpu, got 'cuda'"), made_for("cuda"):
        pass
    assert set(LOWERING) == {"cpu", "gpu", "tpu"}
