"""How much memory there is, and whether a step fits into it."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from uda_jax.errors import UserError
from uda_jax.runs import memory, stages
from uda_jax.runs.memory import Room


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 8 GB free, and the folder of its control groups; this process is in the group /jobs/mine."""
    (tmp_path / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n")
    (tmp_path / "cgroup").write_text("0::/jobs/mine\n")
    groups = tmp_path / "groups"
    (groups / "jobs" / "mine").mkdir(parents=True)
    for name, path in {"_MEMINFO": "meminfo", "_OWN_CGROUP": "cgroup", "_CGROUPS": "groups"}.items():
        monkeypatch.setattr(memory, name, tmp_path / path)
    return groups


def limit(folder, size, used, reclaimable=0, names=("memory.max", "memory.current")):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (size, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {reclaimable}\n")


def test_the_machine_and_its_control_groups(system):
    assert memory.machine_room() == Room(8_192_000_000, "this machine")
    limit(system / "jobs" / "mine", "max", 1000)
    assert memory.machine_room().where == "this machine"
    limit(system / "jobs", 5_000_000_000, 3_000_000_000, 500_000_000)
    assert memory.machine_room() == Room(2_500_000_000, "its control group")
    # In a container the own group is the root of what is seen.
    limit(system, 1_000_000_000, 900_000_000)
    assert memory.machine_room() == Room(100_000_000, "its control group")


def test_older_control_groups(system, tmp_path):
    (tmp_path / "cgroup").write_text("5:cpu:/jobs\n4:memory:/jobs\n")
    limit(
        system / "memory" / "jobs",
        3_000_000_000,
        1_000_000_000,
        names=("memory.limit_in_bytes", "memory.usage_in_bytes"),
    )
    assert memory.machine_room() == Room(2_000_000_000, "its control group")


def test_systems_that_do_not_tell(system, tmp_path, monkeypatch):
    (tmp_path / "meminfo").unlink()
    assert memory.machine_room() is None
    monkeypatch.setattr(memory, "_STATM", tmp_path / "none")
    assert memory.resident() == 0


def test_this_process_has_a_size():
    assert 50e6 < memory.resident() < 1e12
    assert memory.process_peak(1000, 3) >= 3000 + memory.BESIDES


def test_accelerators_are_asked(monkeypatch):
    stats = [{"bytes_limit": 100, "bytes_in_use": 10}, {"bytes_limit": 100, "bytes_in_use": 30}]
    devices = [SimpleNamespace(memory_stats=lambda found=found: found, device_kind="H100") for found in stats]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.room() == Room(70, "each H100")
    monkeypatch.setattr(jax, "local_devices", lambda: [*devices, SimpleNamespace(memory_stats=lambda: None)])
    assert memory.room() is None


def test_the_line_names_the_fields(tiny_experiment, monkeypatch):
    (stage,) = stages.recipe(tiny_experiment, 3)
    monkeypatch.setattr(memory, "room", lambda: Room(2_000_000_000, "this machine"))
    memory.check(stage, 1_000_000_000, tiny_experiment)
    with pytest.raises(UserError) as error:
        memory.check(stage, 9_000_000_000, tiny_experiment)
    assert str(error.value) == (
        "stage train: a training step takes 9.2 GB of memory, and this machine has 2.0 GB left; lower "
        "config.data.source.crop (32x64) or lower config.train.batch_size (8; .accumulation makes up for it) or take a "
        "smaller network (config.method.segmenter.name, .width); --ignore-memory starts it all the same"
    )
    monkeypatch.setattr(memory, "room", lambda: None)
    memory.check(stage, 9_000_000_000, tiny_experiment)


def test_the_remedies_are_those_of_the_stage_and_the_device(tiny_experiment, monkeypatch):
    own = stages.StageConfig(train=dataclasses.replace(tiny_experiment.train, batch_size=1))
    experiment = dataclasses.replace(tiny_experiment, stages={"only": own}, recipe=("only",))
    (stage,) = stages.recipe(experiment, 3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    line = memory.remedies(stage, experiment)
    assert "batch_size" not in line and "sharding" not in line
    assert line.endswith("set config.stages.only.train.precision=bf16 or set config.method.segmenter.remat=all")
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert "set config.stages.only.train.sharding=fsdp" in memory.remedies(stage, experiment)
