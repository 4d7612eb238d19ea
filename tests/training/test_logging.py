"""metrics.jsonl, TensorBoard events and the progress line."""

import errno
import io
import json
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from uda_jax.training import logging


def read_events(folder):
    """Returns the Events of the folder's event files: records of length, checksum, payload, checksum."""
    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = struct.unpack("<Q", data[:8])[0]
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def scalars(folder):
    """Returns (step, tag, value) of the folder's scalars, as they were written."""
    events = read_events(folder)
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]


def test_scalars_reach_both_files(tmp_path, capfd):
    writer = logging.MetricWriter(tmp_path / "stage", stage="train")
    writer.write_scalars(100, {"loss/total": np.float32(1.5), "loss/adversarial": 0.25})
    writer.write_scalars(300, {"loss/total": float("nan"), "big": 1e300})
    writer.close()
    lines = (tmp_path / "stage" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 100, "stage": "train", "loss/total": 1.5, "loss/adversarial": 0.25},
        {"step": 300, "stage": "train", "loss/total": None, "big": 1e300},
    ]
    version, *others = read_events(tmp_path / "stage")
    assert version.file_version == "brain.Event:2" and all(event.wall_time > 1.6e9 for event in others)
    *finite, undefined, overflowing = scalars(tmp_path / "stage")
    assert finite == [(100, "loss/total", 1.5), (100, "loss/adversarial", 0.25)]
    assert undefined[:2] == (300, "loss/total") and math.isnan(undefined[2])
    assert overflowing == (300, "big", math.inf)  # events hold float32
    assert capfd.readouterr().err == ""


def test_images_are_png_of_the_same_pixels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 300, 3), np.uint8)
    writer = logging.MetricWriter(tmp_path)
    writer.write_images(7, {"single": images[0], "batch": images})
    writer.close()
    _, event = read_events(tmp_path)
    values = event.summary.value
    assert event.step == 7
    assert [value.tag for value in values] == ["single", "batch/0", "batch/1"]
    for value, expected in zip(values, images[[0, 0, 1]], strict=True):
        assert (value.image.height, value.image.width, value.image.colorspace) == (5, 300, 3)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string))), expected)


def test_resumed_run_leaves_the_rows_of_an_uninterrupted_one(tmp_path):
    def train(writer, steps):
        for step in steps:
            writer.write_scalars(step, {"loss": step / 2})
        writer.close()

    train(logging.MetricWriter(tmp_path / "whole", stage="b"), range(1, 9))
    other = '{"step": 50, "stage": "a", "loss": 1.0}\n'
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "metrics.jsonl").write_text(other)
    train(logging.MetricWriter(tmp_path / "cut", stage="b"), range(1, 7))
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "sta')  # killed while writing
    resumed = logging.MetricWriter(tmp_path / "cut", stage="b")
    resumed.resume_at(4)
    train(resumed, range(5, 9))
    whole, cut = (tmp_path / name / "metrics.jsonl" for name in ("whole", "cut"))
    assert cut.read_text() == other + whole.read_text()
    assert sorted(path.name[:7] for path in (tmp_path / "cut").iterdir()) == ["events.", "events.", "metrics"]
    # TensorBoard drops what lies at the step of a restart and beyond, and goes on with what comes after it.
    shown, restarts = {}, []
    for event in read_events(tmp_path / "cut"):
        if event.session_log.status == SessionLog.START:
            restarts.append(event.step)
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            shown[event.step] = value.simple_value
    assert restarts == [5] and shown == {step: step / 2 for step in range(1, 9)}


def test_a_full_disk_is_an_error_not_a_hang(tmp_path, monkeypatch):
    writer = logging.MetricWriter(tmp_path)

    def full(event):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer._events, "write_event", full)
    with pytest.raises(OSError, match="No space"):
        writer.write_scalars(1, {"loss": 1.0})


def test_events_can_be_read_while_the_writer_is_open(tmp_path):
    writer = logging.MetricWriter(tmp_path)
    writer.write_scalars(1, {"loss": 1.0})
    assert scalars(tmp_path) == [(1, "loss", 1.0)]
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write_scalars(2, {"loss": 1.0})


def test_reading_skips_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "stage": "", "a": 2.0}\n{"step": 2, "st')
    assert logging.read_metrics(path) == [{"step": 1, "stage": "", "a": 2.0}]


def test_inactive_writer_touches_nothing(tmp_path):
    writer = logging.MetricWriter(tmp_path / "absent", active=False)
    writer.write_scalars(1, {"loss": 1.0})
    writer.write_images(1, {"image": np.zeros((2, 2, 3), np.uint8)})
    writer.resume_at(0)
    writer.close()
    assert not (tmp_path / "absent").exists()


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_line_numbers():
    clock, stream = Clock(), io.StringIO()
    progress = logging.ProgressLine(400, 4, first_step=100, stream=stream, clock=clock)
    clock.now += 50  # compilation, no part of the ETA once a second line is printed
    progress.update(110, {"loss/total": 12.34567})
    with progress.waiting():
        clock.now += 1.0
    clock.now += 9.0
    figures = progress.update(130, {"loss/total": np.float32(0.5), "loss/adversarial": float("nan")})
    assert stream.getvalue().splitlines() == [
        "110/400  ETA 0:24:10  0.800 images/s  waiting 0 %  loss/total 12.35",
        "130/400  ETA 0:02:15  8.00 images/s  waiting 10 %  loss/total 0.5000",
    ]
    assert figures == pytest.approx({"speed/images_per_second": 8.0, "speed/waiting_for_data": 0.1})


def test_progress_line_rewrites_itself_on_a_terminal():
    clock, stream = Clock(), Terminal()
    progress = logging.ProgressLine(2, 1, stream=stream, clock=clock)
    for step, name in ((1, "a_long_name"), (2, "b")):
        clock.now += 1
        progress.update(step, {name: 1.0})
    progress.close()
    first, second, *others = stream.getvalue().removeprefix("\r").split("\r")
    assert first.startswith("1/2  ETA ") and first.rstrip().endswith("waiting 0 %  a_long_name 1.000")
    assert (
        second.startswith("2/2  ETA ") and second.rstrip().endswith("  b 1.000") and len(second) >= len(first.rstrip())
    )  # hides the longer first line
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().endswith("\n")


def test_silent_processes_print_nothing():
    stream = io.StringIO()
    progress = logging.ProgressLine(10, 1, stream=stream, active=False)
    progress.update(1, {"loss": 1.0})
    progress.close()
    assert stream.getvalue() == ""


def test_logging_loads_no_other_framework():
    command = "import sys, uda_jax.training.logging as _; print({'torch', 'tensorflow', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_line_drops_losses_first_and_the_last_of_them_first():
    clock, stream = Clock(), io.StringIO()
    progress = logging.ProgressLine(9000, 4, first_step=1000, stream=stream, clock=clock)
    clock.now += 1000
    progress.score = "dev mIoU 43.21"
    names = logging.losses({f"loss/{name}": 1.0 for name in ("adversarial", "discriminator", "total")} | {"norm": 2.0})
    assert list(names) == ["total", "adversarial", "discriminator"]
    progress.update(2000, names)
    (line,) = stream.getvalue().splitlines()
    assert line == "2000/9000  ETA 1:56:40  4.00 images/s  waiting 0 %  dev mIoU 43.21  total 1.000"
