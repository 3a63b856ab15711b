"""Each grammar is compiled by the back end that it was checked for, in threads that give way.

vLLM makes one back end, for the first structured request of all, and has it compile all others too.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from gateway.engine.patches.patch import Patch

# One that takes its seconds holds up none of the others; all of them give way to the thread that computes.
_COMPILING_THREADS = 8
_NICENESS = 5

_making = threading.Lock()


def compile_by_kind() -> None:
    """For this process, which is an engine's."""
    from vllm.v1.structured_output import StructuredOutputManager

    begin = StructuredOutputManager.__init__
    create = StructuredOutputManager._create_grammar
    init = StructuredOutputManager.grammar_init

    def grammar_init(manager: Any, *args: Any) -> None:
        forget_back_end(manager)
        init(manager, *args)

    def __init__(manager: Any, *args: Any, **options: Any) -> None:  # noqa: N807 - it takes its place
        begin(manager, *args, **options)
        if hasattr(manager, "executor"):
            manager.executor.shutdown(wait=False)
            manager.executor = ThreadPoolExecutor(_COMPILING_THREADS, "grammar", initializer=_give_way)

    def create_grammar(manager: Any, request: Any) -> Any:
        backend = _backend_of(manager, request.sampling_params.structured_outputs._backend)
        if backend is manager.backend:
            return create(manager, request)
        kind, text = request.structured_output_request.structured_output_key
        return backend.compile_grammar(kind, text, stop_token_ids=request.sampling_params.all_stop_token_ids)

    StructuredOutputManager.__init__ = __init__
    StructuredOutputManager._create_grammar = create_grammar
    StructuredOutputManager.grammar_init = grammar_init


def forget_back_end(manager: Any) -> None:
    """From 0.33 on vLLM refuses a request that was checked for another back end than an engine's first one."""
    if getattr(manager, "backend_name", None) is not None:
        manager.backend_name = None


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)  # on Linux, of this thread and of those it starts


@cache
def _backends() -> dict[str, type[Any]]:
    from vllm.v1.structured_output.backend_guidance import GuidanceBackend
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

    return {"xgrammar": XgrammarBackend, "guidance": GuidanceBackend}


def _backend_of(manager: Any, name: str) -> Any:
    """The manager's own unless another one is wanted whose masks are of the same width."""
    kind = _backends().get(name)
    if kind is None or isinstance(manager.backend, kind):
        return manager.backend
    with _making:
        others = manager.__dict__.setdefault("stepserve_backends", {})
        if name not in others:
            size = manager.vllm_config.model_config.get_vocab_size()
            other = kind(manager.vllm_config, tokenizer=manager.tokenizer, vocab_size=size)
            widths = {each.allocate_token_bitmask(1).shape[1] for each in (other, manager.backend)}
            others[name] = other if len(widths) == 1 else manager.backend
        return others[name]


PATCH = Patch(
    name="grammar_compiling",
    changes="The StructuredOutputManager has a back end of each kind, and eight compiling threads of low priority.",
    why="vLLM's back end is that of an engine's first structured request, whatever later ones were checked for; it"
    " compiles in half as many threads as there are cores, at the priority of the thread that computes.",
    without="A schema that only guidance knows fails where xgrammar came first; a slow one holds up the others.",
    gain="Not a matter of speed: requests that vLLM accepts are also compiled.",
    goes_when="vLLM compiles each request by its own back end.",
    targets={
        "vllm.v1.structured_output:StructuredOutputManager.__init__": "585ff4311f12",
        "vllm.v1.structured_output:StructuredOutputManager.grammar_init": "42855e27624b",
        "vllm.v1.structured_output:StructuredOutputManager._create_grammar": "14a565e74b3a",
    },
    in_engine=compile_by_kind,
)
