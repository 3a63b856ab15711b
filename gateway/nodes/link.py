"""The connection of a node to its head: lines both ways, a proof of the key at its beginning, and an end by silence."""

import asyncio
import hashlib
import hmac
import secrets
from typing import TypeVar

from pydantic import ValidationError

from gateway.nodes.messages import LINE, Alive, Challenge, Hello, Line, Welcome

BEAT_S = 2.0
SILENCE_S = 15.0  # after so long a machine is taken for lost
LONGEST_LINE_BYTES = 8 * 1024**2  # a model with its chat template

Kind = TypeVar("Kind")


class LinkLost(Exception):
    """The other side is gone, silent, or says what cannot be understood; the text says which."""


class Link:
    """One reader at a time; whoever sends does not wait."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silence_s: float = SILENCE_S
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._silence_s = silence_s

    @property
    def peer(self) -> str:
        """The other side's address, as this side sees it."""
        return str(self._writer.get_extra_info("peername", ("?",))[0])

    def send(self, message: Line) -> None:
        self._writer.write(message.model_dump_json().encode() + b"\n")

    async def receive(self) -> Line:
        """The next message but for signs of life. Raises LinkLost."""
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    line = await self._reader.readline()
            except TimeoutError:
                raise LinkLost(f"it was silent for {self._silence_s:.0f} s") from None
            except (OSError, ValueError) as error:
                raise LinkLost(f"the connection failed ({error})") from error
            if not line.endswith(b"\n"):
                raise LinkLost("the connection was closed")
            try:
                message = LINE.validate_json(line)
            except ValidationError:
                raise LinkLost("it sends what is not understood") from None
            if not isinstance(message, Alive):
                return message

    async def expect(self, kind: type[Kind]) -> Kind:
        """Raises LinkLost, also where the next message is of another kind."""
        message = await self.receive()
        if not isinstance(message, kind):
            raise LinkLost(f"it answers with {type(message).__name__} instead of {kind.__name__}")
        return message

    async def beat(self) -> None:
        """Gives signs of life until it is cancelled."""
        while True:
            self.send(Alive())
            await asyncio.sleep(BEAT_S)

    async def flush(self) -> None:
        """Waits until what was sent is with the system."""
        try:
            async with asyncio.timeout(BEAT_S):
                await self._writer.drain()
        except OSError:
            return  # TimeoutError too: the other side does not read

    def close(self) -> None:
        self._writer.close()


def new_nonce() -> str:
    return secrets.token_hex(16)


def node_proof(key: str, challenge: Challenge, nonce: str) -> str:
    """What only a node with the key can answer to the challenge."""
    return _proof(key, f"node {challenge.nonce} {nonce}")


def head_proof(key: str, challenge: Challenge, hello_nonce: str) -> str:
    """What only a head with the key can answer to the node's nonce."""
    return _proof(key, f"head {challenge.nonce} {hello_nonce}")


def has_key(key: str, challenge: Challenge, hello: Hello) -> bool:
    return hmac.compare_digest(hello.proof.encode(), node_proof(key, challenge, hello.nonce).encode())


def is_head(key: str, challenge: Challenge, hello_nonce: str, welcome: Welcome) -> bool:
    return hmac.compare_digest(welcome.proof.encode(), head_proof(key, challenge, hello_nonce).encode())


def _proof(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
