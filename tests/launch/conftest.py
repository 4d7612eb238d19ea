"""Stand-ins for the commands of clusters, which record how they are called."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The answers that the stand-in for gcloud takes one after another: states of the queue, ends of the run.
GCLOUD = """\
case "$*" in
  *queued-resources\\ describe*)
    state=$(head -n 1 "$STUBS/states")
    test "$(wc -l < "$STUBS/states")" = 1 || sed -i 1d "$STUBS/states"
    case $state in
      ABSENT) echo "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: not found" >&2; exit 1 ;;
      DENIED) echo "ERROR: PERMISSION_DENIED" >&2; exit 1 ;;
      *) echo "$state" ;;
    esac ;;
  *queued-resources\\ create*)
    printf '%s\\n' WAITING_FOR_RESOURCES ACTIVE > "$STUBS/states"
    mkdir -p "$STUBS"/host{0,1}/.local/bin && cp "$STUBS/uv" "$STUBS/host0/.local/bin" && \
      cp "$STUBS/uv" "$STUBS/host1/.local/bin"
    test ! -e "$STUBS/refuses" || echo FAILED > "$STUBS/states" ;;
  *queued-resources\\ delete*) echo ABSENT > "$STUBS/states"; rm -rf "$STUBS"/host? ;;
  *tpu-vm\\ scp*) for host in "$STUBS"/host?; do cp "$5" "$host/uda_jax.tar.gz"; done ;;
  *tpu-vm\\ ssh*)
    for word; do case $word in --worker=*) worker=${word#*=} ;; --command=*) command=${word#*=} ;; esac; done
    grep -q ACTIVE "$STUBS/states" || exit 255
    if [ "$worker" = all ]; then hosts=$(echo "$STUBS"/host?); else hosts=$STUBS/host$worker; fi
    for host in $hosts; do (cd "$host" && bash -c "$command") || exit; done ;;
  *storage\\ rsync*) echo "$4" > data/copied ;;
  *) exit 64 ;;
esac
"""
# On the hosts: uv installs a uda that ends as $STUBS/ends says next.
UV = """\
case "$*" in *pip\\ install*) mkdir -p venv/bin && cp "$STUBS/uda" venv/bin/uda; test ! -e "$STUBS/no_uv" ;; esac
"""
UDA = """\
echo "trains on ${PWD##*/} with $JAX_PLATFORMS: $*"
case $PWD in *host0) end=$(head -n 1 "$STUBS/ends"); sed -i 1d "$STUBS/ends" ;; *) exit 0 ;; esac
case $end in
  [0-9]*) exit "$end" ;;
  *) echo "$end" > "$STUBS/states"; exit 143 ;;
esac
"""
GIT = """\
for word; do case $word in --output=*) tar -czf "${word#*=}" -C "$2" pyproject.toml constraints-newest.txt ;; esac; done
"""


class Stubs:
    """A folder of stand-ins that come first on PATH."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        for name, body in (("gcloud", GCLOUD), ("git", GIT), ("scontrol", ""), ("rsync", "")):
            self.add(f"bin/{name}", body)
        self.add("uv", UV, record=False)
        self.add("uda", UDA, record=False)

    def add(self, name: str, body: str, *, record: bool = True) -> None:
        """Writes a stand-in by the body of its script; calls of those that are recorded are in `calls`."""
        path = self.folder / name
        kept = f"printf '%s\\037' {path.name} \"$@\" $'\\036' >> \"$STUBS/calls\"\n" if record else ""
        path.write_text(f"#!/usr/bin/env bash\n{kept}{body}")
        path.chmod(0o755)

    def says(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def run(self, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess:
        """Runs a script of launch/ with the stand-ins, and nothing of this session's cluster, in its environment."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JAX_", "XLA_"))}
        path = os.pathsep.join((str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
        environment = {**kept, "PATH": path, "STUBS": str(self.folder), "TMPDIR": str(self.folder), **variables}
        command = ["bash", str(ROOT / "launch" / script), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder, timeout=120)

    @property
    def calls(self) -> list[list[str]]:
        """The recorded calls, each as its words."""
        return [call.split("\x1f")[:-1] for call in self.calls_file.read_text().split("\x1e\x1f")[:-1]]


@pytest.fixture
def stubs(tmp_path) -> Stubs:
    return Stubs(tmp_path / "stubs")
