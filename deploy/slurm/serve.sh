#!/usr/bin/env bash
# One server of a tier inside a SLURM job: serve.sh TIER. The .sbatch files beside this one call it.
#   STEPSERVE_HOME      the checkout with its .venv, on a file system that the nodes share
#   STEPSERVE_HOSTS     the hosts.json in which the server stands while it serves
#   STEPSERVE_BASE_DIR  below it each job array task has its own base directory; a requeued task finds it again
#   MODEL_PATH           the checkpoint to serve
# In a job over several nodes the server is on the first one, and the others compute a share of its model (docs/nodes.md).
set -euo pipefail
tier=${1:?usage: serve.sh TIER}
home=${STEPSERVE_HOME:?set it to the checkout, on a shared file system}
hosts=${STEPSERVE_HOSTS:?set it to the hosts.json of the machine that asks this tier}
: "${INFERENCE_ACCESS__ADMIN_KEY:?set it: the server listens to other machines, so it needs a key}"

task=${SLURM_ARRAY_TASK_ID:-0}
# The same port for the same task, so that a requeued one is found where it was if it gets the same node.
export INFERENCE_PORT=${INFERENCE_PORT:-$((20000 + ${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-0}} % 20000 + task))}
export INFERENCE_HOST=0.0.0.0
export INFERENCE_BASE_DIR=${STEPSERVE_BASE_DIR:-$HOME/stepserve}/$tier-$task
export INFERENCE_HOSTS_FILE=$INFERENCE_BASE_DIR/hosts.json # its own: no tier asks itself
# SLURM kills what is left of a preempted job after its KillWait, which is 30 seconds unless somebody has set it.
export INFERENCE_DRAIN_TIMEOUT_S=${INFERENCE_DRAIN_TIMEOUT_S:-20}
export INFERENCE_UI=${INFERENCE_UI:-false}
mkdir -p "$INFERENCE_BASE_DIR"
[ -f "$INFERENCE_HOSTS_FILE" ] || echo '{}' >"$INFERENCE_HOSTS_FILE"

url=http://$(hostname -f):$INFERENCE_PORT/v1
python=$home/.venv/bin/python
key_variable=${STEPSERVE_KEY_VARIABLE:-STEPSERVE_${tier^^}_KEY}
key_variable=${key_variable//-/_}
server=
registrar=
nodes=

# shellcheck disable=SC2317,SC2329 # the trap calls it
leave() {
    [ -z "$registrar" ] || kill "$registrar" 2>/dev/null || true
    [ -z "$nodes" ] || kill "$nodes" 2>/dev/null || true
    "$python" "$home/deploy/slurm/register.py" remove "$hosts" "$tier" "$url" || true
}
trap leave EXIT
trap '[ -z "$server" ] || kill -TERM "$server" 2>/dev/null' TERM INT

if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
    : "${INFERENCE_NODES__KEY:=$("$python" -c "import secrets; print(secrets.token_hex(24))")}"
    export INFERENCE_NODES__KEY
    export INFERENCE_NODES__ADDRESS=${INFERENCE_NODES__ADDRESS:-$(hostname -i | cut -d" " -f1)}
    export INFERENCE_NODES__PORT=${INFERENCE_NODES__PORT:-$((INFERENCE_PORT + 20000))}
    srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$SLURMD_NODENAME" --kill-on-bad-exit=0 \
        "$home/.venv/bin/stepserve" node --join "$INFERENCE_NODES__ADDRESS:$INFERENCE_NODES__PORT" &
    nodes=$!
fi

"$home/.venv/bin/stepserve" up &
server=$!
(
    until "$python" -c "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)" \
        "http://127.0.0.1:$INFERENCE_PORT/readyz" 2>/dev/null; do sleep 2; done
    "$python" "$home/deploy/slurm/register.py" add "$hosts" "$tier" "$url" "$key_variable"
) &
registrar=$!

# A trapped signal ends `wait` before the server has ended, and a second `wait` has its exit code still.
while kill -0 "$server" 2>/dev/null; do
    wait "$server" || true
done
wait "$server" && code=0 || code=$?
exit "$code"
