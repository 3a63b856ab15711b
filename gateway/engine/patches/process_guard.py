"""Engine processes end with the gateway, and not before."""

import signal

from gateway.engine.patches.patch import Patch
from stepserve.process import follow_parent

# What ends an engine's core in the place of SIGTERM; vLLM takes it for the same.
STOP_SIGNAL = signal.SIGINT


def guard_process() -> None:
    """For this process, which is one of an engine's; after vLLM has set its handlers.

    SLURM sends SIGTERM to every process of a job at once. An engine that obeyed would break off what the gateway still
    has to finish, so it listens to STOP_SIGNAL alone.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    follow_parent(signal.SIGKILL)


PATCH = Patch(
    name="process_guard",
    changes="Engine processes ignore SIGTERM, end by SIGINT, and are killed when the gateway is gone.",
    why="vLLM's engine core outlives a front end that was killed, and holds memory and cores. It obeys the SIGTERM that"
    " SLURM sends to every process of a job, while the gateway still drains.",
    without="A killed gateway leaves an engine behind, which the next one has no memory beside.",
    gain="Not a matter of speed: no engine is left a second after a kill (tests/e2e/test_kills.py).",
    goes_when="vLLM's engine core ends with its front end, and takes a setting for its signals.",
    required=True,
    targets={"vllm.v1.engine.core:EngineCoreProc.run_engine_core": "532eba45b7f5"},
)
