"""Programs as ONNX, by the separate tool jax2onnx, and run by onnxruntime."""

import contextlib
import importlib
import io
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.extend
import numpy as np

from uda_jax.errors import UserError
from uda_jax.inference.export.forms import Form
from uda_jax.ops.platform import made_for

# jax2onnx pins an older Orbax than training needs, so that pip may only install it alone, and what it imports before.
INSTALL = "pip install onnx onnx-ir onnxruntime equinox dm-pix && pip install --no-deps jax2onnx"


def require(*packages: str) -> ModuleType:
    """Returns the last of some packages, imported; raises a UserError with the command that installs them."""
    found = None
    for package in packages:
        try:
            # The tool tells of every optional plug-in that it passes over.
            with contextlib.redirect_stdout(io.StringIO()), _quiet():
                found = importlib.import_module(package)
        except ImportError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"onnx: needs the package '{package}' ({reason}); run {INSTALL}") from None
    return found


def write(run: Callable, form: Form) -> tuple[bytes, dict[str, Any]]:
    """Traces a program and converts it.

    Args:
      run: the function of images.
      form: what it takes: one size, and one number of images.

    Returns:
      The file's content, and what its description says of it: "shape", "multiple_of" and "opset".

    Raises:
      UserError: any size or number of images is asked for, a program with an operation that the tool does not know, or
        the tool is not there.
    """
    for name, value in (("--size", form.size), ("--batch", form.batch)):
        if value is None:
            raise UserError(f"{name} any: jax2onnx converts programs of one size; give a number, or --to stablehlo")
    tool = require("onnx", "onnxruntime", "jax2onnx")
    images = jax.ShapeDtypeStruct((form.batch, *form.size, 3), form.dtype)
    with made_for("tpu"):
        traced = jax.make_jaxpr(lambda images: run(images))(images)
    # Operations of JAX alone: the tool puts its own in place of functions of jax.numpy, with other types than theirs.
    plain = jax.extend.core.jaxpr_as_fun(traced)
    try:
        with _quiet():
            model = tool.to_onnx(
                lambda images: plain(images)[0], [images], input_names=["image"], output_names=[form.outputs]
            )
    # It says in many ways that it does not know an operation.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--to onnx: jax2onnx cannot convert the program ({reason}); take --to stablehlo") from error
    return model.SerializeToString(), {
        "shape": [str(length) for length in images.shape],
        "multiple_of": 1,
        "opset": next(entry.version for entry in model.opset_import if not entry.domain),
    }


def read(content: bytes, where: str) -> Callable[[np.ndarray], Any]:
    """Returns the program of a file's content, run by onnxruntime on the CPU.

    Raises:
      UserError: it holds no program, or there is no onnxruntime.
    """
    runtime = require("onnxruntime")
    try:
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (name,) = (found.name for found in session.get_inputs())
    # Its errors have no common class.
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{where}: holds no program that onnxruntime runs ({reason}); export it again") from error
    return lambda images: session.run(None, {name: np.asarray(images)})[0]


@contextlib.contextmanager
def _quiet():
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
