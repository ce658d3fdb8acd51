#!/usr/bin/env bash
# A run on Cloud TPU, on one machine or on a slice of several: asks for the machines (a queued resource),
# installs memjax on every one, starts the run on all of them at once, and removes them. `memjax train` finds out by itself
# which machines belong together. Environments in JAX alone: envpool needs the hosts' cores.
#
#   export PROJECT=my-project ZONE=us-central2-b BUCKET=my-bucket SOURCE=https://github.com/me/memjax
#   TYPE=v4-8 experiments/launch/tpu.sh create    # one machine; v4-32 or v5litepod-16: a slice of several
#   experiments/launch/tpu.sh setup
#   experiments/launch/tpu.sh run --config=four_rooms:ppo --config.env.num_envs=4096
#   experiments/launch/tpu.sh delete
#   experiments/launch/tpu.sh keep --config=four_rooms:ppo   # all of these, again after each preemption
#   DRY_RUN=1 experiments/launch/tpu.sh keep     # prints the commands
#
# All machines must see one workdir, and it must outlive them: the run is kept in BUCKET, which the machines' service
# account may read and write. A preempted run continues from its newest checkpoint there.
#
# Only the dry run was tried, on no TPU.
set -euo pipefail

PROJECT=${PROJECT:-my-project}
ZONE=${ZONE:-us-central2-b}
NAME=${NAME:-memjax}
TYPE=${TYPE:-v4-8}
RUNTIME=${RUNTIME:-tpu-ubuntu2204-base}
SPOT=${SPOT:-1}              # 1: cheap, and may be taken away
SOURCE=${SOURCE:-}           # the git repository that every machine clones
PYTHON=${PYTHON:-python3.11} # 3.11 or later, on the machines
REVISION=${REVISION:-main}
CONFIG=${CONFIG:-four_rooms}
BUCKET=${BUCKET:-}           # of Cloud Storage, without gs://; none: the disk of the one machine
WORKDIR=${WORKDIR:-${BUCKET:+gs://$BUCKET/}runs/four_rooms}
MAX_LAUNCHES=${MAX_LAUNCHES:-100}
PAUSE=${PAUSE:-60}           # seconds between two looks at a queued resource

show_or_run() {
  if [[ -n "${DRY_RUN:-}" ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpu() { show_or_run gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE"; }

on_all_workers() { tpu tpu-vm ssh "$NAME" --worker=all "--command=$1"; }

create() {
  local spot=()
  [[ "$SPOT" != 1 ]] || spot=(--spot)
  tpu queued-resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$TYPE" \
    "--runtime-version=$RUNTIME" "${spot[@]}"
}

need_source() {
  if [[ -z "$SOURCE" ]]; then
    echo "tpu.sh: SOURCE: expected the URL of a git repository of memjax, got nothing" >&2
    exit 2
  fi
}

setup() {
  local source revision
  need_source
  source=$(printf '%q' "$SOURCE")
  revision=$(printf '%q' "$REVISION")
  on_all_workers "test -d memjax || git clone $source memjax; cd memjax && git fetch && git checkout $revision && \
$PYTHON -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu,gcs]'"
}

run() {
  local words=() default flag line
  for default in "--config=$CONFIG" "--workdir=$WORKDIR"; do
    flag=${default%%=*}  # left out where the caller gives the same one
    [[ " $* " == *" $flag="* || " $* " == *" $flag "* ]] || words+=("$default")
  done
  line=$(printf '%q ' .venv/bin/memjax train "${words[@]}" "$@")
  on_all_workers "cd memjax && $line"
}

delete() { tpu queued-resources delete "$NAME" --force --quiet; }

# Until the run is done: machines are asked for, set up and used, and removed when they are taken away or fail.
keep() {
  local launch code state
  need_source
  for ((launch = 1; launch <= MAX_LAUNCHES; launch++)); do
    create
    if [[ -z "${DRY_RUN:-}" ]]; then
      until state=$(tpu queued-resources describe "$NAME" "--format=value(state.state)") && [[ "$state" == ACTIVE ]]; do
        case $state in FAILED | SUSPENDED) break ;; esac
        sleep "$PAUSE"
      done
    fi
    code=0
    setup && run "$@" || code=$?
    delete
    case $code in
      0 | 2 | 3) exit "$code" ;;  # done, a mistake, not finite: launching again changes nothing
    esac
    echo "tpu.sh: launch $launch ended with code $code; the next one follows" >&2
  done
  echo "tpu.sh: giving up after $MAX_LAUNCHES launches" >&2
  exit 1
}

case "${1:-}" in
  create | setup | run | delete | keep)
    "$@"
    ;;
  status)
    tpu queued-resources describe "$NAME"
    ;;
  *)
    echo "usage: tpu.sh create | status | setup | run [--config.FIELD=VALUE ...] | delete | keep [...]" >&2
    exit 2
    ;;
esac
