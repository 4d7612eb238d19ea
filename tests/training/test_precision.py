"""Which precision products carry in the programs that a GPU would run."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from uda_jax.inference import scores
from uda_jax.inference.options import Inference
from uda_jax.methods.base import Segmenter
from uda_jax.methods.source_only import SourceOnly
from uda_jax.training.precision import PRECISIONS, at_precision, compute_dtype

METHOD = SourceOnly(
    num_classes=3,
    segmenter=Segmenter(name="deeplab_v2_resnet14", width=2, input_norm="imagenet_rgb"),
)
BATCH = {
    "source": {"image": np.zeros((2, 32, 64, 3), np.uint8), "label": np.zeros((2, 32, 64), np.uint8)},
}
# What XLA knows: no word, three bfloat16 passes of a TPU and TF32 of a GPU, true float32.
DEFAULT, HIGH, HIGHEST = "DEFAULT", "HIGH", "HIGHEST"


def products(precision, function, *arguments):
    """Returns (types of the operands, precision) of all products and convolutions of a program for a GPU."""
    # The caller's own precision, which must not count, is another one.
    with jax.default_matmul_precision("high" if precision == "bf16" else "default"):
        text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    found = set()
    for line in text.splitlines():
        if "stablehlo.dot_general" in line or "stablehlo.convolution" in line:
            (own,) = re.findall(r"precision(?:_config)? = \[(.*?)\]", line)
            operands = re.search(r": \((.*?)\) ->", line)[1]
            found |= {
                (kind, word) for kind in re.findall("x(f32|bf16)>", operands) for word in re.findall("[A-Z]{4,}", own)
            }
    return found


@pytest.fixture(params=PRECISIONS)
def method(request, monkeypatch):
    """A method of each precision, whose networks take the forms of GPUs."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return dataclasses.replace(METHOD, precision=request.param)


def state_of(method):
    return jax.eval_shape(lambda key: method.init(key, BATCH), jax.random.key(0))


def check(method, found):
    # Whatever asks for more by itself, such as the resize, gets it.
    networks = found - {("f32", HIGHEST)}
    if method.precision == "fp32":
        assert found == {("f32", HIGHEST)}
    elif method.precision == "tf32":
        assert networks == {("f32", HIGH)}
    else:
        assert ("bf16", DEFAULT) in networks and {word for _, word in networks} == {DEFAULT}


def test_products_of_a_training_step(method):
    step = at_precision(method, method.train_step)
    check(method, products(method.precision, step, state_of(method), BATCH))


@pytest.mark.parametrize("section", [Inference(), Inference(flip=True)])
def test_products_of_predictions(method, section):
    composed = scores.Composed(method, section)
    predict = functools.partial(composed.predict, size=(32, 64))
    check(method, products(method.precision, predict, state_of(method), BATCH["source"]["image"]))


def test_members_of_an_ensemble_keep_their_own(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    members = [dataclasses.replace(METHOD, precision=precision) for precision in ("tf32", "fp32")]
    space = type("Space", (), {"names": ("a", "b", "c")})
    ensemble = scores.Ensemble([(str(k), member, space) for k, member in enumerate(members)])
    predict = functools.partial(scores.Composed(ensemble, Inference()).predict, size=(32, 64))
    states = [state_of(member) for member in members]
    assert products(None, predict, states, BATCH["source"]["image"]) == {("f32", HIGH), ("f32", HIGHEST)}


def test_a_method_without_a_precision_is_left_alone():
    function = abs
    assert at_precision(object(), function) is function


def test_types_of_computation():
    assert [compute_dtype(name).name for name in PRECISIONS] == ["float32", "float32", "bfloat16"]
    with pytest.raises(ValueError, match="expected one of fp32, tf32, bf16, got 'fp64'"):
        compute_dtype("fp64")
