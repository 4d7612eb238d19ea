"""SGD in PyTorch's form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class TorchSgdState(NamedTuple):
    """State of `torch_sgd`: updates so far (int32 scalar) and the momentum buffers (like the parameters)."""

    count: jax.Array
    momentum: Any


def torch_sgd(
    rate: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    repeats: int = 1,
    accumulate_decay: bool = False,
) -> optax.GradientTransformation:
    """SGD in PyTorch's form, which can apply one gradient several times.

    One repetition is d = g + weight_decay p; buf = momentum buf + d; p = p - rate buf (with Nesterov momentum
    p - rate (d + momentum buf)). The rate stays fixed over the repetitions, p and buf do not. The rate multiplies the
    buffer, so that a change of it acts at once.

    The gradient g stays fixed, too, as since PyTorch 1.5; or the decay is added to it in place, as up to PyTorch 1.4,
    g = g + weight_decay p; d = g, so that the n-th repetition decays n times. Over one repetition both are the same.

    Args:
      rate: learning rate of each update.
      momentum: share of the buffer that is kept.
      weight_decay: L2 penalty.
      nesterov: whether the step looks one repetition ahead.
      repeats: repetitions per update.
      accumulate_decay: whether the decay of a repetition stays in the gradient for those that follow.

    Returns:
      The transformation; its update needs the parameters.
    """

    def init(params: Any) -> TorchSgdState:
        return TorchSgdState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients: Any, state: TorchSgdState, params: Any = None) -> tuple[Any, TorchSgdState]:
        if params is None:
            raise ValueError("torch_sgd: expected the params, since weight decay reads them, got None")
        now = rate(state.count)
        moved, buffer = jax.tree.map(jnp.zeros_like, params), state.momentum
        for _ in range(repeats):
            decayed = jax.tree.map(lambda g, p, m: g + weight_decay * (p + m), gradients, params, moved)
            gradients = decayed if accumulate_decay else gradients
            buffer = jax.tree.map(lambda b, d: momentum * b + d, buffer, decayed)
            step = jax.tree.map(lambda b, d: d + momentum * b, buffer, decayed) if nesterov else buffer
            moved = jax.tree.map(lambda m, s: m - now * s, moved, step)
        return moved, TorchSgdState(optax.safe_increment(state.count), buffer)

    return optax.GradientTransformation(init, update)
