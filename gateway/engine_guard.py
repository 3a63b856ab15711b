"""Loaded by vLLM in its own processes (entry point `vllm.general_plugins`): they end with the gateway, and not before.

vLLM's engine core outlives a front end that was killed outright, and would go on holding memory and cores. The
variable is set by the gateway alone, so other users of this vLLM installation notice nothing.

SLURM sends SIGTERM to every process of a job at once. An engine that obeyed would break off what the gateway still has
to finish, so it listens to STOP_SIGNAL alone, which vLLM takes for the same.

Engines also learn here to send whole answers (gateway.engine_whole), to size their steps (gateway.engine_steps), to
bound what grammars take of a step (gateway.engine_grammars), and to have a place for probes when they are full
(gateway.engine_places). Each of these can be left out (setting engine.patches).
"""

import os
import signal
import sys

from stepserve.process import follow_parent

GUARD_VARIABLE = "STEPSERVE_GATEWAY_PID"
PATCHES_OFF_VARIABLE = "STEPSERVE_PATCHES_OFF"
STOP_SIGNAL = signal.SIGINT


def register() -> None:
    gateway_pid = os.environ.get(GUARD_VARIABLE)
    if gateway_pid is not None and int(gateway_pid) != os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        follow_parent(signal.SIGKILL)
        if "vllm.v1.engine.core" in sys.modules:  # an engine's process, and not one that looks at a model's class
            from gateway.engine_grammars import bound_grammars  # noqa: PLC0415 - vLLM's parts, which are loaded already
            from gateway.engine_places import lend_places  # noqa: PLC0415 - likewise
            from gateway.engine_steps import size_steps  # noqa: PLC0415 - likewise
            from gateway.engine_whole import keep_whole  # noqa: PLC0415 - likewise

            for name, patch in (
                ("whole_answers", keep_whole),
                ("step_sizes", size_steps),
                ("probe_places", lend_places),
                ("grammar_budget", bound_grammars),
            ):
                if is_patched(name):
                    patch()


def is_patched(name: str) -> bool:
    """Whether an engine of this environment gets the change of vLLM's inside that the settings call so."""
    return name not in os.environ.get(PATCHES_OFF_VARIABLE, "").split(",")
