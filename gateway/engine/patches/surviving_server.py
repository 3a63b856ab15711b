"""The process outlives a dead engine: only the slot is dead."""

from typing import TYPE_CHECKING

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    from fastapi import FastAPI


class _IgnoredServer:
    """Stands where vLLM's handler for a dead engine looks for a server to stop."""

    should_exit = False


def survive(app: "FastAPI") -> None:
    app.state.server = _IgnoredServer()


PATCH = Patch(
    name="surviving_server",
    changes="`app.state.server` is a stand-in whose `should_exit` nobody reads.",
    why="vLLM's handler for a dead engine stops the process through it.",
    without="The death of one engine would end the gateway, and with it every other model.",
    gain="Not a matter of speed.",
    goes_when="vLLM's handler leaves the end of the process to whoever embeds it.",
    required=True,
    targets={
        "vllm.entrypoints.launchers.launcher:terminate_if_errored": "be01d1ccb65c",
        "vllm.entrypoints.serve.exception_handling.handlers.vllm_error": "6d5e4872a1d7",
    },
    on_app=survive,
)
