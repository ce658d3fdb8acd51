#!/usr/bin/env bash
# A run on a Cloud TPU slice: asks for the slice (a queued resource), installs memjax on every worker, starts
# the run there, and removes the slice. The workdir is best a gs:// bucket mounted at /mnt (gcsfuse): the
# slice, and its disks, may be taken away at any time. Starting again continues the run.
#
#   PROJECT=my-project ZONE=us-central2-b experiments/launch/tpu.sh create
#   PROJECT=my-project ZONE=us-central2-b experiments/launch/tpu.sh setup  # with SOURCE=
#   PROJECT=my-project ZONE=us-central2-b experiments/launch/tpu.sh run --config.num_seeds=8
#   PROJECT=my-project ZONE=us-central2-b experiments/launch/tpu.sh delete
#   DRY_RUN=1 experiments/launch/tpu.sh create   # prints the command
#
# Only the dry run was tried, on no TPU. Environments in JAX alone: envpool needs the host's cores.
# A slice of one host (such as v4-8): runs over several hosts have not been tried.
set -euo pipefail

PROJECT=${PROJECT:-my-project}
ZONE=${ZONE:-us-central2-b}
NAME=${NAME:-memjax}
TYPE=${TYPE:-v4-8}
RUNTIME=${RUNTIME:-tpu-ubuntu2204-base}
SPOT=${SPOT:-1}              # 1: cheap, and may be taken away
SOURCE=${SOURCE:-}           # the git repository that every worker clones
PYTHON=${PYTHON:-python3.11} # 3.11 or later, on the workers
REVISION=${REVISION:-main}
CONFIG=${CONFIG:-four_rooms}
WORKDIR=${WORKDIR:-runs/four_rooms}

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

setup() {
  local source revision
  if [[ -z "$SOURCE" ]]; then
    echo "tpu.sh: SOURCE: expected the URL of a git repository of memjax, got nothing" >&2
    exit 2
  fi
  source=$(printf '%q' "$SOURCE")
  revision=$(printf '%q' "$REVISION")
  on_all_workers "test -d memjax || git clone $source memjax; cd memjax && git fetch && git checkout $revision &&
    $PYTHON -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu]'"
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

case "${1:-}" in
  create | setup | run)
    "$@"
    ;;
  status)
    tpu queued-resources describe "$NAME"
    ;;
  delete)
    tpu queued-resources delete "$NAME" --force
    ;;
  *)
    echo "usage: tpu.sh create | status | setup | run [--config.FIELD=VALUE ...] | delete" >&2
    exit 2
    ;;
esac
