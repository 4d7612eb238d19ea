"""Who may import whom, read from the import statements themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import uda_jax

PACKAGE = Path(uda_jax.__file__).parent

# Part of the package -> what its files may import besides itself. "data.io" is what writes and reads files.
BASE = {"errors", "schema"}
ALLOWED = {
    "errors": set(),
    "schema": {"errors"},
    "ops": BASE,
    "losses": BASE | {"ops"},
    "networks": BASE | {"ops"},
    "data": BASE,
    "training": BASE | {"data.io"},
    "weights": BASE | {"data.io"},
    "methods": BASE | {"losses", "networks", "ops", "training"},
    "report": BASE | {"data", "training"},
    "configs": BASE | {"config", "data", "methods", "networks", "runs", "training"},
    "config": BASE | {"configs", "data", "inference.options", "methods", "training.precision", "training.sharding"},
    "inference": BASE | {"config", "data", "losses", "methods", "ops", "report", "training", "weights"},
    "runs": BASE
    | {"config", "data", "inference", "losses", "methods", "networks", "ops", "report", "training", "weights"},
    "cli": BASE | {"config", "data", "inference", "methods", "networks", "report", "runs", "training", "weights"},
    "__init__": set(),
    "__main__": {"cli"},
}
OUTSIDE = {"data": {"jax", "flax", "optax", "orbax"}, "report": {"jax", "flax", "optax", "orbax"}}
# Heavy or absent packages that nothing in the library may need.
NOWHERE = {"torch", "tensorflow", "matplotlib", "cv2"}
# The modules that may lie beside the subpackages.
TOP_LEVEL = {"__init__", "__main__", "errors", "schema"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Returns the dotted names that a file imports, `from a import b` as `a.b` and `a`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def allowed(name: str, part: str) -> bool:
    """Whether a file of a part may import the dotted name of a module or of something in it."""
    words = name.split(".")[1:]
    if not words or words[0] in ("__version__", part):
        return True
    if words == ["data"] and "data.io" in ALLOWED[part]:
        return True  # `from uda_jax.data import io` and what comes with it; the longer name is looked at, too
    return words[0] in ALLOWED[part] or ".".join(words[:2]) in ALLOWED[part]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_obey_the_house(path):
    part, names = part_of(path), imported(path)
    wrong = {name for name in names if name.split(".")[0] == "uda_jax" and not allowed(name, part)}
    assert not wrong, f"{path.name}: the part '{part}' may not import {sorted(wrong)}"
    assert not {name.split(".")[0] for name in names} & (OUTSIDE.get(part, set()) | NOWHERE)


def test_modules_lie_in_subpackages():
    assert {path.stem for path in PACKAGE.glob("*.py")} <= TOP_LEVEL
    assert all((folder / "__init__.py").exists() for folder in PACKAGE.rglob("*") if any(folder.glob("*.py")))


def test_import_is_light():
    code = "import sys, uda_jax; print([m for m in ('jax', 'numpy', 'flax', 'grain') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_subpackages_are_reached_by_attribute():
    assert uda_jax.methods.names()
    with pytest.raises(AttributeError, match="kitchen"):
        uda_jax.kitchen  # noqa: B018
