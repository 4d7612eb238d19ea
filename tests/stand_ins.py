"""A stand-in for trainings, for tests of what starts them."""

import json
import sys

from result_rows import row

# Writes what it was called with as a result, or fails where the batch has one image.
TRAIN = """
import json, os, pathlib, sys
words = sys.argv[sys.argv.index("train"):]
reference, folder, own = words[2], pathlib.Path(words[4]), words[5:]
if "--config.train.batch_size=1" in own:
    sys.exit("uda: error: one image")
(folder / "train").mkdir(parents=True)
if "--config.seed=7" not in own:
    row = json.loads(os.environ["SWEEP_ROW"]) | {"config": reference, "overrides": own, "seed": int(own[-1][-1])}
    (folder / "result.json").write_text(json.dumps([row | {"hardware": os.environ.get("CUDA_VISIBLE_DEVICES", "")}]))
    (folder / "train" / "finished.json").write_text("{}")
"""


def replace_training(folder, monkeypatch, code=TRAIN, variable="SWEEP_ROW"):
    """Puts a stand-in in the place of Python, which runs `uda train`, and the JAX platform where no GPU is asked."""
    script = folder / "python"
    script.write_text(f"#!{sys.executable}\n{code}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setenv(variable, json.dumps(row("advent", 0.5)))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
