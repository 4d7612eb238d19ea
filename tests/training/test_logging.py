"""metrics.jsonl, TensorBoard events (read by a decoder of this file's own) and the progress line."""

import io
import json
import math
import struct

import numpy as np
import pytest
from PIL import Image

from uda_jax.training import logging


def crc32c(data):
    """Bit by bit, unlike the table of the writer."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def unmask(masked):
    rotated = (masked - 0xA282EAD8) % 2**32
    return (rotated >> 17 | rotated << 15) % 2**32


def fields(message):
    """Decodes one protocol-buffer message into [(field number, value)]."""
    position, found = 0, []

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = varint()
        size = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            found.append((key >> 3, varint()))
            continue
        if key & 7 == 2:
            size = varint()
        payload = message[position : position + size]
        assert len(payload) == size
        found.append((key >> 3, payload))
        position += size
    return found


def read_events(folder):
    """Returns the decoded Events of the folder's event files, checking both checksums of every record."""
    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = struct.unpack("<Q", data[:8])[0]
            assert unmask(struct.unpack("<I", data[8:12])[0]) == crc32c(data[:8])
            payload = data[12 : 12 + length]
            assert unmask(struct.unpack("<I", data[12 + length : 16 + length])[0]) == crc32c(payload)
            events.append(dict(fields(payload)))
            data = data[16 + length :]
    return events


def summary_values(event):
    return [dict(fields(value)) for _, value in fields(event[5])]


def test_crc_of_the_decoder():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C, RFC 3720 and others


def test_scalars_reach_both_files(tmp_path):
    writer = logging.MetricWriter(tmp_path / "stage", stage="train")
    writer.write_scalars(100, {"loss/total": np.float32(1.5), "loss/adversarial": 0.25})
    writer.write_scalars(300, {"loss/total": float("nan"), "big": 1e300})
    writer.close()
    lines = (tmp_path / "stage" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 100, "stage": "train", "loss/total": 1.5, "loss/adversarial": 0.25},
        {"step": 300, "stage": "train", "loss/total": None, "big": 1e300},
    ]
    version, first, second = read_events(tmp_path / "stage")
    assert version[3] == b"brain.Event:2"
    assert struct.unpack("<d", first[1])[0] > 1.6e9 and first[2] == 100 and second[2] == 300
    decoded = [(value[1].decode(), struct.unpack("<f", value[2])[0]) for value in summary_values(first)]
    assert decoded == [("loss/total", 1.5), ("loss/adversarial", 0.25)]
    assert [math.isnan(struct.unpack("<f", value[2])[0]) for value in summary_values(second)] == [True, False]


def test_images_are_png_of_the_same_pixels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 300, 3), np.uint8)
    writer = logging.MetricWriter(tmp_path)
    writer.write_images(7, {"single": images[0], "batch": images})
    values = summary_values(read_events(tmp_path)[1])
    assert [value[1] for value in values] == [b"single", b"batch/0", b"batch/1"]
    for value, expected in zip(values, images[[0, 0, 1]], strict=True):
        image = dict(fields(value[4]))
        assert (image[1], image[2], image[3]) == (5, 300, 3)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image[4]))), expected)


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
    restarts = [event for event in read_events(tmp_path / "cut") if 7 in event]
    assert [(event[2], fields(event[7])) for event in restarts] == [(5, [(1, 1)])]


def test_reading_skips_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "stage": "", "a": 2.0}\n{"step": 2, "st')
    assert logging.read_metrics(path) == [{"step": 1, "stage": "", "a": 2.0}]


def test_inactive_writer_touches_nothing(tmp_path):
    writer = logging.MetricWriter(tmp_path / "absent", active=False)
    writer.write_scalars(1, {"loss": 1.0})
    writer.write_images(1, {"image": np.zeros((2, 2, 3), np.uint8)})
    writer.resume_at(0)
    writer.flush()
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
        "110/400  loss/total 12.35  0.800 images/s  ETA 0:24:10  waiting for data 0 %",
        "130/400  loss/total 0.5000  loss/adversarial nan  8.00 images/s  ETA 0:02:15  waiting for data 10 %",
    ]
    assert figures == pytest.approx({"speed/images_per_second": 8.0, "speed/waiting_for_data": 0.1})


def test_progress_line_rewrites_itself_on_a_terminal():
    clock, stream = Clock(), Terminal()
    progress = logging.ProgressLine(2, 1, stream=stream, clock=clock)
    for step, name in ((1, "a_long_name"), (2, "b")):
        clock.now += 1
        progress.update(step, {name: 1.0})
    progress.close()
    first, second = stream.getvalue()[1:].split("\r")
    assert stream.getvalue().startswith("\r") and stream.getvalue().count("\n") == 1 and second.endswith("\n")
    assert len(second.rstrip("\n")) == len(first)  # padded over the longer first line


def test_silent_processes_print_nothing():
    stream = io.StringIO()
    progress = logging.ProgressLine(10, 1, stream=stream, active=False)
    progress.update(1, {"loss": 1.0})
    progress.close()
    assert stream.getvalue() == ""
