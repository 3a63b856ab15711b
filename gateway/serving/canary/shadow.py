"""Shadow requests: the candidate is asked again what the active model has answered, and nobody gets its answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from gateway.errors import GatewayError
from gateway.serving.canary.guards import Arm
from gateway.serving.canary.losses import CHAT, COMPLETIONS, answered_text
from stepserve.contract import AskItem, AskOutput, AskRequest, AskResult, Continuations, ModelRef, TextScore

AT_ONCE = 4
"""So many shadows at most; a request that comes meanwhile gets none, so that shadows never pile up."""
PATHS = frozenset({CHAT, COMPLETIONS})
_OWN = frozenset({"stream", "stream_options", "priority"})

Ask = Callable[[AskRequest], Awaitable[AskResult]]
Score = Callable[[ModelRef, Continuations], Awaitable[TextScore | None]]


@dataclass(frozen=True, slots=True)
class Answered:
    """What the active model was asked, and said."""

    model: ModelRef
    path: str
    body: bytes
    answer: bytes


class Shadowed(Protocol):
    """Who counts what came of it."""

    def compared(self, *, same: bool) -> None: ...
    def take_both(self, answered: Answered, candidate: bytes) -> None: ...
    def judge(self) -> None: ...


class Shadows:
    """Asks below interactive traffic, of a context of its own: no key is charged, no request waits for it.

    `score`: how likely a model holds a text; None: nobody can say.
    """

    def __init__(self, ask: Ask, score: Score | None = None) -> None:
        self._ask = ask
        self._score = score
        self._running: set[asyncio.Task[None]] = set()

    def start(self, model: ModelRef, answered: Answered, arms: tuple[Arm, Arm], whom: Shadowed) -> None:
        """`arms`: of the candidate, which `model` is, and of the active model. Does nothing where they cannot be
        compared.
        """
        content = _decoded(answered.answer)
        texts = _texts_in(content)
        if answered.path not in PATHS or texts is None or len(self._running) >= AT_ONCE:
            return
        work = self._one(model, answered, content, texts, arms, whom)
        task = asyncio.get_running_loop().create_task(work, name="shadow", context=Context())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _one(
        self,
        model: ModelRef,
        answered: Answered,
        content: Any,
        texts: list[str],
        arms: tuple[Arm, Arm],
        whom: Shadowed,
    ) -> None:
        arm, path = arms[0], answered.path
        asked = {key: value for key, value in msgspec.json.decode(answered.body).items() if key not in _OWN}
        request = AskRequest(model=model.id, digest=model.digest, items=[AskItem(path=path, body=asked)])
        began_s = time.monotonic()
        try:
            (output,) = (await self._ask(request)).outputs
        except GatewayError as error:
            if error.status < 500 or error.status == 503:  # it is not loaded any more, or there is no place now
                return
            arm.failed()
        else:
            self._note(output, time.monotonic() - began_s, texts, arm, whom, answered)
        whom.judge()
        text = answered_text(path, asked, content)
        if text is not None and self._score is not None:
            await self._compare_losses((model, answered.model), text, arms, self._score)

    async def _compare_losses(
        self, models: tuple[ModelRef, ModelRef], text: Continuations, arms: tuple[Arm, Arm], score: Score
    ) -> None:
        """Of the answer that the client got, where both models have a score of the same tokens."""
        new, old = [await score(model, text) for model in models]
        if new is None or old is None or new.tokens != old.tokens:
            return
        for arm, found in zip(arms, (new, old), strict=True):
            assert found.logprob is not None
            arm.scored(found.logprob, found.tokens)

    def _note(
        self, output: AskOutput, took_s: float, texts: list[str], arm: Arm, whom: Shadowed, answered: Answered
    ) -> None:
        if output.status >= 500:
            arm.failed()
            return
        said = _texts_in(output.body) if output.status == 200 else None
        if said is not None:
            usage = output.body.get("usage") if isinstance(output.body, dict) else None
            arm.answered(took_s, usage.get("completion_tokens") if isinstance(usage, dict) else None)
            whom.compared(same=said == texts)
            whom.take_both(answered, msgspec.json.encode(output.body))


def _decoded(answer: bytes) -> Any:
    """None: it is not JSON."""
    try:
        return msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _texts_in(content: Any) -> list[str] | None:
    """The texts of the choices of a whole answer; None: it has none."""
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices:
        return None
    texts = []
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        text = message.get("content") if isinstance(message, dict) else choice.get("text")
        texts.append(text if isinstance(text, str) else "")
    return texts
