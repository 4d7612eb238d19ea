#!/usr/bin/env bash
# Several processes on this machine, one run:  launch/local.sh 2 --config advent:streets --workdir runs/advent
set -euo pipefail
count=$1
shift
port=${PORT:-12355}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for ((i = 0; i < count; i++)); do
  uda train "$@" --coordinator "localhost:$port" --num-processes "$count" --process-id "$i" &
done
# Each is waited for by itself, so that the failure of any one of them is the script's.
for job in $(jobs -p); do wait "$job"; done
