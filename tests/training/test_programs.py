"""The costs of programs: operations of loops, exchanged bytes, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from uda_jax.training import programs

HLO = """\
HloModule step, entry_computation_layout={()->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (c: (s32[], f32[6])) -> (s32[], f32[6]) {
  %x = f32[6]{0} get-tuple-element(%c), index=1
  %in-loop = f32[6]{0} all-reduce(%x), replica_groups=mesh['data'=8,'model'=2] {'data'}, to_apply=%add
}

%condition (c: (s32[], f32[6])) -> pred[] {
  ROOT %less = pred[] constant(true)
}

ENTRY %main (p: f32[4,2]) -> f32[] {
  %two = (f32[10]{0}, bf16[2,5]{1,0}) all-reduce(%a, %b), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %whole = f32[8,4]{1,0} all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}
  %part = f32[3]{0} reduce-scatter(%p), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %begun = (f32[2]{0}, f32[16]{0}) all-gather-start(%q), dimensions={0}
  %ended = f32[16]{0} all-gather-done(%begun)
  %moved = (u8[7]{0}, u8[7]{0}, u32[], u32[]) collective-permute-start(%q), source_target_pairs={{0,1}}
  %loop = (s32[], f32[6]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_exchanged_bytes_are_those_of_the_operands():
    assert programs.communication(HLO, 8) == {
        "all-reduce": 10 * 4 + 10 * 2 + 5 * 6 * 4,
        "all-gather": 8 * 4 * 4 // 8 + 2 * 4,
        "reduce-scatter": 3 * 4 * 2,
        "collective-permute": 7,
    }
    assert programs.communication("HloModule nothing", 8) == {}


def test_rounds_of_loops_are_counted():
    def three(x, w):
        inner = lambda c, _: (jnp.tanh(c @ w), None)  # noqa: E731
        outer = lambda c, _: (lax.scan(inner, c, None, length=3)[0] @ w, None)  # noqa: E731
        return lax.scan(outer, x, None, length=5)[0] @ w

    x, w = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
    product = 2 * 4 * 8 * 8
    # All 5 x (3 + 1) + 1 but those that XLA counts: each body once, and what follows.
    assert programs.further_rounds(jax.make_jaxpr(three)(x, w).jaxpr) == (21 - 3) * product
    traced = jax.jit(three).trace(x, w)
    assert programs.costs(traced, traced.lower()).operations == pytest.approx(21 * product, rel=0.1)


@pytest.mark.parametrize(
    ("strides", "padding", "holes", "dilation"),
    [((1, 1), 2, (1, 1), 2), ((2, 1), 1, (1, 1), 1), ((1, 1), 1, (2, 2), 1)],
)
def test_convolutions_are_counted_as_xla_does(strides, padding, holes, dilation):
    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, strides, [(padding, padding)] * 2, holes, (dilation,) * 2, ("NHWC", "HWIO", "NHWC")
        )

    x, kernel = jax.ShapeDtypeStruct((2, 9, 7, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
    traced = jax.jit(convolve).trace(x, kernel)
    assert programs.further_rounds(traced.jaxpr.jaxpr, 1) == traced.lower().cost_analysis()["flops"]


def test_memory_of_a_compiled_program():
    step = jax.jit(lambda state, x: (state + x.sum(), x @ x), donate_argnums=0)
    traced = step.trace(jax.ShapeDtypeStruct((1000,), jnp.float32), jax.ShapeDtypeStruct((100, 100), jnp.float32))
    lowered = traced.lower()
    found = programs.costs(traced, lowered, lowered.compile())
    assert (found.memory.arguments, found.memory.aliased) == (4 * 11000, 4 * 1000)
    assert found.memory.peak == 4 * 11000 + 4 * 10000 + found.memory.temporaries + (found.memory.outputs - 4 * 11000)
    assert found.communication == {} and found.accessed > 4 * 21000
    assert found.operations == pytest.approx(2 * 100**3, rel=0.1)


def test_on_a_gpu_operations_are_counted_before_libraries_take_them_out(monkeypatch):
    traced = jax.jit(lambda x: x @ x).trace(jax.ShapeDtypeStruct((100, 100), jnp.float32))
    lowered = traced.lower()
    compiled = lowered.compile()

    class WithoutProducts:
        """What a compiler tells whose products are calls of a library."""

        memory_analysis = compiled.memory_analysis

        def cost_analysis(self):
            return compiled.cost_analysis() | {"flops": 0.0}

    assert programs.costs(traced, lowered, WithoutProducts()).operations == 0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert programs.costs(traced, lowered, WithoutProducts()).operations == pytest.approx(2 * 100**3, rel=0.1)


def test_sizes_of_trees():
    tree = {"key": jax.random.key(0), "x": np.zeros((3, 5), np.float16), "y": jax.ShapeDtypeStruct((2,), jnp.float32)}
    assert programs.tree_bytes(tree) == 8 + 30 + 8
    assert programs.shapes(tree)["x"] == jax.ShapeDtypeStruct((3, 5), np.float16)
