"""Writes the checkpoint files of fixtures/ with PyTorch, and the arrays that they hold as .npz beside them.

python tests/weights/make_fixtures.py            with PyTorch (the files in place: 2.13)
python2.7 tests/weights/fixtures/python2.py      writes fixtures/python2.pth
"""

import argparse
import collections
import pathlib

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent / "fixtures"


def example() -> dict:
    """Returns a container with every kind of tensor and value that a checkpoint of the supported kinds has."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(*size, generator=generator)

    shared = draw(4, 3)
    state_dict = collections.OrderedDict(
        {
            "conv1.weight": torch.nn.Parameter(draw(4, 3, 7, 7)),
            "bn1.running_var": draw(4),
            "bn1.num_batches_tracked": torch.tensor(7),
            "transposed": draw(5, 3, 2).permute(2, 0, 1),
            "stepped": draw(6, 8)[1::2, ::3],
            "shared.all": shared,
            "shared.last_rows": shared[2:],
            "expanded": draw(3, 1).expand(3, 4),
            "one": draw(1, 1, 4)[:, :, :1],
            "scalar": torch.tensor(2.5),
            "empty": torch.empty(0, 3),
        }
    )
    state_dict._metadata = collections.OrderedDict({"": {"version": 1}})
    for dtype in ("float16", "bfloat16", "float64", "int8", "int16", "int32", "uint8", "bool", "complex64", "uint16"):
        state_dict[f"types.{dtype}"] = (3 * draw(2, 3)).abs().to(getattr(torch, dtype))
    state_dict["noted.tensor"], state_dict["noted.parameter"] = draw(2), torch.nn.Parameter(draw(2))
    state_dict["noted.tensor"].note = state_dict["noted.parameter"].note = "an attribute"
    layer = torch.nn.Linear(2, 2)
    layer.load_state_dict({"weight": draw(2, 2), "bias": draw(2)})
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.25)
    layer(draw(3, 2)).sum().backward()
    optimiser.step()
    config = {
        "model": "DeepLab",
        "size": [512, 1024],
        "crop": (321, 0.5, None, True),
        "classes": {1, 2},
        "name": "Zürich",
        "large": 2**70,
        "raw": b"\x00\xff",
        "mean": np.array([104.0, 116.7], np.float32),
        "order": np.arange(6, dtype=">i4").reshape(2, 3).T,
        "best": np.float64(0.5),
        "options": argparse.Namespace(lr=0.5, gpus=[0, 1]),
        "milestones": collections.Counter([10, 20]),
        "meters": collections.defaultdict(list, loss=[1.0]),
        "dtype": torch.bfloat16,
        "device": torch.device("cuda", 1),
        "shape": torch.Size([2, 3]),
        "layout": torch.strided,
    }
    return {
        "iteration": 3,
        "model": state_dict,
        "ema_model": {"weight": draw(2, 2)},
        "optimiser": optimiser.state_dict(),
        "config": config,
    }


def arrays(node, prefix: str = "") -> dict[str, np.ndarray]:
    """Returns the tensors and arrays below a node by their path; bfloat16 by its bits."""
    if isinstance(node, torch.Tensor):
        bits = node.detach().view(torch.int16) if node.dtype == torch.bfloat16 else node.detach()
        return {prefix: bits.numpy()}
    if isinstance(node, np.ndarray):
        return {prefix: node}
    found = {}
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in items:
        found |= arrays(child, f"{prefix}/{name}" if prefix else str(name))
    return found


def main():
    FOLDER.mkdir(exist_ok=True)
    container = example()
    np.savez_compressed(FOLDER / "container.npz", **arrays(container))
    torch.save(container, FOLDER / "zip.pth")
    torch.save(container, FOLDER / "zip_protocol5.pth", pickle_protocol=5)
    torch.save(container, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    torch.save(container["ema_model"], FOLDER / "no_checksums.pth")
    torch.serialization.set_crc32_options(True)
    unread = {
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.quint8),
        "sparse": torch.eye(2).to_sparse(),
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        "module": torch.nn.Linear(1, 1),
    }
    for name, value in unread.items():
        torch.save({"weight": value}, FOLDER / f"{name}.pth")
    torch.jit.script(torch.nn.ReLU()).save(FOLDER / "torchscript.pt")


if __name__ == "__main__":
    main()
