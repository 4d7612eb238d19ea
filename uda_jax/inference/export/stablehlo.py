"""Programs as StableHLO, by `jax.export`: one file for CPU, CUDA and TPU, for one size of images or for any."""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from uda_jax.errors import UserError
from uda_jax.inference.export.forms import Form
from uda_jax.ops.platform import LOWERING, made_for

# Height and width that are not known yet; some networks pool away what is no multiple of their stride.
_ANY = (("h, w", 1), ("8*h, 8*w", 8))


def require() -> None:
    """Raises a UserError unless what serialises programs is there; it is no dependency of JAX."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError(
            "stablehlo: programs are stored by the package 'flatbuffers', which is not installed; run "
            "pip install 'uda_jax[export]', or pip install flatbuffers"
        )


def write(run: Callable, form: Form) -> tuple[bytes, dict[str, Any]]:
    """Traces a program and serialises it.

    Args:
      run: the function of images.
      form: what it takes, and where it is to run.

    Returns:
      The file's content, and what its description says of it: "shape", and "multiple_of" of height and width.

    Raises:
      UserError: a network that takes images of one size only, where any is asked for, or no flatbuffers.
    """
    require()
    batch = "b" if form.batch is None else str(form.batch)
    if form.size is not None:
        return _traced(run, form, f"{batch}, {form.size[0]}, {form.size[1]}", 1)
    for dimensions, multiple in _ANY:
        try:
            return _traced(run, form, f"{batch}, {dimensions}", multiple)
        # Whatever a network does with a length that is no number: comparing it, counting with it.
        except (jax.errors.InconclusiveDimensionOperation, TypeError, ValueError, AttributeError) as error:
            reason = error
    raise UserError(
        f"--size any: the network, or how it is scored, asks for images of a size that is known "
        f"({' '.join(str(reason).split())[:80]} ...); give it, as in --size 512x1024"
    )


def read(content: bytes, where: str) -> Callable[[np.ndarray], Any]:
    """Returns the compiled program of a file's content.

    Raises:
      UserError: it holds no program, or none for this machine's devices; or there is no flatbuffers.
    """
    require()
    try:
        found = export.deserialize(bytearray(content))
        platforms, arrays = found.platforms, len(found.in_avals)
    # The reader checks little of what it reads.
    except Exception as error:
        raise UserError(f"{where}: holds no program that JAX {jax.__version__} reads; export it again") from error
    here = LOWERING.get(jax.default_backend(), jax.default_backend())
    if here not in platforms or arrays != 1:
        raise UserError(f"{where}: is for {', '.join(platforms)}, this machine computes on {here}; export it for that")
    return jax.jit(found.call)


def _traced(run: Callable, form: Form, dimensions: str, multiple: int) -> tuple[bytes, dict[str, Any]]:
    shape = (*export.symbolic_shape(dimensions), 3)
    # Of several platforms, each gets the form that all of them run well; of one, its own.
    own = {lowering: name for name, lowering in LOWERING.items()}
    with made_for(own[form.platforms[0]] if len(form.platforms) == 1 else "tpu"):
        # A function of its own: what was traced for another platform may be kept by the function that was traced.
        traced = export.export(jax.jit(lambda images: run(images)), platforms=form.platforms)
        found = traced(jax.ShapeDtypeStruct(shape, jnp.dtype(form.dtype)))
    return found.serialize(), {"shape": [str(length) for length in shape], "multiple_of": multiple}
