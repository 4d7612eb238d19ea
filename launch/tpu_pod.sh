#!/usr/bin/env bash
# A run on a Cloud TPU slice of one or many hosts, by a queued resource:
#
#   launch/tpu_pod.sh run --config advent:gta5_cityscapes --workdir gs://my-bucket/runs/advent
#
#   create    asks for the slice and waits for it; one that is there is used again
#   install   copies the commit that is checked out to every host and installs it there
#   data      copies the prepared data to every host's disk
#   start     starts `uda train` with the words that follow, on every host; one that runs already is left alone
#   follow    shows the first host's log until the run ends; Ctrl-C ends the showing and not the run
#   delete    ends the run and gives the slice back
#   run       all of these; after a preemption from the start again, where the run goes on from its last checkpoint
#
#   launch/tpu_pod.sh --dry-run run ...     # prints the commands, runs none
#
# Needs: gcloud, logged in to a project with the TPU API and quota in the zone; git; a bucket in the zone's region that
# the TPU's service account may write; the workdir in it, or in a folder that all hosts mount; an SSH key without a
# passphrase, or in an agent. The hosts get uv and Python 3.12 from the internet: JAX needs 3.11 at least.
# Costs: every chip from the moment that the slice is ACTIVE until it is deleted or preempted, also while nothing runs
# and when the run is over or has failed; the bucket's storage until it is emptied. `run` deletes the slice at its end
# unless KEEP=true, but not if it is interrupted itself: then call delete.
# Written to the documentation of gcloud and run against a stand-in of it, not yet on a TPU.
set -euo pipefail

# ---- settings, each can be given as NAME=value before the command
NAME=${NAME:-uda}                          # of the queued resource and of the slice
ZONE=${ZONE:-europe-west4-b}
ACCELERATOR=${ACCELERATOR:-v5litepod-16}   # 16 chips, 4 hosts; the number of chips has to divide the batch size
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}    # goes with the accelerator: v2-alpha-tpuv6e, tpu-ubuntu2204-base ...
TIER=${TIER---spot}                        # cheap and preemptible; empty = on demand, or --reserved
DATA=${DATA:-}                             # gs://bucket/folder of prepared data, copied to ~/data; empty = none
EXTRAS=${EXTRAS:-tpu,gs}                   # of uda_jax; gs is for a workdir in a bucket
KEEP=${KEEP:-false}                        # true: run does not delete the slice at its end
POLL=${POLL:-60}                           # seconds between two looks at the queue
# ----

STOPPED=75 # what uda train exits with when SIGTERM stopped it before its end
TPUS=(gcloud compute tpus)

call() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# on WORKER COMMAND: runs it by the shell of one host or of all.
on() { call "${TPUS[@]}" tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"; }

say() { echo "tpu_pod: $*" >&2; }

# Prints the queued resource's state, ABSENT if there is none; fails if that cannot be known after five looks.
state() {
  local answer try
  for try in 1 2 3 4 5; do
    if answer=$("${TPUS[@]}" queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)' 2>&1); then
      echo "${answer##*$'\n'}"
      return
    elif [[ $answer == *NOT_FOUND* ]]; then
      echo ABSENT
      return
    fi
    say "look $try at the queue: $answer"
    sleep "$POLL"
  done
  return 1
}

delete() { call "${TPUS[@]}" queued-resources delete "$NAME" --zone="$ZONE" --force --quiet; }

request() {
  local words=(--node-id="$NAME" --zone="$ZONE" --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME")
  call "${TPUS[@]}" queued-resources create "$NAME" "${words[@]}" ${TIER:+"$TIER"}
}

create() {
  local now requested=
  if [[ -n $dry_run ]]; then
    request
    return
  fi
  while now=$(state); do
    case $now in
      ACTIVE) return ;;
      ABSENT)
        request || return 1
        requested=1
        ;;
      FAILED)
        if [[ -n $requested ]]; then
          say "the request failed: gcloud compute tpus queued-resources describe $NAME --zone=$ZONE says why"
          return 1
        fi
        delete || return 1
        ;;
      SUSPENDED) delete || return 1 ;;
      *)
        say "$now, looking again in $POLL s"
        sleep "$POLL"
        ;;
    esac
  done
  return 1
}

install() {
  local root archive
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  archive=${TMPDIR:-/tmp}/uda_jax-$NAME.tar.gz
  call git -C "$root" archive --format=tar.gz --output="$archive" HEAD &&
    call "${TPUS[@]}" tpu-vm scp "$archive" "$NAME:uda_jax.tar.gz" --zone="$ZONE" --worker=all &&
    on all "set -e
mkdir -p uda_jax && tar -xzf uda_jax.tar.gz -C uda_jax
test -x .local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh
test -x venv/bin/python || .local/bin/uv venv --quiet --python 3.12 venv
.local/bin/uv pip install --quiet --python venv/bin/python --constraint uda_jax/constraints-newest.txt './uda_jax[$EXTRAS]'"
}

data() {
  if [[ -n $DATA ]]; then
    on all "mkdir -p data && gcloud storage rsync --recursive $(printf %q "$DATA") data"
  fi
}

# JAX finds the hosts by --coordinator auto; without a TPU that works it would train on the CPU and only warn.
# A host may still be writing its part of the last checkpoint when the first one has ended.
start() {
  local train
  if [[ $(outcome) == running ]]; then
    say "it runs already"
    return
  fi
  train=$(printf '%q ' JAX_PLATFORMS=tpu,cpu venv/bin/uda train "$@" --coordinator auto --stopped-status "$STOPPED")
  on all "if test -f uda.pid; then
timeout 330 tail --pid=\$(cat uda.pid) -f /dev/null || kill -9 -- -\$(cat uda.pid)
fi
rm -f uda.status
setsid nohup bash -c $(printf %q "env $train >> uda.log 2>&1; echo \$? > uda.status") > /dev/null 2>&1 < /dev/null &
echo \$! > uda.pid"
}

# shellcheck disable=SC2016 # The host's shell expands these.
SHOW='tail --pid="$(cat uda.pid)" -n 20 -F uda.log' OUTCOME='cat uda.status 2>/dev/null ||
{ kill -0 "$(cat uda.pid 2>/dev/null)" 2>/dev/null && echo running; } || echo none'

follow() { on 0 "$SHOW"; }

# Prints how the run on the first host ended; running; none if there was none; nothing if the host is not reached.
outcome() {
  if [[ -z $dry_run ]]; then
    on 0 "$OUTCOME" || true
  fi
}

finish() {
  if [[ $KEEP == true ]]; then
    say "the slice is kept, and billed until: NAME=$NAME ZONE=$ZONE launch/tpu_pod.sh delete"
  else
    delete
  fi
}

# Brings a run onto the slice, unless one is there, and shows it until it ends; fails if it could not be started.
attend() {
  if [[ $(outcome) != running ]]; then
    { install && data && start "$@"; } || return 1
  fi
  follow || true
  while [[ $(outcome) == running ]]; do
    say "the connection was lost; following again in $POLL s"
    sleep "$POLL"
    follow || true
  done
}

run() {
  local now ended failures=0
  while true; do
    create
    ended=
    if attend "$@"; then
      ended=$(outcome)
    fi
    if [[ -n $dry_run ]]; then
      finish
      return
    fi
    now=$(state)
    case $now:$ended in
      ACTIVE:0)
        say "the run is finished"
        finish
        return
        ;;
      ACTIVE:"$STOPPED") say "the run was stopped by SIGTERM; it goes on" ;;
      ACTIVE: | ACTIVE:none | ACTIVE:running)
        failures=$((failures + 1))
        if ((failures == 5)); then
          say "giving up after $failures failures of commands on an ACTIVE slice"
          finish
          return 1
        fi
        say "the slice is ACTIVE but a command on it failed; trying again in $POLL s"
        sleep "$POLL"
        ;;
      ACTIVE:*)
        say "the run failed (status $ended); the end of each host's log:"
        on all 'tail -n 30 uda.log' || true
        finish
        return 1
        ;;
      ABSENT:* | DELETING:*)
        say "the slice was deleted; nothing goes on"
        return 1
        ;;
      *) say "the slice is $now: preempted; asking for another one" ;;
    esac
  done
}

dry_run=
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
action=${1:-}
shift || true
case $action in
  create | install | data | follow | delete) "$action" ;;
  start | run)
    if (($# == 0)); then
      echo "launch/tpu_pod.sh $action: expected the words of 'uda train', such as --config ... --workdir gs://..." >&2
      exit 2
    fi
    "$action" "$@"
    ;;
  *)
    echo "launch/tpu_pod.sh: expected run, create, install, data, start, follow or delete, got '$action'" >&2
    exit 2
    ;;
esac
