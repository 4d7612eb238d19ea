"""Where the arrays of a state lie: by size, before and after a step, and in several processes."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from uda_jax.training import sharding
from uda_jax.training.sharding import Placement, split_by_size


def start(script, devices, *words):
    environment = dict(os.environ)
    environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-c", script, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(*processes):
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output


@pytest.mark.parametrize(
    ("shape", "devices", "expected"),
    [
        ((3, 3, 64, 128), 8, (None, None, None, "data")),
        ((3, 3, 128, 64), 8, (None, None, "data")),
        ((64, 64), 8, (None, "data")),  # of equally long ones the last
        ((100, 64), 8, (None, "data")),  # 100 is longer, but 8 does not divide it
        ((100, 99), 8, ()),
        ((4096,), 8, ("data",)),
        ((999,), 3, ()),  # too small
        ((1000, 1000), 1, ()),  # nothing to split over
        ((), 8, ()),
        ((0, 8), 8, ()),
    ],
)
def test_an_array_is_split_along_its_longest_axis_that_the_devices_share(shape, devices, expected):
    mesh = AbstractMesh((devices,), ("data",))
    found = split_by_size({"net": jax.ShapeDtypeStruct(shape, jnp.float32)}, mesh, 1000)
    assert found["net"].spec == PartitionSpec(*expected) and found["net"].mesh == mesh


def test_a_state_is_replicated_unless_it_is_to_be_split():
    shapes = jax.eval_shape(lambda key: {"key": key, "large": jnp.zeros((64, 64))}, jax.random.key(0))
    mesh = AbstractMesh((8,), ("data",))
    whole, split = (Placement(mesh, kind, 1000).abstract(shapes) for kind in sharding.SHARDINGS)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(whole))
    assert split["key"].sharding.is_fully_replicated and split["large"].sharding.shard_shape((64, 64)) == (64, 8)
    assert split["large"].shape == (64, 64) and split["key"].dtype == shapes["key"].dtype


# Eight devices: the step of a network of two matrices, one of which is too small to be split.
STEP = """
import jax, numpy as np, jax.numpy as jnp
from uda_jax.methods.parts.updates import Player, initial_state, single_player_step
from uda_jax.runs import checksums
from uda_jax.runs.instruments import TrainStep, placement_lines
from uda_jax.training import optimisers, sharding
from uda_jax.training.guard import first_not_finite
from uda_jax.training.schedules import Schedule

player = Player(("net",), optimisers.adam(learning_rate=0.1), Schedule(name="constant"))

def init(key):
    large, small = (jax.random.normal(k, shape) for k, shape in zip(jax.random.split(key), [(64, 128), (128, 1)]))
    state = initial_state(key, {"net": {"params": {"large": large, "small": small}}}, {"net": player})
    return state.replace(teacher={"params": {"large": 2 * large}, "model_state": {}})

def step(state, batch):
    def loss(params):
        net = params["net"]
        return {"square": jnp.mean(jnp.square(jnp.tanh(batch @ net["large"]) @ net["small"]))}, {}
    state, metrics = single_player_step(state, player, loss)
    mean = (state.teacher["params"]["large"] + state.params["net"]["large"]) / 2
    return state.replace(teacher={"params": {"large": mean}, "model_state": {}}), metrics

mesh, key = sharding.data_mesh(), jax.random.key(0)
batch = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
on_device = sharding.to_global(batch, sharding.split_over_batch(mesh))
losses, states = {}, {}
for kind in sharding.SHARDINGS:
    place = sharding.Placement(mesh, kind, 1000)
    shapes = jax.eval_shape(init, key)
    state = jax.jit(init, out_shardings=place.of(shapes))(key)
    compiled = TrainStep(step, state, mesh)
    losses[kind] = []
    for _ in range(3):
        state, metrics = compiled(state, on_device)
        losses[kind].append([float(value) for value in metrics.values()])
    assert compiled.traces == 1
    assert jax.tree.map(lambda x: x.sharding, state) == place.of(shapes)
    states[kind] = state
whole, split = states["replicated"], states["fsdp"]
np.testing.assert_allclose(losses["fsdp"], losses["replicated"], rtol=1e-5)
for a, b in zip(jax.tree.leaves((whole.params, whole.teacher)), jax.tree.leaves((split.params, split.teacher))):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
large = [x for x in jax.tree.leaves(split.replace(key=None)) if x.shape == (64, 128)]
assert len(large) == 4  # the parameters, both moments of Adam, the teacher
for array in large:
    assert {shard.data.shape for shard in array.addressable_shards} == {(64, 16)}
assert sharding.bytes_per_device(split) < 0.2 * sharding.bytes_per_device(whole)
assert placement_lines("train", whole, "replicated") == []
(line,) = placement_lines("train", split, "fsdp")
assert line == "stage train: 0.0 of the state's 0.1 MB lie on each of 8 devices", line

# The same checksums, wherever the arrays lie.
host = jax.tree.map(np.asarray, split.params)
assert checksums.table(split.params) == checksums.table(host)
# A value in the part of the last device is seen.
assert first_not_finite(split) is None
spoilt = host["net"]["large"].copy()
spoilt[63, 127] = np.nan
spoilt = jax.device_put(spoilt, split.params["net"]["large"].sharding)
found = first_not_finite(split.replace(params={"net": {"large": spoilt, "small": split.params["net"]["small"]}}))
assert found[0] == "params/net/large" and np.isnan(found[1]), found

# Other functions of a split state take its whole arrays.
predict = sharding.Compiled(lambda state, images: jnp.sum(images @ state.params["net"]["large"]), mesh)
np.testing.assert_allclose(predict(split, on_device), predict(whole, on_device), rtol=1e-4)
def scaled(state, images, *, size):
    return images @ state.params["net"]["large"] * size
alone = jax.jit(sharding.gathering(scaled, mesh), static_argnames="size")(split, batch[:3], size=2)
np.testing.assert_allclose(alone, 2 * batch[:3] @ host["net"]["large"], rtol=1e-4, atol=1e-5)
kept = sharding.Compiled(lambda state, images: state, mesh, jax.tree.map(lambda x: x.sharding, split))(split, on_device)
assert jax.tree.map(lambda x: x.sharding, kept) == jax.tree.map(lambda x: x.sharding, split)
"""


def test_a_split_state_stays_split_and_steps_as_a_whole_one():
    finish(start(STEP, 8))


# Two processes of two devices: each sees its own half alone.
AGREE = """
import sys, jax, numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jax.experimental import multihost_utils
from uda_jax.runs import checksums
from uda_jax.runs.checkpoints import Checkpoints, write_arrays
from uda_jax.runs.workdir import Workdir
from uda_jax.training import sharding
from uda_jax.training.guard import first_not_finite
mesh = sharding.data_mesh()
place = sharding.split_by_size(np.ones((8, 4)), mesh, 1)
good = np.arange(32, dtype=np.float32).reshape(8, 4)

def spoilt(row, value):
    array = good.copy()
    array[row, 3] = value
    return array

def placed(*arrays):
    # Each process hands over its own rows.
    rows = slice(4 * jax.process_index(), 4 * jax.process_index() + 4)
    return [jax.make_array_from_process_local_data(place, array[rows]) for array in arrays]

assert first_not_finite(placed(good, good)) is None
# As weights of a file are placed: every process has all of them.
(mine,) = {shard.data.shape for shard in jax.device_put(good, place).addressable_shards}
assert mine == (2, 4)
np.testing.assert_array_equal(sharding.on_host(jax.device_put(good, place)), good)
assert first_not_finite(placed(good, spoilt(7, np.inf))) == ("1", np.inf)
# The first array counts, whichever process holds it.
assert first_not_finite(placed(spoilt(6, -np.inf), spoilt(0, np.inf))) == ("0", -np.inf)
assert first_not_finite(placed(spoilt(0, -np.inf), spoilt(6, np.inf))) == ("0", -np.inf)
assert checksums.table(placed(good, spoilt(7, 2.0))) == checksums.table([good, spoilt(7, 2.0)])

# Networks that never learn are written split, and read back whole or split.
frozen = {"anchor": placed(good)[0]}
files = Workdir(sys.argv[3]).stage("train")
write_arrays(files.frozen, frozen, replace=True)
multihost_utils.sync_global_devices("written")
checkpoints = Checkpoints(files)
for where in (place, sharding.replicated(mesh)):
    found = checkpoints.restore_frozen(sharding.abstract(frozen, where))["anchor"]
    assert found.sharding == where
    np.testing.assert_array_equal(sharding.on_host(found), good)
checkpoints.close()
"""


def test_processes_share_what_they_hold_parts_of(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    finish(*(start(AGREE, 2, address, str(process), str(tmp_path / "run")) for process in range(2)))


def test_host_arrays_and_parts_of_numpy_arrays_are_themselves():
    array = np.arange(3)
    assert sharding.on_host(array) is array and sharding.own_parts(array)[0] is array and sharding.is_local(array)
