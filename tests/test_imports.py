"""Who may import whom, read from the import statements themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import uda_jax

PACKAGE = Path(uda_jax.__file__).parent

# Room -> rooms of the package that its files must not import, and outside packages they must not either.
FORBIDDEN = {
    "ops": {"data", "training", "methods", "losses", "networks", "weights", "stages", "train", "evaluate", "report"},
    "losses": {"data", "training", "methods", "networks", "weights", "stages", "train", "evaluate", "report"},
    "networks": {"data", "training", "methods", "losses", "weights", "stages", "train", "evaluate", "report"},
    "data": {"ops", "losses", "networks", "methods", "training", "weights", "stages", "train", "evaluate", "report"},
    "methods": {"data", "stages", "train", "evaluate", "predict", "report", "cli"},
    "weights": {"data", "methods", "training", "stages", "train", "evaluate", "report"},
    "training": {"methods", "stages", "train", "evaluate", "predict", "report", "cli", "data"},
    "report": {"methods", "networks", "losses", "ops", "stages", "train", "evaluate"},
    "stages": {"train", "evaluate", "predict", "cli"},
    "evaluate": {"train", "stages", "methods", "cli"},
}
OUTSIDE = {"data": {"jax", "flax", "optax", "orbax"}, "report": {"jax", "flax", "optax", "orbax"}}
# Heavy or absent packages that nothing in the library may need.
NOWHERE = {"torch", "tensorflow", "matplotlib", "cv2"}


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Returns the dotted names that a file imports, `from a import b` as `a.b` and `a`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_obey_the_house(path):
    room, names = room_of(path), imported(path)
    rooms = {name.split(".")[1] for name in names if name.startswith("uda_jax.")}
    assert not rooms & FORBIDDEN.get(room, set())
    assert not {name.split(".")[0] for name in names} & (OUTSIDE.get(room, set()) | NOWHERE)


def test_import_is_light():
    code = "import sys, uda_jax; print([m for m in ('jax', 'numpy', 'flax', 'grain') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rooms_are_reached_by_attribute():
    assert uda_jax.methods.names()
    with pytest.raises(AttributeError, match="kitchen"):
        uda_jax.kitchen  # noqa: B018
