"""Checkpoints of processes with a disk each: the first one writes all of it, and each reads its own copy."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from throwaway import Counting

from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.runs import separate_disks
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Identity
from uda_jax.training import sharding
from uda_jax.training.layout import StageFiles

RUN = Identity({"seed": 0}, ("ground", "wall", "thing"))


@pytest.fixture
def stream(tiny_folder):
    domain = Domain(dataset="folder", root=str(tiny_folder), label_space="own", size=(32, 64))
    return train_stream({"source": domain}, global_batch=2, seed=0, workers=0, process_index=0, process_count=1)


def state():
    return Counting().init(jax.random.key(3), {})


def target():
    return sharding.abstract(jax.eval_shape(state), sharding.replicated(sharding.data_mesh()))


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        if jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(ours, theirs)


def test_what_was_written_alone_is_restored_alone_and_together(stream, tmp_path, monkeypatch):
    files = StageFiles(tmp_path / "train")
    with monkeypatch.context() as patch:
        patch.setattr(separate_disks, "are_separate", lambda folder: True)
        with contextlib.closing(Checkpoints(files)) as checkpoints:
            checkpoints.save_frozen(state())
            next(stream)
            checkpoints.save(1, state(), stream, identity=RUN, notes={}, score=None)
            checkpoints.wait()
            assert_same(checkpoints.restore(1, target(), stream, identity=RUN), state())
    about = json.loads(next((files.checkpoints / "1" / "config").glob("metadata")).read_text())
    assert about["untyped_keys"] is True
    with contextlib.closing(Checkpoints(files)) as checkpoints:
        assert_same(checkpoints.restore(1, target(), stream, identity=RUN), state())
        next(stream)
        checkpoints.save(2, state(), stream, identity=RUN, notes={}, score=None)
        checkpoints.wait()
        assert_same(checkpoints.restore(2, target()), state())
    assert "untyped_keys" not in json.loads((files.checkpoints / "2" / "config" / "metadata").read_text())


PROCESS = """
import contextlib, shutil, sys
from pathlib import Path

process, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]) / sys.argv[1] / "train"
import jax
import numpy as np

jax.distributed.initialize(f"localhost:{{port}}", 2, process)
from jax.experimental import multihost_utils
from throwaway import Counting

from uda_jax.data.pipeline.domains import Domain
from uda_jax.data.pipeline.streams import train_stream
from uda_jax.runs import separate_disks
from uda_jax.runs.checkpoints import Checkpoints
from uda_jax.runs.workdir import Identity
from uda_jax.training import sharding
from uda_jax.training.layout import StageFiles

separate_disks.are_separate = lambda folder: True
replicated = sharding.replicated(sharding.data_mesh())
state = jax.jit(lambda: Counting().init(jax.random.key(3), {{}}), out_shardings=replicated)()
domain = Domain(dataset="folder", root={data!r}, label_space="own", size=(32, 64))
stream = train_stream({{"source": domain}}, global_batch=2, seed=0, workers=0, process_index=process, process_count=2)
identity, folder = Identity({{"seed": 0}}, ("a",)), StageFiles(folder)
for step in (1, 2):
    next(stream)
    with contextlib.closing(Checkpoints(folder, keep_latest=1)) as checkpoints:
        assert checkpoints.latest_step() == (step - 1 or None)
        checkpoints.save_frozen(state)
        checkpoints.save(step, state, stream, identity=identity, notes={{}}, score=float(step))
    multihost_utils.sync_global_devices("written")
    if process == 1:
        # As by way of the bucket.
        shutil.copytree(folder.path.parents[1] / "0", folder.path.parent, dirs_exist_ok=True)
with contextlib.closing(Checkpoints(folder)) as checkpoints:
    assert checkpoints.all_steps() == ([2] if process == 0 else [1, 2])
    target = sharding.abstract(jax.eval_shape(lambda: state), replicated)
    found = checkpoints.restore(checkpoints.best_step(), target, stream, identity=identity)
    assert stream.get_state() == {{"step": 2}}
    networks = checkpoints.restore_networks(2, {{"params": target.params}}, identity=identity)
for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
    assert ours.sharding == replicated and ours.dtype == theirs.dtype, (ours, theirs)
    data = [x if x.dtype != state.key.dtype else jax.random.key_data(x) for x in (ours, theirs)]
    np.testing.assert_array_equal(*[np.asarray(x.addressable_data(0)) for x in data])
"""


def test_the_first_of_two_processes_writes_what_both_can_read(tmp_path, tiny_folder):
    """Each has the state over devices of both, and a folder that the other does not see."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    code, paths = PROCESS.format(data=str(tiny_folder)), [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)))
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen([*command, str(i), port, str(tmp_path)], stderr=subprocess.PIPE, text=True, env=environment)
        for i in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
