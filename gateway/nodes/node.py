"""A node as its head sees it, and the order that several of them carry out together."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.nodes.link import Link, LinkLost
from gateway.nodes.messages import Check, Checked, End, Ended, Hello, Start, Started

_numbers = itertools.count(1)


class Order:
    """One model's share of ranks on each of `nodes`; it has failed as soon as one of them has."""

    def __init__(self, model_id: str, nodes: Sequence["Node"]) -> None:
        self.model_id = model_id
        self.nodes = list(nodes)
        self.number = next(_numbers)
        self._failed = asyncio.Event()
        self.reason: str | None = None

    def fail(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._failed.set()

    async def failed(self) -> str:
        """Returns when it has, saying why."""
        await self._failed.wait()
        assert self.reason is not None
        return self.reason


@dataclass(eq=False, slots=True)
class Node:
    """`order`: what it carries out; None: it is free."""

    hello: Hello
    link: Link
    order: Order | None = None
    lost: str | None = None
    _answers: dict[int, asyncio.Future[Checked | Started | Ended]] = field(default_factory=dict)

    @property
    def is_free(self) -> bool:
        return self.order is None and self.lost is None

    @property
    def name(self) -> str:
        return f"{self.hello.name} ({self.hello.address})"

    async def check(self, path: str) -> Checked:
        """Raises LinkLost."""
        answer = await self._ask(Check(number=next(_numbers), path=path))
        assert isinstance(answer, Checked)
        return answer

    async def start(self, start: Start) -> Started:
        """Raises LinkLost."""
        answer = await self._ask(start)
        assert isinstance(answer, Started)
        return answer

    async def end(self, order: Order) -> None:
        """Returns when the order's ranks are gone. Raises LinkLost."""
        await self._ask(End(number=order.number))

    async def _ask(self, question: Check | Start | End) -> Checked | Started | Ended:
        if self.lost is not None:
            raise LinkLost(self.lost)
        answer: asyncio.Future[Checked | Started | Ended] = asyncio.get_running_loop().create_future()
        self._answers[question.number] = answer
        self.link.send(question)
        try:
            return await answer
        finally:
            self._answers.pop(question.number, None)

    async def listen(self) -> None:
        """Takes what it says, until it is lost."""
        try:
            while True:
                message = await self.link.receive()
                if isinstance(message, Checked | Started | Ended):
                    self._take(message)
        except LinkLost as error:
            self.lose(str(error))

    def lose(self, reason: str) -> None:
        self.lost = self.lost or reason
        self.link.close()
        if self.order is not None:
            self.order.fail(f"the node {self.name} is lost: {self.lost}")
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(LinkLost(self.lost))

    def _take(self, message: Checked | Started | Ended) -> None:
        answer = self._answers.get(message.number)
        if answer is not None and not answer.done():
            answer.set_result(message)
        elif isinstance(message, Ended) and self.order is not None and self.order.number == message.number:
            self.order.fail(f"on the node {self.name} {message.reason}")
