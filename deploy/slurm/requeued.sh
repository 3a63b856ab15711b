#!/usr/bin/env bash
# A job that is started again: requeued.sh PROGRAM [ARGUMENT...], with a program of this folder. The .sbatch files end in it.
#
# Preempted, SLURM sends SIGTERM and requeues the job. A minute before its time limit it sends SIGUSR1, and the job
# requeues itself. After `scancel` nothing is requeued.
set -euo pipefail
program=$(dirname "$0")/${1:?usage: requeued.sh PROGRAM [ARGUMENT...]}
shift
child=
again=
# shellcheck disable=SC2317,SC2329 # the traps call it
stop() { [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true; }
trap stop TERM
trap 'again=yes; stop' USR1

"$program" "$@" &
child=$!
# A trapped signal ends `wait` before the program has ended, and a later `wait` has its exit code still.
while kill -0 "$child" 2>/dev/null; do
    wait "$child" || true
done
wait "$child" && code=0 || code=$?
[ -z "$again" ] || scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
exit "$code"
