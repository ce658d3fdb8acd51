#!/usr/bin/env bash
# A run on whatever machines SkyPilot finds (pip install skypilot): a managed job, which is started again elsewhere
# when its machines are taken away, and continues from its newest checkpoint in the bucket.
#
#   BUCKET=my-bucket CONFIG=four_rooms:ppo RUN=ppo experiments/launch/sky.sh --config.seed=1
#   NODES=4 ACCELERATORS=H100:8 BUCKET=my-bucket experiments/launch/sky.sh   # one run on four machines
#   DRY_RUN=1 experiments/launch/sky.sh          # prints the command
#
# Only the dry run was tried.
set -euo pipefail

CONFIG=${CONFIG:-four_rooms}
RUN=${RUN:-four_rooms}       # the folder of the run in the bucket
BUCKET=${BUCKET:-my-bucket}
NODES=${NODES:-1}
ACCELERATORS=${ACCELERATORS:-L4:1}
EXTRA=${EXTRA:-gpu}          # of memjax: gpu or tpu
NAME=${NAME:-memjax}

words=()
for word in "$@"; do
  case $word in
    --workdir | --workdir=* | --config | --config=*)
      echo "sky.sh: ${word%%=*}: CONFIG names the config, and RUN the folder in the bucket" >&2
      exit 2
      ;;
  esac
  words+=("$(printf '%q' "$word")")
done
command=(sky jobs launch --yes "--name=$NAME" "--num-nodes=$NODES" "--gpus=$ACCELERATORS")
for each in "CONFIG=$CONFIG" "RUN=$RUN" "BUCKET=$BUCKET" "EXTRA=$EXTRA" "WORDS=${words[*]}"; do
  command+=(--env "$each")
done
command+=("$(dirname "$0")/sky.yaml")
if [[ -n "${DRY_RUN:-}" ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
exec "${command[@]}"
