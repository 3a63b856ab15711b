#!/usr/bin/env bash
# One member of a fleet inside a SLURM job: join.sh TIER. member.sbatch calls it.
#   STEPSERVE_HOME           the checkout with its .venv, on a file system that the nodes share
#   STEPSERVE_CONTROL        the URL of the server that the members join
#   INFERENCE_FLEET__API_KEY a key of that server with the scope fleet
#   STEPSERVE_BASE_DIR       below it each job array task has its own base directory; a requeued task finds it again
set -euo pipefail
tier=${1:?usage: join.sh TIER}
home=${STEPSERVE_HOME:?set it to the checkout, on a shared file system}
control=${STEPSERVE_CONTROL:?set it to the URL of the server that the members join}
: "${INFERENCE_FLEET__API_KEY:?set it: a key of the scope fleet (stepserve keys create slurm --scope fleet)}"

# A task has one name for life: requeued, it takes its own place in the fleet, with what it fetched before.
task=${SLURM_ARRAY_TASK_ID:-0}
name=$tier-$task
export INFERENCE_PORT=${INFERENCE_PORT:-$((20000 + ${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-0}} % 20000 + task))}
export INFERENCE_BASE_DIR=${STEPSERVE_BASE_DIR:-$HOME/stepserve}/$name
# SLURM kills what is left of a preempted job after its KillWait, which is 30 seconds unless somebody has set it.
export INFERENCE_DRAIN_TIMEOUT_S=${INFERENCE_DRAIN_TIMEOUT_S:-20}
exec "$home/.venv/bin/stepserve" join "$control" --host 0.0.0.0 --id "$name" --zone "${SLURM_CLUSTER_NAME:-slurm}" \
    --advertise "http://$(hostname -f):$INFERENCE_PORT" --label "tier=$tier" --label "slurm_job=${SLURM_JOB_ID:-0}"
