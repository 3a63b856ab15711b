"""What head and node send each other: one JSON object a line. Each has a `kind`, by which it is read."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from stepserve.contract import EngineOverrides, Message, ModelRef


class Challenge(Message):
    """The head's first words."""

    kind: Literal["challenge"] = "challenge"
    nonce: str


class Hello(Message):
    """The node's answer. `proof`: that it has the key, for both nonces. `devices`: on how many of them ranks can be.

    `boot_id`: of its process, so that one that comes back takes its former connection's place.
    """

    kind: Literal["hello"] = "hello"
    nonce: str
    proof: str
    boot_id: str
    name: str
    address: str
    stepserve: str
    vllm: str
    build: Literal["cpu", "cuda"]
    devices: int


class Welcome(Message):
    """It has joined; the head has the key too."""

    kind: Literal["welcome"] = "welcome"
    proof: str


class Unwelcome(Message):
    """It cannot join, and to try again is vain."""

    kind: Literal["unwelcome"] = "unwelcome"
    reason: str


class Check(Message):
    """What is the content of the checkpoint, or adapter, in that folder?"""

    kind: Literal["check"] = "check"
    number: int
    path: str


class Checked(Message):
    kind: Literal["checked"] = "checked"
    number: int
    digest: str | None = None
    reason: str | None = None


class Start(Message):
    """Run the ranks of node `node_rank` of this model. `settings`: those of every engine, as JSON."""

    kind: Literal["start"] = "start"
    number: int
    model: ModelRef
    settings: dict[str, Any]
    node_rank: int
    master_address: str
    master_port: int

    @property
    def model_there(self) -> ModelRef:
        """The model with what vLLM has to be told on that node, and nobody else may say."""
        overrides = self.model.engine or EngineOverrides()
        own = {
            "node_rank": self.node_rank,
            "master_addr": self.master_address,
            "master_port": self.master_port,
        }
        return self.model.model_copy(update={"engine": overrides.model_copy(update={"args": overrides.args | own})})


class Started(Message):
    """`reason`: why it is not."""

    kind: Literal["started"] = "started"
    number: int
    reason: str | None = None


class End(Message):
    kind: Literal["end"] = "end"
    number: int


class Ended(Message):
    """The ranks of that order are gone, also where nobody asked for that."""

    kind: Literal["ended"] = "ended"
    number: int
    reason: str


class Alive(Message):
    kind: Literal["alive"] = "alive"


Line = Annotated[
    Challenge | Hello | Welcome | Unwelcome | Check | Checked | Start | Started | End | Ended | Alive,
    Field(discriminator="kind"),
]
LINE: TypeAdapter[Line] = TypeAdapter(Line)
