"""The notebook on loading a model: as it is committed, and executed by a kernel of its own on a run of seconds."""

import ast
import os
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

import uda_jax
from uda_jax.cli import main

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "load_a_model.ipynb"
LONGEST = 12


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_is_committed_without_outputs():
    notebook = read()
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}  # nothing of the machine that wrote it


def test_cells_are_short_and_import_what_is_installed():
    for cell in code_cells(read()):
        assert len(cell.source.splitlines()) <= LONGEST, cell.source
        nodes = list(ast.walk(ast.parse(cell.source)))
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert {name.split(".")[0] for name in names} <= {"os", "pathlib", "time", "PIL", "numpy", "uda_jax"}


def test_it_runs_on_a_run(tiny_config, tmp_path):
    run = tmp_path / "run"
    assert main(["train", "--config", tiny_config, "--workdir", str(run)]) == 0
    packages = os.pathsep.join([str(Path(uda_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": packages, "IPYTHONDIR": str(tmp_path / "ipython")}
    notebook, manager = read(), KernelManager(kernel_name="python3")
    # A kernel starts in the notebook's folder, as Jupyter's do.
    manager.start_kernel(cwd=NOTEBOOK.parent, env={**environment, "UDA_JAX_WORKDIR": str(run)})
    try:
        NotebookClient(notebook, km=manager, timeout=300).execute()
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    assert "3 classes: ground, wall, thing\npalette (3, 3) uint8" in text
    assert "labels (32, 64) uint8\nconfidence (32, 64) float32\nscores (32, 64, 3) float32\ncolours (32, 64, 3)" in text
    assert "second call of (2, 32, 64): " in text and " of the pixels, confidence 0." in text
    assert [output for output in outputs if "image/png" in output.get("data", {})]
