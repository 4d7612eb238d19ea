"""Files of weights are read bit for bit without PyTorch; harmful, damaged and foreign ones end in one line."""

import errno
import json
import mmap
import os
import pathlib
import pickle
import resource
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors

from uda_jax.errors import UserError
from uda_jax.weights import files

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
CONTAINERS = ("zip.pth", "zip_protocol5.pth", "legacy.pth")
HARMFUL = "refused (the file may be harmful)"
AGAIN = "copy or download the file again"


def arrays(node, prefix=""):
    """Returns the arrays below a node by their path; bfloat16 by its bits."""
    if isinstance(node, np.ndarray):
        return {prefix: node.view(np.int16) if node.dtype == ml_dtypes.bfloat16 else node}
    found = {}
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, child in items:
        found |= arrays(child, f"{prefix}/{name}" if prefix else str(name))
    return found


def message(path):
    """Returns the one line, without the path, with which reading a file fails."""
    with pytest.raises(UserError) as caught:
        files.read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def fragment(value):
    """Returns the opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def storage(key="0", kind="torch\nFloatStorage", elements=6):
    """Returns the opcodes of a persistent id; its storage has 24 bytes."""
    return (
        b"("
        + fragment("storage")
        + f"c{kind}\n".encode()
        + fragment(key)
        + fragment("cpu")
        + fragment(elements)
        + b"tQ"
    )


def rebuild(*arguments, name="_rebuild_tensor", kind="torch\nFloatStorage", elements=6):
    """Returns the opcodes of a tensor on that storage."""
    pushed = b"".join(map(fragment, arguments))
    return f"ctorch._utils\n{name}\n(".encode() + storage(kind=kind, elements=elements) + pushed + b"tR"


def archive(path, body, records=(), compression=zipfile.ZIP_STORED):
    """Writes PyTorch's archive: a pickle of these opcodes, and a storage of the floats 0 to 5."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("model/data.pkl", b"\x80\x02" + body + b".")
        file.writestr("model/data/0", np.arange(6, dtype=np.float32).tobytes())
        for name, data in records:
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("name", CONTAINERS)
def test_arrays_equal_those_of_pytorch(name):
    found = arrays(files.read(FIXTURES / name))
    with np.load(FIXTURES / "container.npz") as expected:
        assert sorted(found) == sorted(expected)
        for path, array in expected.items():
            assert found[path].dtype == array.dtype.newbyteorder("="), path
            assert found[path].shape == array.shape, path
            assert found[path].tobytes() == array.astype(found[path].dtype).tobytes(), path


@pytest.mark.parametrize("name", CONTAINERS)
def test_everything_else_is_plain(name):
    container = files.read(FIXTURES / name)
    assert type(container["model"]) is dict and list(container["model"])[:2] == ["conv1.weight", "bn1.running_var"]
    assert container["model"]["types.bfloat16"].dtype == ml_dtypes.bfloat16
    assert container["iteration"] == 3
    assert container["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    config = {key: value for key, value in container["config"].items() if key not in ("mean", "order")}
    assert config == {
        "model": "DeepLab",
        "size": [512, 1024],
        "crop": (321, 0.5, None, True),
        "classes": {1, 2},
        "name": "Zürich",
        "large": 2**70,
        "raw": b"\x00\xff",
        "best": 0.5,
        "options": {"lr": 0.5, "gpus": [0, 1]},
        "milestones": {10: 1, 20: 1},
        "meters": {"loss": [1.0]},
        "dtype": np.dtype(ml_dtypes.bfloat16),
        "device": "cuda:1",
        "shape": (2, 3),
        "layout": "torch.strided",
    }
    assert type(config["options"]) is type(config["milestones"]) is type(config["meters"]) is dict


@pytest.mark.parametrize("name", CONTAINERS)
def test_tensors_are_views_of_the_file(name):
    model = files.read(FIXTURES / name)["model"]
    assert np.shares_memory(model["shared.all"], model["shared.last_rows"])
    assert not np.shares_memory(model["shared.all"], model["conv1.weight"])
    for array in model.values():
        assert array.size == 0 or not (array.flags.writeable or array.flags.owndata)


def test_checkpoint_of_python_2():
    container = files.read(FIXTURES / "python2.pth")
    weights = container["state_dict"]
    assert list(weights) == ["Scale.conv1.weight", "Scale.conv1.transposed", "Scale.bn1.bias", "Scale.bn1.steps"]
    np.testing.assert_array_equal(weights["Scale.conv1.weight"], np.float32([[0.5, 1.5, -2.0], [3.25, 4.0, 5.0]]))
    np.testing.assert_array_equal(weights["Scale.conv1.transposed"], weights["Scale.conv1.weight"].T)
    # A view from element 2 on, of which the tensor starts at element 1.
    np.testing.assert_array_equal(weights["Scale.bn1.bias"], np.float32([3.25, 4.0]))
    np.testing.assert_array_equal(weights["Scale.bn1.steps"], np.int64([2**40]))
    assert container["seed"] == 2**70 and container["tags"] == {"a"}
    assert container["note"] == "Zürich" and container["arch"].encode("latin-1") == "Zürich".encode()


def test_archive_without_checksums():
    with np.load(FIXTURES / "container.npz") as expected:
        found = files.read(FIXTURES / "no_checksums.pth")
        np.testing.assert_array_equal(found["weight"], expected["ema_model/weight"])


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickle_of_arrays(tmp_path, protocol):
    saved = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(3), "names": ("a", b"b", None)}
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(saved, protocol))
    found = files.read(tmp_path / "weights.pkl")
    np.testing.assert_array_equal(found["kernel"], saved["kernel"])
    assert found["kernel"].dtype == np.float32 and found["steps"] == 3 and found["names"] == ("a", b"b", None)


def test_needs_neither_pytorch_nor_a_device():
    code = "import sys; sys.modules['torch'] = sys.modules['jax'] = None; from uda_jax.weights import files; "
    code += f"print(*[len(files.read(path)) for path in {[str(FIXTURES / name) for name in CONTAINERS]}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "5 5 5\n"


@pytest.mark.parametrize("name", ["posix.system", "builtins.eval", "builtins.getattr", "torch.hub.load"])
@pytest.mark.parametrize("form", ["archive", "legacy", "plain", "stack_global", "inst", "nested"])
def test_names_outside_the_table_are_refused(tmp_path, name, form):
    path, marker = tmp_path / "weights.pth", tmp_path / "marker"
    module, _, function = name.rpartition(".")
    called, command = f"c{module}\n{function}\n".encode(), fragment(f"touch {marker}")
    body = called + command + b"\x85R"
    if form == "archive":
        archive(path, body)
    elif form == "legacy":
        head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(head + b"\x80\x02" + body + b".")
    elif form == "stack_global":
        path.write_bytes(b"\x80\x04" + fragment(module) + fragment(function) + b"\x93" + command + b"\x85R.")
    elif form == "inst":
        path.write_bytes(b"(" + command + f"i{module}\n{function}\n.".encode())
    elif form == "nested":
        archive(path, b"ccollections\nOrderedDict\n" + body + b"\x85R")
    else:
        path.write_bytes(b"\x80\x02" + body + b".")
    assert message(path) == f"the pickle asks for '{name}', which is no tensor or plain container; {HARMFUL}"
    assert not marker.exists()


UNREAD = {
    "module.pth": "the pickle asks for 'torch.nn.modules.linear.Linear', which is no tensor or plain container; "
    "refused (the file may be harmful)",
    "quantised.pth": "holds a quantised tensor ('torch._utils._rebuild_qtensor'), which is not read; "
    "save it dense and as float32 with PyTorch",
    "sparse.pth": "holds a sparse tensor ('torch._utils._rebuild_sparse_tensor'), which is not read; "
    "save it dense and as float32 with PyTorch",
    "conjugate.pth": "holds a tensor with a pending conjugate or sign; save a copy of it (resolve_conj, resolve_neg)",
    "torchscript.pt": "holds a TorchScript program; load it with torch.jit.load and save its state_dict() instead",
}


@pytest.mark.parametrize("name", sorted(UNREAD))
def test_what_pytorch_writes_but_nobody_reads(name):
    assert message(FIXTURES / name) == UNREAD[name]


def test_strides_and_offsets(tmp_path):
    path = archive(tmp_path / "w.pth", rebuild(1, (2, 2), (3, 1)))
    np.testing.assert_array_equal(files.read(path), np.float32([[1, 2], [4, 5]]))
    path = archive(tmp_path / "w.pth", rebuild(5, (1, 1), (999, 7)))
    np.testing.assert_array_equal(files.read(path), np.float32([[5]]))
    path = archive(tmp_path / "w.pth", rebuild(4, (), ()))
    np.testing.assert_array_equal(files.read(path), np.float32(4))
    path = archive(tmp_path / "w.pth", rebuild(0, (3,), (1,), kind="torch\nDoubleStorage", elements=3))
    assert files.read(path).dtype == np.float64


def damaged_at(position):
    return f"the pickle is damaged or cut short near byte {position}; {AGAIN}"


BEYOND = "a tensor of shape {} ends at byte {} of a storage of 24; download it again"
REPEATS = "a tensor of shape (1099511627776, 6) repeats a storage of 24 bytes; save a copy of it"
WILD = {
    "past the end": ((1, (2, 3), (3, 1)), BEYOND.format("(2, 3)", 28)),
    "offset past the end": ((2**40, (1,), (1,)), BEYOND.format("(1,)", 4 * (2**40 + 1))),
    "stride past the end": ((0, (2,), (2**61,)), BEYOND.format("(2,)", 4 * (2**61 + 1))),
    "terabytes": ((0, (2**40, 6), (0, 1)), REPEATS),
    "negative offset": ((-1, (2,), (1,)), None),
    "negative stride": ((5, (2,), (-1,)), None),
    "large integer": ((2**70, (2,), (1,)), None),
    "text": (("0", (2,), (1,)), None),
    "ranks differ": ((0, (2, 3), (1,)), None),
    "no tuple": ((0, [2], [1]), None),
    "bool": ((True, (2,), (1,)), None),
    "too few": ((0, (2,)), None),
    "too many dimensions": ((0, (1,) * 65, (1,) * 65), None),
    "empty but huge": ((0, (0, 2**61, 8), (1, 1, 1)), None),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(WILD))
def test_wild_arguments_of_tensors(tmp_path, case):
    arguments, expected = WILD[case]
    text = message(archive(tmp_path / "w.pth", rebuild(*arguments)))
    # The position in the pickle is that of the call, its last opcode but one.
    assert text == (expected or damaged_at(2 + len(rebuild(*arguments)) - 1))


@pytest.mark.parametrize(
    "identity",
    [
        fragment("storage") + b"Q",
        fragment(("storage", "FloatStorage", "0", "cpu", 6)) + b"Q",
        b"(" + fragment("module") + b"ctorch\nFloatStorage\n" + fragment("0") + fragment("cpu") + fragment(6) + b"tQ",
        storage(elements=-1),
        storage(elements="6"),
        storage(key=0),
        storage(kind="collections\nOrderedDict"),
    ],
)
def test_persistent_ids_of_another_form(tmp_path, identity):
    text = message(archive(tmp_path / "w.pth", identity))
    assert text == f"the pickle refers to an object that is no storage of a tensor; {HARMFUL}"


NESTED = f"the pickle nests more than 100 containers; {HARMFUL}"
VALUE = "the pickle holds a function, class or storage where a value belongs; save tensors only"
HOSTILE = {
    "attributes of a builder": (b"ccollections\nOrderedDict\n}" + fragment("make") + b"Nsb", None),
    "attributes of a storage": (storage() + b"}b", None),
    "call of a dict": (b"})R", 4),
    "call of a class as value": (b"cnumpy\nndarray\n)R", 18),
    "append to a dict": (b"}Na", 4),
    "items of a list": (b"]NNs", 5),
    "unknown memo": (b"h\x07", 2),
    "no operands": (b"R", 2),
    "mark as value": (b"(", VALUE),
    "two values": (b"NN", 4),
    "storage as value": (storage(), VALUE),
    "builder as value": (b"ccollections\nOrderedDict\n", VALUE),
    "unfinished array": (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n)U\x01b\x87R", VALUE),
    "extension registry": (b"\x82\x01", f"the pickle uses the opcode EXT1, which no checkpoint needs; {HARMFUL}"),
    "text persistent id": (b"P0\n", f"the pickle uses the opcode PERSID, which no checkpoint needs; {HARMFUL}"),
    "old instance": (
        b"(icollections\nOrderedDict\n",
        f"the pickle uses the opcode INST, which no checkpoint needs; {HARMFUL}",
    ),
    "deep": (b"]" * 100_000 + b"a" * 99_999, NESTED),
    "deep key": (b"}" + b")" + b"\x85" * 100_000 + b"Ns", 100_005),
    "list in itself": (b"]q\x00h\x00a", NESTED),
    "doubling": (b"]" + b"q\x000]h\x00ah\x00a" * 60, f"the pickle holds more than 10,000,000 objects; {HARMFUL}"),
    "long string many times": (
        fragment(("x" * 50_000, "latin1")) + b"q\x09" + b"0c_codecs\nencode\nq\x080(" + b"h\x08h\x09R" * 10_000 + b"t",
        f"the pickle expands to more than the size of its file; {HARMFUL}",
    ),
    "objects in arrays": (
        b"cnumpy\ndtype\n" + fragment("O8") + b"\x85R",
        "holds a NumPy array of dtype 'O8', which is not read; save plain numbers",
    ),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_pickles(tmp_path, case):
    body, expected = HOSTILE[case]
    text = message(archive(tmp_path / "w.pth", body))
    if expected is None:
        expected = 2 + len(body) - 1
    assert text == (expected if isinstance(expected, str) else damaged_at(expected))


def test_options_of_a_script_become_a_dict(tmp_path):
    # Protocol 2 writes a dict with attributes as its class, its items and its attributes.
    items = b"(" + fragment("lr") + fragment(0.5) + fragment("size") + b"ceasydict\nEasyDict\n)\x81u"
    attributes = b"}" + fragment("lr") + fragment(0.5) + b"sb"
    found = files.read(archive(tmp_path / "w.pth", b"ceasydict\nEasyDict\n)\x81" + items + attributes))
    assert found == {"lr": 0.5, "size": {}} and type(found) is dict


def test_memo_index_costs_nothing(tmp_path):
    path = archive(tmp_path / "w.pth", b"Nr\xff\xff\xff\xff")
    assert files.read(path) is None


def test_other_files(tmp_path):
    path = tmp_path / "weights.pth"
    assert message(path) == "no such file"
    assert message(tmp_path) == "expected a file of weights, got a folder; give a file in it"
    path.touch()
    assert message(path) == "the file is empty; copy or download it again"
    path.write_text("<!DOCTYPE html><title>Quota exceeded</title>")
    start = "expected weights (PyTorch, pickle or safetensors), got a file that starts with"
    assert message(path) == f"{start} b'<!DOCTYPE html><'; download it again"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    assert message(path) == rf"{start} b'\x89PNG\r\n\x1a\n\x00\x00\x00\x00\x00\x00\x00\x00'; download it again"
    with path.open("wb") as file:
        np.savez(file, weight=np.ones(2))
    assert (
        message(path) == "expected a file of weights, got a zip archive without one; unpack it and give the file inside"
    )
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("storages"))
    assert message(path) == "expected a file of weights, got a tar archive; unpack it and give the file inside"


def test_archives_that_are_not_read(tmp_path):
    path, tensor = tmp_path / "w.pth", rebuild(0, (6,), (1,))
    archive(path, tensor, compression=zipfile.ZIP_DEFLATED)
    assert (
        message(path)
        == "record 'data.pkl' is compressed, as PyTorch never does; load the file and save it again with it"
    )
    archive(path, tensor, [("model/byteorder", "big")])
    assert message(path) == "was written on a big-endian machine; load it with PyTorch and save it again on this one"
    archive(path, storage(key="1"))
    assert message(path) == f"record 'data/1' is missing or damaged; {AGAIN}"
    archive(path, storage(elements=5))
    assert message(path) == f"record 'data/0' has 24 bytes, expected 20; {AGAIN}"
    archive(path, tensor)
    path.write_bytes(path.read_bytes().replace(np.float32(3).tobytes(), np.float32(-3).tobytes()))
    assert message(path) == f"record 'data/0' is missing or damaged; {AGAIN}"


def test_files_cut_short(tmp_path):
    path = tmp_path / "weights.pth"
    whole = (FIXTURES / "zip.pth").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert message(path) == "the archive is damaged or cut short (File is not a zip file); copy or download it again"
    whole = (FIXTURES / "legacy.pth").read_bytes()
    path.write_bytes(whole[:-1])
    assert message(path).startswith("the file ends within storage '")
    path.write_bytes(whole[:1000])
    assert message(path).startswith("the pickle is damaged or cut short near byte ")
    path.write_bytes(pickle.dumps([1.0]) * 2)
    assert message(path) == f"something follows the pickle; {AGAIN}"
    files.write_safetensors(path, {"a": np.ones(4, np.float32)}, {})
    path.write_bytes(path.read_bytes()[:-1])
    assert message(path).startswith("the safetensors file is damaged (")


def test_tensors_pickled_without_pytorch_storages(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02" + storage() + b".")
    assert message(path) == "the pickle refers to objects outside itself; save the file with torch.save"
    path.write_bytes(b"\x80\x02ctorch.storage\n_load_from_bytes\n.")
    assert message(path) == (
        "holds a tensor pickled without torch.save ('torch.storage._load_from_bytes'), which is not read; "
        "save it with torch.save"
    )


FUZZ = """
import pathlib, random, resource, sys
import numpy as np
from uda_jax.errors import UserError
from uda_jax.weights import files

def touch(node):
    if isinstance(node, np.ndarray):
        return len(node.tobytes())
    if isinstance(node, dict):
        return sum(map(touch, node.values()))
    if isinstance(node, (list, tuple, set)):
        return sum(map(touch, node))
    assert node is None or isinstance(node, (bool, int, float, str, bytes, np.generic, np.dtype)), node
    return 0

fixture, broken, count = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
whole = fixture.read_bytes()
touch(files.read(fixture))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read = 0
for seed in range(count):
    draw = random.Random(seed)
    data = bytearray(whole)
    if seed % 3 == 0:
        del data[draw.randrange(len(data)) :]
    else:
        for _ in range(draw.choice((1, 1, 2, 8, 64))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    broken.write_bytes(data)
    try:
        touch(files.read(broken))
        read += 1
    except UserError as error:
        assert chr(10) not in str(error), error
print(read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "python2.pth"])
def test_broken_files_end_in_one_line(tmp_path, name):
    arguments = [str(FIXTURES / name), str(tmp_path / "broken"), "300"]
    done = subprocess.run([sys.executable, "-c", FUZZ, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read, kilobytes = map(int, done.stdout.split())
    assert read < 300 and kilobytes < 200_000


@pytest.fixture
def state_dict():
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(3, 3, 2, 4)).astype(np.float32)
    return {
        "conv1.weight": kernel.transpose(3, 2, 0, 1),
        "bn1.num_batches_tracked": np.zeros((), np.int64),
        "half": kernel[..., 0].astype(np.float16),
        "brain": kernel[::2].astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float32),
        "big_endian": np.arange(3, dtype=">i4"),
    }


def metadata_of(path):
    with safetensors.safe_open(path, framework="np") as file:
        return file.metadata()


def test_safetensors_round_trip(tmp_path, state_dict):
    path, metadata = tmp_path / "new" / "model.weights", {"dialect": "advent", "town": "Zürich"}
    files.write_safetensors(path, state_dict, metadata)
    found = files.read(path)
    assert sorted(found) == sorted(state_dict)
    for name, array in state_dict.items():
        assert found[name].dtype == array.dtype.newbyteorder("=") and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert metadata_of(path) == metadata
    # The format from its specification: length of the header, header, data.
    length, data = struct.unpack("<Q", path.read_bytes()[:8])[0], path.read_bytes()
    assert data[8:9] == b"{" and len(data) == 8 + length + sum(array.nbytes for array in state_dict.values())


def test_safetensors_of_anothers_hand(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}'
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + np.float32([1.5, -2]).tobytes())
    np.testing.assert_array_equal(files.read(tmp_path / "a")["a"], np.float32([[1.5], [-2]]))


def test_written_files_have_the_usual_permissions(tmp_path, state_dict):
    files.write_safetensors(tmp_path / "model", state_dict, {})
    (tmp_path / "other").touch()
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_failed_writing_leaves_what_was_there(tmp_path, state_dict):
    path = tmp_path / "model.safetensors"
    files.write_safetensors(path, {"a": np.ones(3, np.float32)}, {"run": "1"})
    with pytest.raises(UserError) as caught:
        files.write_safetensors(path, state_dict | {"wide": np.ones(2, np.complex128)}, {})
    assert str(caught.value) == f"{path}: 'wide': safetensors files cannot hold complex128; convert it to float32"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError) as caught:
            files.write_safetensors(path, {"large": np.zeros(100_000, np.float32)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    text = str(caught.value)
    assert text.startswith(f"{path}: cannot be written: the file is larger than the file system or 'ulimit -f' allows")
    assert os.listdir(tmp_path) == [path.name]
    assert metadata_of(path) == {"run": "1"}
    with pytest.raises(UserError, match="cannot be written"):
        files.write_safetensors(path / "below", state_dict, {})


@pytest.mark.parametrize(
    "dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F4", "F6_E2M3", "I4", "X\x1b[2J", ""]
)
def test_other_dtypes_are_named(dtype, tmp_path):
    header = json.dumps({"__metadata__": {"a": "b"}, "odd": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4]}})
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    with pytest.raises(UserError) as caught:
        files.read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: 'odd' has the dtype '{dtype[:1]}") and text.endswith("; save it as float32")
    assert text.isprintable() and files.metadata(path) == {"a": "b"}


def test_metadata_of_anything_is_texts(tmp_path, state_dict):
    path = tmp_path / "x.safetensors"
    files.write_safetensors(path, state_dict, {"dialect": "advent"})
    assert files.metadata(path) == {"dialect": "advent"}
    for header in (b'{"__metadata__": 3}', b'{"__metadata__": {"a": 1}}', b"{", b"{" * 5000, b"{]"):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        assert files.metadata(path) == {}
    path.write_bytes(b"no such format at all")
    assert files.metadata(path) == {}


def test_pipes_and_limits_are_named(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(UserError, match="expected a file of weights, got a pipe or device"):
        files.read(tmp_path / "pipe.pth")
    (tmp_path / "x.pth").write_bytes(b"x")

    def refused(*arguments, **options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x.pth")

    monkeypatch.setattr(mmap, "mmap", refused)
    with pytest.raises(UserError, match=r"x\.pth: cannot be read: too many open files; raise the limit"):
        files.read(tmp_path / "x.pth")
