"""Loaded by vLLM in its own processes (entry point `vllm.general_plugins`): applies the gateway's patches there.

The variable is set by the gateway alone, so other users of this vLLM installation notice nothing.
"""

import os
import sys

from gateway.engine.patches.process_guard import guard_process
from gateway.engine.patches.registry import ActivePatches

GUARD_VARIABLE = "STEPSERVE_GATEWAY_PID"


def register() -> None:
    gateway_pid = os.environ.get(GUARD_VARIABLE)
    if gateway_pid is not None and int(gateway_pid) != os.getpid():
        guard_process()
        if "vllm.v1.engine.core" in sys.modules:  # an engine's process, and not one that looks at a model's class
            ActivePatches.here().in_engine()
