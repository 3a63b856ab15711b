"""The same random requests to engines with and without what the gateway changes of vLLM's inside, in one process:
`python -m tests.e2e.differential_run CHECKPOINT REQUESTS SEED [CHANGE …]`.

vLLM's real scheduler, worker, input and output processors. Requests are greedy or seeded and the engine computes with
float32, so that what an answer is does not hang on what else is in a step. Prints JSON: by patch, how many answers were
compared and how those read that differ.
"""

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from math import isfinite
from typing import Any

import torch
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.sample.sampler import Sampler
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_guidance import GuidanceGrammar
from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from gateway.engine.config import engine_config
from gateway.engine.fork_server import for_gpu
from gateway.engine.patches.clean_blocks import clean_blocks
from gateway.engine.patches.fewer_lookups import know_end_of_sequence, tokenize_together
from gateway.engine.patches.grammar_budget import bound_grammars
from gateway.engine.patches.grammar_compiling import compile_by_kind
from gateway.engine.patches.own_logprobs import give_each_its_own
from gateway.engine.patches.rewindable_generators import make_generators_rewindable
from gateway.engine.patches.step_sizes import size_steps
from gateway.engine.patches.whole_answers import keep_whole, note_first_tokens
from gateway.engine.process.guard import GUARD_VARIABLE
from stepserve.contract import BATCH_PRIORITY, ModelRef
from stepserve.settings import EnginePatches, EngineSettings

Json = dict[str, Any]

# For the engine that nothing is changed of: no prompt is read in parts, which one with a seed does not survive there.
WHOLE_PROMPTS_TOKENS = 1 << 16
# Norms by another kernel round otherwise: log-probabilities of float32 differ behind their fifth digit.
TOLERANCE = 2e-3
NEVER = 1 << 30
# Every engine here computes in this process, as it does where nothing is switched off.
_HARNESS = {"forked_engines", "one_process"}
_REQUIRED = {"rewindable_generators", "own_logprobs"}
# What an engine without HTTP passes.
_COMPARED = {
    "clean_blocks",
    "cpu_norms",
    "fewer_lookups",
    "grammar_budget",
    "grammar_compiling",
    "probe_places",
    "step_sizes",
    "whole_answers",
} | _REQUIRED
_PATCHED: tuple[tuple[Any, str], ...] = (
    (Scheduler, "update_from_output"),
    (Scheduler, "schedule"),
    (StructuredOutputManager, "__init__"),
    (StructuredOutputManager, "_create_grammar"),
    (StructuredOutputManager, "grammar_bitmask"),
    (StructuredOutputManager, "accept_tokens"),
    (XgrammarGrammar, "fill_bitmask"),
    (XgrammarGrammar, "accept_tokens"),
    (GuidanceGrammar, "fill_bitmask"),
    (GuidanceGrammar, "accept_tokens"),
    (Sampler, "forward"),
    (Sampler, "gather_specific_token_logprobs"),
    (torch, "Generator"),
    (KVCacheConfig, "needs_kv_cache_zeroing"),
    (CPUModelRunner, "_init_kv_zero_meta"),
    (CPUModelRunner, "_zero_block_ids"),
)
_HELD_TO: tuple[Json, ...] = (
    {"json": {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}},
    {"json": {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 100}},
    {"regex": "[0-9]{1,3}( [a-z]+){0,4}"},
    {"choice": ["yes", "no", "perhaps"]},
    {"grammar": 'root ::= "(" root ")" | [0-9]'},
)


class Asked:
    """A random request; `step` is when it comes in, `leaves` after how many steps more its client goes away."""

    def __init__(self, number: int, rng: random.Random, context: int) -> None:
        self.id = str(number)
        self.priority = BATCH_PRIORITY if rng.random() < 0.3 else 0
        self.step = rng.randint(0, 60)
        self.leaves = rng.randint(0, 25) if rng.random() < 0.12 else NEVER
        length = rng.choice([1, rng.randint(2, 40), rng.randint(2, 40), context // 2])
        shared = [1 + number % 3] * min(length - 1, rng.choice([0, 16, 64]))
        self.prompt = [*shared, *(rng.randint(32, 126) for _ in range(length - len(shared)))]
        self.params = _sampling(rng, context - length)


def _sampling(rng: random.Random, room: int) -> SamplingParams:
    chosen: Json = {"temperature": 0.0} if rng.random() < 0.4 else _random_kind(rng)
    maybe: list[tuple[float, str, Callable[[], Any]]] = [
        (0.2, "presence_penalty", lambda: rng.uniform(-2, 2)),
        (0.2, "frequency_penalty", lambda: rng.uniform(-2, 2)),
        (0.2, "repetition_penalty", lambda: rng.uniform(0.5, 2)),
        (0.1, "logit_bias", lambda: {rng.randint(32, 126): rng.uniform(-5, 5) for _ in range(3)}),
        (0.2, "stop", lambda: rng.sample(["1", "2", "+", "=", "42", "\n", "ab"], rng.randint(1, 3))),
        (0.1, "include_stop_str_in_output", lambda: True),
        (0.1, "stop_token_ids", lambda: rng.sample(range(40, 120), 2)),
        (0.5, "ignore_eos", lambda: True),
        (0.1, "bad_words", lambda: rng.sample(["1", "4", "23"], 1)),
        (0.1, "allowed_token_ids", lambda: rng.sample(range(32, 126), 20)),
        (0.5, "logprobs", lambda: rng.choice([0, 1, 2, 3, 5, 20])),
        (0.1, "prompt_logprobs", lambda: rng.choice([0, 1, 4])),
        (0.15, "n", lambda: rng.randint(2, 3)),
        (0.1, "skip_special_tokens", lambda: False),
        (0.2, "flat_logprobs", lambda: True),
    ]
    chosen |= {name: make() for share, name, make in maybe if rng.random() < share}
    if chosen["temperature"] == 0.0:
        chosen.pop("n", None)
    if "stop" not in chosen:
        chosen.pop("include_stop_str_in_output", None)
        chosen["detokenize"] = rng.random() < 0.8
    if rng.random() < 0.2 and "allowed_token_ids" not in chosen and "bad_words" not in chosen:
        chosen["structured_outputs"] = StructuredOutputsParams(**rng.choice(_HELD_TO))
        chosen.pop("stop_token_ids", None)
        chosen.pop("ignore_eos", None)
    most = min(room, rng.choice([1, 2, 10, 40, 64, 65, 90, 150]))
    if rng.random() < 0.2 and "structured_outputs" not in chosen:
        chosen["min_tokens"] = rng.randint(0, most)
    streamed = rng.random() < 0.3
    kind = RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY
    return SamplingParams(max_tokens=most, output_kind=kind, **chosen)


def _random_kind(rng: random.Random) -> Json:
    return {
        "temperature": rng.uniform(0.3, 1.5),
        "seed": rng.randrange(1 << 31),
        "top_p": rng.choice([1.0, 0.9, 0.5]),
        "top_k": rng.choice([0, 0, 5, 40]),
        "min_p": rng.choice([0.0, 0.0, 0.1]),
    }


class Read:
    """What a client has of one answer in the end."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.ended: list[Any] = []
        self.ids: list[list[int]] = []
        self.logprobs: list[float] = []

    def take(self, output: Any) -> None:
        self.token_ids += output.token_ids
        self.text += output.text
        for position in output.logprobs or ():
            # Of those that a mask rules out, any may fill up the number that was asked for.
            named = [each for each in sorted(position) if isfinite(position[each].logprob)]
            self.ids.append([len(position), *named])
            self.logprobs += [position[each].logprob for each in named]
        if output.finish_reason is not None:
            self.ended.append([output.finish_reason, output.stop_reason])

    def difference(self, other: "Read") -> str | None:
        mine = (self.token_ids, self.text, self.ended, self.ids)
        theirs = (other.token_ids, other.text, other.ended, other.ids)
        if mine != theirs:
            return f"{theirs} and not {mine}"
        pairs = zip(self.logprobs, other.logprobs, strict=True)
        apart = max((abs(one - another) for one, another in pairs if one != another), default=0.0)
        return None if apart <= TOLERANCE else f"log-probabilities are {apart} apart"


@contextmanager
def patched(names: set[str]) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name in _PATCHED]
    patches = {
        "whole_answers": keep_whole,
        "step_sizes": size_steps,
        "grammar_compiling": compile_by_kind,
        "grammar_budget": bound_grammars,
        "own_logprobs": give_each_its_own,
        "rewindable_generators": make_generators_rewindable,
        "clean_blocks": clean_blocks,
    }
    for name, patch in patches.items():
        if name in names:
            patch()
    yield
    for owner, name, own in before:
        setattr(owner, name, own)


def answers(checkpoint: str, names: set[str], count: int, seed: int) -> dict[str, Read]:
    """Of those whose clients stay, by request and number."""
    patches = EnginePatches.model_validate({"all": "off"} | dict.fromkeys((names | _HARNESS) - _REQUIRED, "auto"))
    rewinds = "rewindable_generators" in names
    settings = EngineSettings(
        max_num_seqs=48,
        dtype="float32",
        max_num_batched_tokens=None if rewinds else WHOLE_PROMPTS_TOKENS,
        patches=patches,
    )
    config = engine_config(ModelRef(id="demo", path=checkpoint, digest="-"), settings)[1]
    with patched(names):
        engine = LLMEngine(config, Executor.get_class(config), log_stats=True, usage_context=UsageContext.LLM_CLASS)
        if "whole_answers" in names:
            note_first_tokens(engine.output_processor)
        if "fewer_lookups" in names:
            tokenize_together(engine.renderer)
            know_end_of_sequence(engine.renderer)
        context = engine.model_config.max_model_len
        rng = random.Random(seed)
        read = _asked_of(engine, [Asked(number, rng, context) for number in range(count)])
        if names == _COMPARED:
            read |= _named(engine)
        engine.engine_core.shutdown()
    return read


def _named(engine: LLMEngine) -> dict[str, Read]:
    """Requests that name tokens among others that do not, and under the same name with `alone` each by itself."""
    read: dict[str, Read] = {}
    wanted: list[Json] = [{"logprob_token_ids": [48, 49, 50]}, {"logprobs": 1}, {"logprobs": 5}, {}]
    wanted += [{"logprob_token_ids": list(range(40, 60))}, {"logprobs": 20}, {"logprob_token_ids": [51]}]

    def asked(number: int, name: str) -> Asked:
        one = Asked(0, random.Random(number), 64)
        one.id, one.step, one.leaves, one.prompt = f"{name} {number}", 0, NEVER, [49 + number, 43, 49, 61]
        kind = RequestOutputKind.DELTA if number % 2 else RequestOutputKind.FINAL_ONLY
        one.params = SamplingParams(
            temperature=0.0, max_tokens=5 + number, ignore_eos=True, output_kind=kind, **wanted[number]
        )
        return one

    for number in range(len(wanted)):
        read |= _asked_of(engine, [asked(number, "alone")])
    return read | _asked_of(engine, [asked(number, "beside") for number in range(len(wanted))])


def _asked_of(engine: LLMEngine, requests: list[Asked]) -> dict[str, Read]:
    waiting = sorted(requests, key=lambda asked: asked.step, reverse=True)
    leaving: dict[str, int] = {}
    gone: set[str] = set()
    read: dict[str, Read] = {}
    step = 0
    while waiting or engine.has_unfinished_requests():
        while waiting and waiting[-1].step <= step:
            asked = waiting.pop()
            prompt: Any = {"prompt_token_ids": asked.prompt}
            engine.add_request(asked.id, prompt, asked.params, priority=asked.priority)
            leaving[asked.id] = step + asked.leaves
        left = [name for name, when in leaving.items() if when <= step and name not in gone]
        engine.abort_request(left)
        gone.update(left)
        for output in engine.step():
            for one in output.outputs:
                read.setdefault(f"{output.request_id}.{one.index}", Read()).take(one)
        step += 1
    stay = {asked.id for asked in requests if asked.leaves == NEVER}
    return {name: each for name, each in read.items() if name.partition(".")[0] in stay}


def main(checkpoint: str, count: int, seed: int) -> None:
    if for_gpu():
        print(json.dumps(None))
        return
    os.environ[GUARD_VARIABLE] = str(os.getppid())
    # A worker registers its norms, which a config may name or not; what else it changes is changed here by turns.
    with patched(set()):
        import_module("gateway.engine.process.worker")
    plain = answers(checkpoint, set(), count, seed)
    seen: dict[str, Json] = {}
    # Each goes with the one that lets the engine read prompts in parts, as it does where nothing is switched off.
    alone = {name: {name, "rewindable_generators"} for name in sorted(_COMPARED)}
    for name, names in {"all": _COMPARED, **alone}.items():
        if len(sys.argv) > 4 and name not in sys.argv[4:]:
            continue
        changed = answers(checkpoint, names, count, seed)
        for key in [key for key in changed if key.startswith("alone")]:
            plain[key.replace("alone", "beside")] = changed.pop(key)
        print(f"{name}: {len(changed)} answers", file=sys.stderr, flush=True)
        differences = {key: plain[key].difference(read) for key, read in changed.items() if key in plain}
        seen[name] = {
            "compared": len(differences),
            "missing": sorted(key for key in plain.keys() ^ changed.keys() if not key.startswith("beside")),
            "different": {key: how for key, how in differences.items() if how is not None},
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)  # several engines in one process leave threads that wait for each other
