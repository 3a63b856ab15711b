"""Settings of `stepserve up --replicas`: how many gateways one control plane starts, and what each of them gets."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_REPLICAS = 64
_NAME = "replica-"


class ReplicaSettings(BaseModel):
    """`count`: gateways on this machine, the server's own among them; each has devices that no other has.
    `gpus_each`: cards of each (default: as many as a model takes by `engine.args`). `first_port`: of the second
    gateway, the others come after it (default: the one after the server's own).

    `ray`: the address of a Ray cluster that runs them instead, in addition to the server's own gateway; `auto`: of the
    cluster that this machine is a node of. `placement`: over as many of its nodes as there are, or on few.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    count: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = 1
    gpus_each: Annotated[int, Field(ge=1, le=64)] | None = None
    first_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    ray: Annotated[str, Field(min_length=1)] | None = None
    placement: Literal["spread", "pack"] = "spread"

    @property
    def members(self) -> list[str]:
        """The ids of the gateways that are started in addition to the server's own."""
        numbers = range(2 if self.ray is None else 1, self.count + 1)
        return [f"{_NAME}{number}" for number in numbers]

    def is_former(self, member_id: str) -> bool:
        """Whether a start with more replicas has named it so, and this one starts none of that name."""
        number = member_id.removeprefix(_NAME)
        return number != member_id and number.isdecimal() and member_id not in self.members
