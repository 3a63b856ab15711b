"""How vLLM starts an engine's processes where there is a GPU: always by spawning them.

vLLM's own default is a fork of the process that asks. Here that is the gateway, whose ports, client connections, locks
and wake-up descriptor for signals an engine would inherit: the end of one would stop the server, and the plugin that
applies the gateway's patches would never run in it. Without a GPU engines are forks of a process that has none of those
(gateway.engine.fork_server), or vLLM spawns them by itself.
"""

import os

from gateway.errors import EngineStartFailed

VARIABLE = "VLLM_WORKER_MULTIPROC_METHOD"
_METHOD = "spawn"


def ensure_start_method() -> None:
    """To be called before an engine is started. Raises EngineStartFailed where engines would not be spawned."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - looked up for each call: it is made when first asked
    from vllm.utils.system_utils import get_mp_context  # noqa: PLC0415 - likewise

    if current_platform.is_cpu():
        return
    os.environ.setdefault(VARIABLE, _METHOD)
    method = get_mp_context().get_start_method()
    if method != _METHOD:
        raise EngineStartFailed(
            f"with a GPU an engine has to be spawned, and {VARIABLE} is {method}: unset it, or set it to {_METHOD}"
        )
