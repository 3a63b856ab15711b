"""What grammars may take of an engine's step, which everybody who is inside waits for.

vLLM computes between two tokens which tokens each grammar allows next. For ordinary ones that is a fraction of a
millisecond; for an ambiguous one (`((a{1,1000}){1,1000}){1,1000}`) it grows with every token, to seconds. Grammars are
tried before they come here (gateway.engine.grammar_process); one that becomes slow later ends its own request alone.
"""

import logging
from collections.abc import Callable
from time import thread_time
from typing import Any

from gateway.engine.patches.patch import Patch

log = logging.getLogger(__name__)

# For all grammars of a step together. The slowest end beyond it, none that takes less than the second number.
_STEP_S = 0.1
_ALWAYS_S = 0.01


def bound_grammars() -> None:
    """For this process, which is an engine's."""
    from vllm.v1.structured_output import StructuredOutputManager
    from vllm.v1.structured_output.backend_guidance import GuidanceGrammar
    from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

    for grammar in (XgrammarGrammar, GuidanceGrammar):
        for name in ("fill_bitmask", "accept_tokens"):
            setattr(grammar, name, _timed(getattr(grammar, name)))
    allowed, accept = StructuredOutputManager.grammar_bitmask, StructuredOutputManager.accept_tokens

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


PATCH = Patch(
    name="grammar_budget",
    changes="Where grammars take more than 100 ms of a step, the slowest requests end with an error.",
    why="vLLM follows grammars between two tokens of everybody, without a limit.",
    without="An ambiguous grammar that passes its trial can hold up every request of the engine.",
    gain="A step's grammars take 100 ms at most, instead of seconds (tests/e2e/test_structured_outputs.py).",
    goes_when="vLLM bounds the time that a grammar may take of a step.",
    targets={
        "vllm.v1.structured_output:StructuredOutputManager.grammar_bitmask": "46f2867ad31a",
        "vllm.v1.structured_output:StructuredOutputManager.accept_tokens": "67b4e7056934",
        "vllm.v1.structured_output.backend_xgrammar:XgrammarGrammar": "14206746d6f5",
        "vllm.v1.structured_output.backend_guidance:GuidanceGrammar": "82565ab333a0",
    },
    in_engine=bound_grammars,
)
