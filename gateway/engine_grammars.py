"""What grammars may take of an engine's step, which everybody who is inside waits for.

vLLM computes between two tokens which tokens each grammar allows next. For ordinary ones that is a fraction of a
millisecond; for an ambiguous one (`((a{1,1000}){1,1000}){1,1000}`) it grows with every token, to seconds. Grammars are
tried before they come here (gateway.grammar_process); one that becomes slow later ends its own request alone.

A grammar is also compiled by the back end that it was checked for. vLLM makes one back end, for the first structured
request of all, and has it compile those that were checked for another.
"""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import thread_time
from typing import Any

from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_guidance import GuidanceBackend, GuidanceGrammar
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend, XgrammarGrammar

log = logging.getLogger(__name__)

# For all grammars of a step together. The slowest end beyond it, none that takes less than the second number.
_STEP_S = 0.1
_ALWAYS_S = 0.01
# One that takes its seconds holds up none of the others; all of them give way to the thread that computes.
_COMPILING_THREADS = 8
_NICENESS = 5

_BACKENDS: dict[str, type[Any]] = {"xgrammar": XgrammarBackend, "guidance": GuidanceBackend}
_making = threading.Lock()


def bound_grammars() -> None:
    """For this process, which is an engine's."""
    for grammar in (XgrammarGrammar, GuidanceGrammar):
        for name in ("fill_bitmask", "accept_tokens"):
            setattr(grammar, name, _timed(getattr(grammar, name)))
    begin = StructuredOutputManager.__init__
    create = StructuredOutputManager._create_grammar
    allowed, accept = StructuredOutputManager.grammar_bitmask, StructuredOutputManager.accept_tokens

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

    def grammar_bitmask(manager: Any, requests: dict[str, Any], ids: list[str], *args: Any) -> Any:
        mask = allowed(manager, requests, ids, *args)
        judge([requests[each].structured_output_request for each in ids])
        return mask

    def accept_tokens(manager: Any, request: Any, tokens: list[int]) -> bool:
        if getattr(request.structured_output_request, "stepserve_too_slow", False):
            log.error("the grammar of request %s takes too long; the request is ended", request.request_id)
            return False
        accepted: bool = accept(manager, request, tokens)
        return accepted

    StructuredOutputManager.__init__ = __init__
    StructuredOutputManager._create_grammar = create_grammar
    StructuredOutputManager.grammar_bitmask = grammar_bitmask
    StructuredOutputManager.accept_tokens = accept_tokens


def judge(structured: list[Any]) -> None:
    """Marks those whose grammars are to end, after a step of these requests' (vLLM's StructuredOutputRequest)."""
    spent = []
    for each in structured:
        seconds = getattr(each.grammar, "stepserve_s", 0.0)
        if seconds:
            spent.append((seconds, each))
            each.grammar.stepserve_s = 0.0
    total = sum(seconds for seconds, _ in spent)
    if total <= _STEP_S:
        return
    for seconds, each in sorted(spent, key=lambda pair: pair[0], reverse=True):
        if total <= _STEP_S or seconds <= _ALWAYS_S:
            return
        each.stepserve_too_slow = True
        total -= seconds


def _timed(method: Callable[..., Any]) -> Callable[..., Any]:
    def timed(grammar: Any, *args: Any, **options: Any) -> Any:
        started = thread_time()
        try:
            return method(grammar, *args, **options)
        finally:
            grammar.stepserve_s = getattr(grammar, "stepserve_s", 0.0) + thread_time() - started

    return timed


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)  # on Linux, of this thread and of those it starts


def _backend_of(manager: Any, name: str) -> Any:
    """The manager's own unless another one is wanted whose masks are of the same width."""
    kind = _BACKENDS.get(name)
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
