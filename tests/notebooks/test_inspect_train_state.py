"""The notebook on train states: as it is committed, and executed by a kernel of its own on runs of seconds."""

import ast
import dataclasses
import functools
import importlib
import os
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

import uda_jax
from uda_jax.cli import main

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "inspect_train_state.ipynb"
# Lines of one cell, so that a reader sees at a glance what it does.
LONGEST = 12

WITH_TEACHER = '''\
"""The tiny experiment with a method that keeps a teacher."""

import dataclasses

from uda_jax import config
from uda_jax.methods.base import Segmenter
from uda_jax.methods.dacs import Dacs


def get_config(setting=""):
    tiny = config.experiment(config.load({tiny!r}))
    segmenter = Segmenter(name="deeplab_v2_resnet14", width=4, input_norm="imagenet_rgb")
    return config.with_method(tiny, "dacs", Dacs(segmenter=segmenter))
'''


@dataclasses.dataclass
class Execution:
    """What a kernel made of the notebook.

    Attributes:
      without_run: the error of its first cell where the run does not exist: its name, its value and its lines.
      outputs: of every code cell, all text that it printed or showed, and the kinds of what it showed.
      exit_status: of the kernel, which was asked to end.
    """

    without_run: list[tuple[str, str, list[str]]]
    outputs: list[tuple[str, set[str]]]
    exit_status: int

    def text(self, word):
        """Returns the output of the only cell that says a word."""
        (found,) = [text for text, _ in self.outputs if word in text]
        return found


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def execute(run, tmp_path, **variables):
    """Executes all cells by a clean kernel, which starts in the notebook's folder as Jupyter's do."""
    # What the tests import; the kernel's folder is another.
    packages = os.pathsep.join([str(Path(uda_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": packages, "IPYTHONDIR": str(tmp_path / "ipython"), **variables}
    notebook, manager = read(), KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=NOTEBOOK.parent, env={**environment, "UDA_JAX_WORKDIR": str(tmp_path / "nowhere")})
    try:
        client = NotebookClient(notebook, km=manager, timeout=300, allow_errors=True)
        with client.setup_kernel():
            index, first = code_cells(notebook)[0]
            client.execute_cell(first, index)
            without_run = [(o.ename, o.evalue, o.traceback) for o in first.outputs if o.output_type == "error"]
            setting = nbformat.v4.new_code_cell(f"import os; os.environ['UDA_JAX_WORKDIR'] = {str(run)!r}")
            notebook.cells.insert(0, setting)
            client.allow_errors = False
            for index, cell in code_cells(notebook):
                client.execute_cell(cell, index)
            process = manager.provisioner.process
            client.kc.shutdown()
            status = process.wait(timeout=120)
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
    return Execution(without_run, [shown(cell) for _, cell in code_cells(notebook)[1:]], status)


def shown(cell):
    data = [output.get("data", {}) for output in cell.outputs]
    texts = [output.get("text", "") for output in cell.outputs] + [each.get("text/plain", "") for each in data]
    return "\n".join(texts), {kind for each in data for kind in each}


def test_the_notebook_is_committed_without_outputs():
    notebook = read()
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for _, cell in code_cells(notebook))
    assert NOTEBOOK.stat().st_size < 20_000
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}  # nothing of the machine that wrote it


def test_cells_are_short_and_leave_the_work_to_the_library():
    notebook = read()
    cells = notebook.cells
    for index, cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= LONGEST, cell.source
        assert index and "markdown" in (cells[index - 1].cell_type, cells[index - 2].cell_type), cell.source
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes), cell.source
        # Only what the library says is public, and nothing that is not installed with it.
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        known = {"os", "pathlib", "PIL", "clu", "jax", "treescope", "uda_jax"}
        assert {name.split(".")[0] for name in names} <= known, cell.source


def test_every_function_of_the_page_is_there():
    named = re.findall(r"`((?:runs|inference|report)\.[\w.]+)", (NOTEBOOK.parents[1] / "docs/notebook.md").read_text())
    assert len(named) > 10
    for name in named:
        room, module, *attributes = name.split(".")
        functools.reduce(getattr, attributes, importlib.import_module(f"uda_jax.{room}.{module}"))


@pytest.fixture(scope="module")
def with_teacher(tiny_config, tmp_path_factory):
    config = tmp_path_factory.mktemp("teacher") / "teacher.py"
    config.write_text(WITH_TEACHER.format(tiny=tiny_config))
    return str(config)


def train(config, workdir):
    assert main(["train", "--config", config, "--workdir", str(workdir)]) == 0
    return workdir


def check(execution):
    """Checks what the notebook shows of any run."""
    ((name, value, lines),) = execution.without_run
    assert name == "UserError" and "nowhere: no such run; run 'make demo' first, or set UDA_JAX_WORKDIR" in value
    assert lines == [f"UserError: {value}"]
    assert execution.exit_status == 0
    assert "stage train, step 6; kept steps and scores {4: " in execution.text("kept steps")
    read, stored = (int(word.replace(",", "")) for word in execution.text("arrays read").split() if word[0].isdigit())
    assert 0 < read < stored / 2
    assert "encoder/conv1/kernel" in execution.text("| Name ")
    assert "TrainState(" in execution.text("TrainState(")
    assert " of its norm from step 4 to 6" in execution.text("moved by")
    assert "shown: layer4" in execution.text("shown:")
    assert sum("image/png" in kinds for _, kinds in execution.outputs) == 2
    assert sum("text/html" in kinds for _, kinds in execution.outputs) == 4


def test_a_run_without_a_teacher(tiny_config, tmp_path):
    execution = execute(train(tiny_config, tmp_path / "run"), tmp_path)
    check(execution)
    assert "this method keeps no teacher" in execution.text("no teacher")
    norms = execution.text("player segmenter")
    assert "player segmenter: momentum" in norms and "player discriminator: mu " in norms


def test_a_run_with_a_teacher_on_two_devices(with_teacher, tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    execution = execute(train(with_teacher, tmp_path / "run"), tmp_path, XLA_FLAGS=flags)
    check(execution)
    assert "% of the student's norm" in execution.text("teacher: ")
