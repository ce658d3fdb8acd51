#!/usr/bin/env bash
# One run per array task on a Slurm cluster, task number = seed; with several nodes to a task, one run on all of
# them, which find each other by what Slurm tells them. Two minutes before the time limit Slurm sends
# SIGTERM to this script, which hands it on, and on preemption to the run itself: the run saves and ends with
# code 143, and the job is queued again.
#
#   mkdir -p logs
#   CONFIG=atari:Pong WORKDIR=runs/pong sbatch experiments/launch/slurm.sh
#   CONFIG=four_rooms:ppo sbatch --nodes=4 --array=0 experiments/launch/slurm.sh   # one run on four nodes
#   DRY_RUN=1 experiments/launch/slurm.sh        # prints the commands
#
# Only the dry run was tried: partition, account, modules and the grace period differ between clusters. One
# iteration must fit into the grace period, or what it did is done again.
#SBATCH --job-name=memjax
#SBATCH --array=0-4
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gres=gpu:1
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output=logs/%x-%A_%a.out
set -euo pipefail

CONFIG=${CONFIG:-four_rooms}
WORKDIR=${WORKDIR:-runs/four_rooms}
MEMJAX=${MEMJAX:-.venv/bin/memjax}
SEED=${SLURM_ARRAY_TASK_ID:-0}
JOB=${SLURM_ARRAY_JOB_ID:-JOB}_${SEED}

for word in "$@"; do
  case $word in
    --workdir | --workdir=* | --config.seed | --config.seed=*)
      echo "slurm.sh: ${word%%=*}: the number of the task is the seed, and WORKDIR names the folder" >&2
      exit 2
      ;;
    --config=*) CONFIG= ;;  # in place of the variable
  esac
done
launcher=(srun)
[[ "${SLURM_NNODES:-1}" == 1 ]] || launcher+=(--kill-on-bad-exit=1)
command=("${launcher[@]}" "$MEMJAX" train ${CONFIG:+"--config=$CONFIG"} "--workdir=$WORKDIR/seed_$SEED" "--config.seed=$SEED" "$@")
if [[ -n "${DRY_RUN:-}" ]]; then
  printf '%q ' "${command[@]}"
  echo
  echo "scontrol requeue $JOB  # if that ends with code 143"
  exit 0
fi

"${command[@]}" &
child=$!
# Two minutes before the end; srun hands it on to the run.
trap 'kill -TERM "$child" 2>/dev/null || true' TERM
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do
  code=0
  wait "$child" || code=$?
done
if [[ $code -eq 143 ]]; then
  echo "slurm.sh: saved; queued again"
  scontrol requeue "$JOB"
fi
exit "$code"
