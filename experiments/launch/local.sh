#!/usr/bin/env bash
# Trains on this machine and launches the run again whenever it ends by a crash or a kill; it goes on from its
# newest checkpoint. Ends when the run is done, when you stop it (Ctrl-C, SIGTERM: the run saves first), on a
# mistake in the config, where a value is no longer finite, or where there is no memjax command.
#
#   CONFIG=atari:Pong WORKDIR=runs/pong experiments/launch/local.sh --config.seed=1
#   experiments/launch/local.sh --config=atari:Pong --workdir=runs/pong     # the same
#   DRY_RUN=1 experiments/launch/local.sh        # prints the command
#
# Tried on one Linux machine, with kill -9 of the run and SIGTERM of this script.
set -euo pipefail

CONFIG=${CONFIG:-four_rooms}
WORKDIR=${WORKDIR:-runs/four_rooms}
MEMJAX=${MEMJAX:-memjax}     # the command, such as .venv/bin/memjax
MAX_LAUNCHES=${MAX_LAUNCHES:-20}
PAUSE=${PAUSE:-5}            # seconds between launches

# Words of the command: a default is left out where the caller gives the same flag.
words=()
for default in "--config=$CONFIG" "--workdir=$WORKDIR"; do
  flag=${default%%=*}
  [[ " $* " == *" $flag="* || " $* " == *" $flag "* ]] || words+=("$default")
done
command=("$MEMJAX" train "${words[@]}" "$@")
if [[ -n "${DRY_RUN:-}" ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi

child=
stopped=
# The run saves on its first signal and ends at once on a second: Ctrl-C reaches it from the terminal by itself.
trap 'stopped=1' INT
trap 'stopped=1; [[ -z "$child" ]] || kill -TERM "$child" 2>/dev/null || true' TERM

for ((launch = 1; launch <= MAX_LAUNCHES; launch++)); do
  "${command[@]}" &
  child=$!
  code=0
  wait "$child" || code=$?
  # A trapped signal ends `wait` early: wait again for the run to have saved.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  case $code in
    0 | 2 | 3) exit "$code" ;;  # done, a mistake, not finite: launching again changes nothing
    126 | 127)                  # the shell has said why: it is no program, or there is none
      echo "local.sh: MEMJAX: expected the memjax command, got '$MEMJAX'" >&2
      exit "$code"
      ;;
  esac
  [[ -z "$stopped" ]] || exit "$code"
  echo "local.sh: launch $launch ended with code $code; the next one in $PAUSE s" >&2
  sleep "$PAUSE"
done
echo "local.sh: giving up after $MAX_LAUNCHES launches" >&2
exit 1
