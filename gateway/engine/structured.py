"""Structured outputs: what an answer is to be held to is compiled aside before the engine gets it, with a deadline.

vLLM checks a schema in the event loop, compiles it in a thread of the engine that nothing can stop, and answers 500
when that fails. Here one that cannot be compiled, takes too long, or that nothing fulfils, is a 400 of its own request;
one that was compiled before goes straight in.
"""

import asyncio
import hashlib
import json
import logging
import re
import uuid
from collections import OrderedDict
from http import HTTPStatus
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from vllm.exceptions import GracefulHTTPError, VLLMValidationError
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from gateway.engine.fork_server import CONTEXT
from gateway.engine.grammar_process import WALL_FACTOR, Question, Verdict, serve
from gateway.engine.proof import PROOF_PRIORITY
from stepserve.structured_bounds import StructuredLimits, TooMuch, check_text, check_value

log = logging.getLogger(__name__)

_KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_KNOWN_MOST = 4096
_AT_ONCE, _SLOW_AT_ONCE = 4, 4
_WAITING_MOST = 4096  # each waits with 128 KiB at most, and for milliseconds where it is an ordinary one
# The process has to load a tokenizer first, and vLLM before it where it is no fork; a grammar has its own deadline.
_START_S = 180.0
_QUICK_S = 1.0
_BEYOND_DEADLINE_S = 30.0
# xgrammar puts the time and the place in its source before what it says.
_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ")


class GrammarCheck:
    """Of one engine; its methods run in the event loop. The process starts with the first grammar."""

    def __init__(self, client: AsyncLLM, limits: StructuredLimits, *, forked: bool) -> None:
        self._client = client
        self._limits = limits
        self._context: Any = CONTEXT if forked else get_context("spawn")
        self._known: OrderedDict[bytes, str | None] = OrderedDict()
        self._last: tuple[object, frozenset[int]] = (None, frozenset())  # a job's items have one schema, the very same
        self._running: dict[bytes, asyncio.Task[str | None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._slow = 0
        self._sending = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._answers: dict[int, asyncio.Future[Verdict]] = {}
        self._number = 0
        self._probes: set[str] = set()
        self._closed = False

    async def check(self, params: SamplingParams) -> None:
        """Raises VLLMValidationError (400) for what an engine must not be given, GracefulHTTPError (503) where that
        cannot be checked now.
        """
        asked = params.structured_outputs
        if asked is None or asked.all_constraints_none():
            return
        kind = next(name for name in _KINDS if getattr(asked, name) is not None)
        stop_token_ids = self._stop_token_ids(params)
        if asked.json is not None and asked.json is self._last[0] and stop_token_ids == self._last[1]:
            return
        self._bound(kind, asked)
        key = _key(asked, stop_token_ids)
        if key in self._known:
            self._known.move_to_end(key)
            reason = self._known[key]
        else:
            reason = await self._found(key, asked, stop_token_ids)
        if reason is not None:
            raise VLLMValidationError(f"structured_outputs.{kind}: {reason}", parameter=f"structured_outputs.{kind}")
        self._last = (asked.json, stop_token_ids)

    def close(self) -> None:
        """Ends the process; whoever waits for it is refused."""
        self._closed = True
        self._gone()

    def is_probe(self, request_id: str) -> bool:
        """Whether that is a question of `token`'s, whose grammar is known to be harmless."""
        return request_id in self._probes

    async def token(self, token_ids: list[int]) -> None:
        """Returns when the engine has compiled a tiny grammar and made a token by it after those. Starts no process.

        Raises EngineDeadError.
        """
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=StructuredOutputsParams(choice=["0", "1"]),
        )
        request: Any = {"prompt_token_ids": token_ids}
        request_id = f"alive-{uuid.uuid4().hex}"
        self._probes.add(request_id)
        try:
            async for _ in self._client.generate(request, params, request_id, priority=PROOF_PRIORITY):
                pass
        finally:
            self._probes.discard(request_id)

    def _bound(self, kind: str, asked: StructuredOutputsParams) -> None:
        value = getattr(asked, kind)
        field = f"structured_outputs.{kind}"
        try:
            if kind in ("json", "structural_tag") and isinstance(value, str):
                check_text(field, value, self._limits)
            else:
                check_value(field, {kind: value}, self._limits)
        except TooMuch as error:
            raise VLLMValidationError(f"{field}: {error}", parameter=field) from error

    def _stop_token_ids(self, params: SamplingParams) -> frozenset[int]:
        """As the engine will have them: the request's, and those of the model."""
        ends = self._client.input_processor.generation_config_fields.get("eos_token_id")
        own = self._client.renderer.get_eos_token_id()
        more = ends if isinstance(ends, list) else [ends]
        return frozenset(each for each in (*(params.stop_token_ids or ()), own, *more) if each is not None)

    async def _found(self, key: bytes, asked: StructuredOutputsParams, stop_token_ids: frozenset[int]) -> str | None:
        """Why not, or None. Requests that ask for the same wait for one answer; who leaves takes it from no other."""
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= _WAITING_MOST:
                raise _unavailable("Too many new schemas and grammars are being compiled; ask again soon.")
            task = self._running[key] = asyncio.create_task(self._judged(asked, stop_token_ids))
            task.add_done_callback(lambda done: self._note(key, done))
        return await asyncio.shield(task)

    def _note(self, key: bytes, done: asyncio.Task[str | None]) -> None:
        self._running.pop(key, None)
        if done.cancelled() or done.exception() is not None:
            return
        self._known[key] = done.result()
        if len(self._known) > _KNOWN_MOST:
            self._known.popitem(last=False)

    async def _judged(self, asked: StructuredOutputsParams, stop_token_ids: frozenset[int]) -> str | None:
        """Ordinary ones take milliseconds and a place each; one that takes longer leaves its place to the next."""
        number = self._number = self._number + 1
        try:
            async with self._places:
                answer = await self._sent(number, _copy(asked), set(stop_token_ids))
                await asyncio.wait({answer}, timeout=_QUICK_S)
                if not answer.done() and self._slow >= _SLOW_AT_ONCE:
                    await self._send((number, None, None))
                    raise _unavailable(
                        "Too many schemas and grammars that take long are being compiled; ask again soon."
                    )
            self._slow += 1
            try:
                # The process ends a grammar by itself after its deadline; this is for one that does nothing any more.
                async with asyncio.timeout(self._limits.compile_timeout_s * WALL_FACTOR + _BEYOND_DEADLINE_S):
                    verdict = await answer
            finally:
                self._slow -= 1
        except (TimeoutError, OSError) as error:
            self._gone()
            raise _unavailable("The schema could not be checked; ask again soon.") from error
        finally:
            self._answers.pop(number, None)
        if verdict.reason is None:
            return None
        if not verdict.final:
            raise _unavailable(f"The schema {verdict.reason}; ask again soon.")
        log.info("a grammar is refused after %.2f s: %s", verdict.seconds, verdict.reason)
        return _PLACE.sub("", verdict.reason).strip()

    async def _sent(
        self, number: int, asked: StructuredOutputsParams, stop_token_ids: set[int]
    ) -> asyncio.Future[Verdict]:
        await self._ready()
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._send((number, asked, stop_token_ids))
        return answer

    async def _send(self, message: Question) -> None:
        """Raises OSError."""
        connection = self._connection
        if connection is None:
            raise BrokenPipeError
        async with self._sending:
            await asyncio.to_thread(connection.send, message)

    async def _ready(self) -> None:
        """Starts the process unless it runs."""
        async with self._starting:
            if self._connection is not None:
                return
            ours, theirs = self._context.Pipe()
            arguments = (theirs, self._client.vllm_config, self._limits.compile_timeout_s)
            process = self._context.Process(target=serve, args=arguments, name="stepserve-grammars", daemon=True)
            try:
                await asyncio.to_thread(process.start)
                theirs.close()
                if not await asyncio.to_thread(ours.poll, _START_S):
                    raise TimeoutError
                ours.recv()
            except (TimeoutError, OSError, EOFError) as error:
                log.exception("the process that checks grammars did not start")
                ours.close()
                if process.pid is not None:
                    process.kill()
                raise _unavailable("Structured outputs are not available now; ask again soon.") from error
            self._process, self._connection = process, ours
            if self._closed:
                self._gone()
                raise _unavailable("The engine has ended; ask again soon.")
            asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    def _read(self) -> None:
        assert self._connection is not None
        try:
            number, verdict = self._connection.recv()
        except (EOFError, OSError):
            log.warning("the process that checks grammars is gone")
            self._gone()
            return
        answer = self._answers.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(verdict)

    def _gone(self) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection.fileno())  # of none where it has none
            self._connection.close()
        if self._process is not None and self._process.is_alive():
            self._process.kill()
        self._connection = self._process = None
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(_unavailable("The schema could not be checked; ask again soon."))


def _unavailable(message: str) -> GracefulHTTPError:
    return GracefulHTTPError(message, HTTPStatus.SERVICE_UNAVAILABLE)


def _copy(asked: StructuredOutputsParams) -> StructuredOutputsParams:
    """What the request says, without what vLLM has noted in it."""
    said = {name: getattr(asked, name) for name in _KINDS}
    return StructuredOutputsParams(
        **said,
        disable_any_whitespace=asked.disable_any_whitespace,
        disable_additional_properties=asked.disable_additional_properties,
        whitespace_pattern=asked.whitespace_pattern,
    )


def _key(asked: StructuredOutputsParams, stop_token_ids: frozenset[int]) -> bytes:
    said = [getattr(asked, name) for name in (*_KINDS, "disable_any_whitespace", "disable_additional_properties")]
    text = json.dumps([said, asked.whitespace_pattern, sorted(stop_token_ids)])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
