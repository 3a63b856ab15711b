"""Loaded by vLLM inside its own processes (entry point `vllm.general_plugins`): ends them when their parent is gone.

vLLM's engine core outlives a front end that was killed outright, and would go on holding memory and cores. The
variable is set by the gateway alone, so other users of this vLLM installation notice nothing.
"""

import os
import signal

from switchyard.process import follow_parent

GUARD_VARIABLE = "SWITCHYARD_GATEWAY_PID"


def register() -> None:
    gateway_pid = os.environ.get(GUARD_VARIABLE)
    if gateway_pid is not None and int(gateway_pid) != os.getpid():
        follow_parent(signal.SIGKILL)
