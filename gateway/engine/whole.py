"""Answers that nobody reads along leave the engine when they are complete, long ones in parts.

vLLM's engine sends every token of every request by itself, also to a front end that keeps them until the last one has
come. That is a message to pack, to unpack and to note for each token of each item of a job, in the event loop that
other people's streams go through. When the first token was there is sent along, so that vLLM's times stay right.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.outputs import LogprobsLists

log = logging.getLogger(__name__)

# A long answer is sent every so many steps, so that the front end's counters move.
_MOST_STEPS = 64
# What comes with the first token alone.
_BEGINNING = ("prefill_stats", "new_prompt_logprobs_tensors", "prompt_token_id_logprobs")
# An output with anything else is sent when it is made: at the end, or with what cannot be put together here.
_WAITS = {"request_id", "new_token_ids", "new_logprobs", "events", "trace_headers", "num_nans_in_logits", *_BEGINNING}
_others = attrgetter(*(name for name in EngineCoreOutput.__struct_fields__ if name not in _WAITS))
# Among the headers of a trace, which are all that the engine can say of a request in its own words.
FIRST_TOKEN = "stepserve-first-token"  # noqa: S105 - the name of a header


@dataclass(slots=True)
class _Kept:
    """`width`: how many log-probabilities a token of this request has, its own included; None: all that come."""

    first_token_s: float
    width: int | None
    outputs: list[EngineCoreOutput] = field(default_factory=list)


class Whole:
    """What one scheduler keeps back, by request."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def filtered(
        self, outputs: Sequence[EngineCoreOutput], requests: dict[str, Any], now_s: float
    ) -> list[EngineCoreOutput]:
        """Those to be sent now; `requests` are the scheduler's unfinished ones, by id."""
        sent = []
        for output in outputs:
            kept = self._kept.get(output.request_id)
            if kept is None and _can_wait(output) and _unread(requests.get(output.request_id)):
                kept = self._kept[output.request_id] = _Kept(now_s, _width(requests[output.request_id]))
            if kept is None:
                sent.append(output)
                continue
            kept.outputs.append(_cut(output, kept.width))
            if len(kept.outputs) == _MOST_STEPS or not _can_wait(output):
                sent += _merged(kept.outputs, kept.first_token_s)
                kept.outputs = []
        # Finished just now, or aborted: nobody waits for these any more.
        for request_id in [each for each in self._kept if each not in requests]:
            del self._kept[request_id]
        return sent


def _unread(request: Any) -> bool:
    """Whether the front end needs nothing of a request before its end; stop strings are looked for there."""
    params = request.sampling_params if request is not None else None
    return params is not None and params.output_kind == RequestOutputKind.FINAL_ONLY and not params.stop


def _can_wait(output: EngineCoreOutput) -> bool:
    return not output.num_nans_in_logits and all(value is None for value in _others(output))


def _width(request: Any) -> int | None:
    """Of the rows that vLLM's front end reads; the rows of a step are as wide as its widest request wants them."""
    count = request.sampling_params.num_logprobs
    return None if count is None or count < 0 else count + 1


def _cut(output: EngineCoreOutput, width: int | None) -> EngineCoreOutput:
    """Keeps a copy of the request's own log-probabilities, so that nothing holds on to those of the whole step."""
    logprobs = output.new_logprobs
    if logprobs is not None and logprobs.logprob_token_ids.ndim == logprobs.logprobs.ndim == 2:
        token_ids, values, ranks, _ = logprobs
        output.new_logprobs = LogprobsLists(token_ids[:, :width].copy(), values[:, :width].copy(), ranks.copy())
    return output


def _merged(outputs: list[EngineCoreOutput], first_token_s: float) -> list[EngineCoreOutput]:
    """The last one, with all that came before; all of them, as vLLM sends them, where they cannot be put together.

    An exception here would end the engine and with it every other request. Widths differ where another request of a
    step named tokens by their ids (`logprob_token_ids`): vLLM then gives every row of that step so many places.
    """
    shapes = {output.new_logprobs.logprobs.shape[1:] for output in outputs if output.new_logprobs is not None}
    if len(shapes) > 1:
        return outputs
    try:
        return [_whole(outputs, first_token_s)]
    except Exception:
        log.exception("the parts of request %s are sent one by one", outputs[-1].request_id)
        return outputs


def _whole(outputs: Sequence[EngineCoreOutput], first_token_s: float) -> EngineCoreOutput:
    """The last one, changed once all else is made."""
    first, last = outputs[0], outputs[-1]
    if len(outputs) == 1:
        return last
    new_token_ids = [token for output in outputs for token in output.new_token_ids]
    events = [event for output in outputs for event in output.events or ()] or None
    logprobs = [output.new_logprobs for output in outputs if output.new_logprobs is not None]
    new_logprobs = last.new_logprobs
    if logprobs:
        token_ids, values, ranks, _ = zip(*logprobs, strict=True)
        new_logprobs = LogprobsLists(np.concatenate(token_ids), np.concatenate(values), np.concatenate(ranks))
    last.new_token_ids, last.events, last.new_logprobs = new_token_ids, events, new_logprobs
    if first.prefill_stats is not None:
        last.trace_headers = {**(last.trace_headers or {}), FIRST_TOKEN: str(first_token_s)}
    for name in _BEGINNING:
        if getattr(last, name) is None:
            setattr(last, name, getattr(first, name))
    return last
