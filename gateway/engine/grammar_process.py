"""A process that compiles grammars to see whether an engine may be given them. Started by gateway.engine.structured.

It has the model's tokenizer loaded; each grammar is compiled in a fork of it, which can be killed, runs out of memory
or crashes alone. There it is also followed for a few tokens, since some compile at once and are slow to follow.
"""

import math
import os
import resource
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any

import setproctitle

from stepserve.process import follow_parent

# Processor time bounds a grammar; this is for a machine that has none to give.
WALL_FACTOR = 12
# Of addresses, beyond those that the process has itself; a compiled grammar of ordinary size has megabytes.
_MEMORY_BYTES = 2 << 30
_NICENESS = 5
# After so long a grammar is none of the ordinary ones, and computes only what others leave.
_QUICK_S = 1.0
_NICENESS_OF_SLOW = 19
# Tokens that are tried, and how long any may take to be looked for among all.
_TRIED_TOKENS = 96
_TOKEN_S = 0.1
# vLLM checks a request in the event loop, once more when it is let in.
_CHECK_S = 0.3
_LONGEST_REASON = 500

_MODULES = {
    "xgrammar": ("vllm.v1.structured_output.backend_xgrammar", "XgrammarBackend"),
    "guidance": ("vllm.v1.structured_output.backend_guidance", "GuidanceBackend"),
    "outlines": ("vllm.v1.structured_output.backend_outlines", "OutlinesBackend"),
    "lm-format-enforcer": ("vllm.v1.structured_output.backend_lm_format_enforcer", "LMFormatEnforcerBackend"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is None for a grammar that an engine may be given; `seconds` is the processor time that it took.

    One that is not `final` may be another one the next time.
    """

    reason: str | None
    seconds: float = 0.0
    final: bool = True


Question = tuple[int, Any, set[int] | None]
"""A number, what vLLM calls StructuredOutputsParams, and the tokens that end an answer; without these, an end to it."""


@dataclass(slots=True)
class _Trial:
    number: int
    pid: int
    ends: float
    slow: float
    result: Connection

    @property
    def wakes(self) -> float:
        return min(self.ends, self.slow)


def serve(connection: Connection, engine_config: Any, timeout_s: float) -> None:
    """Takes (number, StructuredOutputsParams, stop token ids), gives (number, Verdict), in whatever order they end.

    A number with nothing else ends that one. This function returns when the connection ends.
    """
    setproctitle.setproctitle("stepserve: grammars")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, for the gateway
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which what it is forked from ignores
    follow_parent(signal.SIGKILL)
    os.nice(_NICENESS)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    compiler = _Compiler(engine_config)
    trials: dict[Connection, _Trial] = {}
    with suppress(EOFError, OSError):
        connection.send((-1, Verdict(None)))
        while True:
            now = time.monotonic()
            nearest = min((trial.wakes for trial in trials.values()), default=now + 60.0)
            ready = wait([connection, *trials], max(0.0, nearest - now))
            if connection in ready:
                number, params, stop_token_ids = connection.recv()
                if params is not None:
                    trial = _begin(connection, compiler, timeout_s, number, params, stop_token_ids)
                    trials[trial.result] = trial
                else:
                    for trial in trials.values():
                        trial.ends = -math.inf if trial.number == number else trial.ends
            for trial in trials.values():
                if trial.slow <= time.monotonic():
                    _step_back(trial)
            for each in [one for one in trials if one in ready or trials[one].ends <= time.monotonic()]:
                trial = trials.pop(each)
                late = each not in ready and trial.ends <= time.monotonic()
                connection.send((trial.number, _end(trial, timeout_s, late=late)))
    for trial in trials.values():
        os.kill(trial.pid, signal.SIGKILL)


def _begin(
    connection: Connection, compiler: "_Compiler", timeout_s: float, number: int, params: Any, stop_token_ids: set[int]
) -> _Trial:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            connection.close()
            _bound(timeout_s)
            with Connection(writer, readable=False) as result:
                result.send(compiler.verdict(params, stop_token_ids))
        finally:
            os._exit(0)
    os.close(writer)
    now = time.monotonic()
    return _Trial(number, pid, now + timeout_s * WALL_FACTOR, now + _QUICK_S, Connection(reader, writable=False))


def _step_back(trial: _Trial) -> None:
    trial.slow = math.inf
    with suppress(OSError):  # it, or one of its threads, has ended just now
        for thread in os.listdir(f"/proc/{trial.pid}/task"):  # noqa: PTH208 - numbers, not paths
            os.setpriority(os.PRIO_PROCESS, int(thread), _NICENESS_OF_SLOW)


def _end(trial: _Trial, timeout_s: float, *, late: bool) -> Verdict:
    verdict: Verdict | None = None
    with suppress(EOFError, OSError):
        if trial.result.poll():
            verdict = trial.result.recv()
    os.kill(trial.pid, signal.SIGKILL)
    _, status = os.waitpid(trial.pid, 0)
    trial.result.close()
    if verdict is not None:
        return verdict
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        return Verdict("cannot be compiled")
    if late:
        return Verdict("could not be compiled in time, as the machine is busy", final=False)
    return Verdict(
        f"takes longer than {timeout_s:g} s, or too much memory, to compile"
        " (setting engine.structured.compile_timeout_s)"
    )


def _bound(timeout_s: float) -> None:
    seconds = max(1, round(timeout_s))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm") as file:  # noqa: PTH123 - one line of the kernel's
        own_bytes = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own_bytes + _MEMORY_BYTES,) * 2)


class _Compiler:
    """vLLM's own checks and back ends, as the engine of this config has them: all that every fork needs."""

    def __init__(self, engine_config: Any) -> None:
        from vllm.tokenizers import cached_tokenizer_from_config  # noqa: PLC0415 - takes seconds where it is no fork

        self._config = engine_config
        self._tokenizer = cached_tokenizer_from_config(model_config=engine_config.model_config)
        self._backends: dict[str, Any] = {}
        for name in ("xgrammar", "guidance"):
            with suppress(Exception):  # of a tokenizer that it does not know: each grammar finds that out, and says it
                self._backends[name] = self._made(name)
        with suppress(Exception):  # likewise; vLLM keeps what these make
            self._checked(import_module("vllm.sampling_params").StructuredOutputsParams(choice=["a"]))
            import_module("vllm.sampling_params")._get_llg_tokenizer(self._tokenizer)

    def verdict(self, params: Any, stop_token_ids: set[int]) -> Verdict:
        try:
            self._try(params, stop_token_ids)
        except MemoryError:
            return Verdict("takes too much memory to compile", time.process_time())
        except Exception as error:  # noqa: BLE001 - of whatever library: it is why not, and this process ends here
            return Verdict(str(error)[:_LONGEST_REASON] or type(error).__name__, time.process_time())
        return Verdict(None, time.process_time())

    def _try(self, params: Any, stop_token_ids: set[int]) -> None:
        from vllm.v1.structured_output.request import get_structured_output_key  # noqa: PLC0415 - as above

        started = time.process_time()
        asked = self._checked(params)
        if time.process_time() - started > _CHECK_S:
            raise ValueError("takes too long to be read")
        name = asked.structured_outputs._backend
        backend = self._backends.get(name) or self._made(name)
        kind, text = get_structured_output_key(asked.structured_outputs)
        grammar = backend.compile_grammar(kind, text, stop_token_ids=stop_token_ids)
        self._follow(backend, grammar, stop_token_ids)

    def _checked(self, params: Any) -> Any:
        """Sampling parameters with these, as vLLM lets them in: with the back end of its choice."""
        from vllm.sampling_params import SamplingParams  # noqa: PLC0415 - as above

        asked = SamplingParams(structured_outputs=params)
        config = self._config
        asked._validate_structured_outputs(config.model_config, config.structured_outputs_config, self._tokenizer)
        return asked

    def _made(self, name: str) -> Any:
        kind = getattr(import_module(_MODULES[name][0]), _MODULES[name][1])
        size = self._config.model_config.get_vocab_size()
        return kind(self._config, tokenizer=self._tokenizer, vocab_size=size)

    def _follow(self, backend: Any, grammar: Any, stop_token_ids: set[int]) -> None:
        """Raises ValueError where there is no first token, or where one takes too long to be found."""
        mask = backend.allocate_token_bitmask(1)
        for number in range(_TRIED_TOKENS):
            started = time.thread_time()
            grammar.fill_bitmask(mask, 0)
            token = _allowed(mask, number, stop_token_ids)
            if token is None:
                if number == 0 and _allowed(mask, number, set()) is None:
                    raise ValueError("no answer can satisfy it: no token could begin one")
                return
            accepted = grammar.accept_tokens("-", [token])
            if time.thread_time() - started > _TOKEN_S:
                raise ValueError("is too ambiguous: it takes too long to find out which tokens it allows")
            if not accepted or grammar.is_terminated():
                return


def _allowed(mask: Any, number: int, stop_token_ids: set[int]) -> int | None:
    """One of the tokens that a row of bits allows, another one each time, and none that ends an answer."""
    words: list[int] = mask[0].tolist()
    start = number * 7 % len(words)
    for place in (*range(start, len(words)), *range(start)):
        word = words[place] & 0xFFFFFFFF
        while word:
            bit = (word & -word).bit_length() - 1
            token: int = place * 32 + bit
            if token not in stop_token_ids:
                return token
            word &= word - 1
    return None
