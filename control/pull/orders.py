"""What control and the program that speaks with the hub say to each other: one order in, JSON lines out."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from control.pull.selection import RemoteFile

FailureKind = Literal["away", "busy", "refused", "corrupt", "disk"]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ListOrder(_Line):
    """Asks for a repository's files and its small configuration files. `hosts`: to which the hub may send us on though
    they are not public."""

    command: Literal["list"] = "list"
    repository: str
    revision: str
    token: str | None
    hosts: list[str]
    timeout_s: int


class FetchOrder(_Line):
    """Asks for files of one commit, into `folder`; what is there already is kept, what is half there gone on with."""

    command: Literal["fetch"] = "fetch"
    repository: str
    commit: str
    token: str | None
    hosts: list[str]
    folder: str
    files: list[RemoteFile]


class Order(BaseModel):
    order: Annotated[ListOrder | FetchOrder, Field(discriminator="command")]


class Listing(_Line):
    """A repository at one commit. `config` and `adapter_config` are the contents of those files, None without them."""

    event: Literal["listing"] = "listing"
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]  # it becomes part of a path
    files: list[RemoteFile]
    config: dict[str, object] | None
    adapter_config: dict[str, object] | None


class Progress(_Line):
    """Bytes that are there, of all files of the order."""

    event: Literal["progress"] = "progress"
    done_bytes: int


class Finished(_Line):
    event: Literal["finished"] = "finished"


class Failure(_Line):
    event: Literal["failure"] = "failure"
    kind: FailureKind
    text: str


class Said(BaseModel):
    said: Annotated[Listing | Progress | Finished | Failure, Field(discriminator="event")]
