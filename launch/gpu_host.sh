#!/usr/bin/env bash
# One machine with NVIDIA GPUs, one process that drives all of them:
#
#   launch/gpu_host.sh --config advent:gta5_cityscapes --workdir runs/advent
#   launch/gpu_host.sh --dry-run --config ...        # prints the command and its environment, runs nothing
#   GPUS=0,1 MEMORY=.8 launch/gpu_host.sh ...        # every setting below can be given so
#
# Every word goes to `uda train`. Needs `pip install '.[cuda]'` (driver 580 or newer, Turing or newer) or '.[cuda12]'
# (driver 525 or newer), and a batch size that the number of GPUs divides. Ctrl-C or SIGTERM saves; the same command
# goes on. The script costs nothing by itself; a rented machine is billed until you stop it, also when the run is over.
set -euo pipefail

# ---- settings
GPUS=${GPUS:-}                        # numbers as nvidia-smi shows them, such as 0,1; empty = all
MEMORY=${MEMORY:-.9}                  # share of each GPU's memory taken at the start (JAX: .75)
PREALLOCATE=${PREALLOCATE:-true}      # false: memory is taken as needed, for a GPU shared with others; it fragments
AUTOTUNE=${AUTOTUNE:-4}               # 0 to 4: how thoroughly XLA tries convolution algorithms; 0 compiles fastest
REPRODUCIBLE=${REPRODUCIBLE:-false}   # true: only deterministic kernels, slower; the same command gives the same bits
UDA=${UDA:-uda}                       # or .venv/bin/uda
# Precision is a field of the run and not of the machine: --config.train.precision=bf16, for half the activations' memory
# and the tensor cores; weights, statistics and losses stay float32. docs/running.md has what float32 means on a GPU.
# ----

# The library sets no flag of XLA. XLA ends a process that names one it does not know: these are known to jaxlib 0.10 to
# 0.12. The scheduler lets the sum of the gradients over GPUs go on beside computation.
flags="--xla_gpu_autotune_level=$AUTOTUNE --xla_gpu_enable_latency_hiding_scheduler=true"
if [[ $REPRODUCIBLE == true ]]; then
  flags+=" --xla_gpu_deterministic_ops=true"
fi

# Without a GPU that works, JAX would train on the CPU and only warn.
environment=(
  "JAX_PLATFORMS=cuda,cpu"
  XLA_CLIENT_MEM_FRACTION="$MEMORY"
  XLA_PYTHON_CLIENT_PREALLOCATE="$PREALLOCATE"
  XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }$flags"
)
if [[ -n $GPUS ]]; then
  environment+=(CUDA_VISIBLE_DEVICES="$GPUS")
fi

dry_run=
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
if (($# == 0)); then
  echo "launch/gpu_host.sh: expected the words of 'uda train', such as --config advent:streets --workdir runs/advent" >&2
  exit 2
fi
# JAX refuses MEM_FRACTION under its former name beside it.
command=(env --unset=XLA_PYTHON_CLIENT_MEM_FRACTION "${environment[@]}" "$UDA" train "$@")
if [[ -n $dry_run ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
