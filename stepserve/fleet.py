"""The contract of a fleet: one control plane and many gateways, its members. JSON over HTTP, both ways.

A *member* is a gateway that has no control of its own. It joins a control plane, sends it heartbeats, and serves what
is committed there. Control drives it through the private API that a gateway on control's own machine has on a Unix
socket: on a member that API lies under MEMBER_PREFIX of its public port, for whoever holds the token of its join.
Times are seconds (`_s`).
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stepserve import __version__
from stepserve.contract import InFlightPolicy, Message, ModelRef, Reference, WeightsVersion
from stepserve.placement import Device

FLEET_PATH = "/fleet"
FLEET_JOIN_PATH = "/fleet/join"
FLEET_HEARTBEAT_PATH = "/fleet/heartbeat"
FLEET_KEYS_PATH = "/fleet/keys"  # the body and the answer of stepserve.access: SyncRequest, SyncAnswer
FLEET_FILES_PATH = "/fleet/files"

MEMBER_PREFIX = "/internal/member"
MEMBER_STAGE_PATH = "/stage"
MEMBER_FILES_PATH = "/files"  # then a digest and a file's name: for other members, with a ticket
GATEWAY_TAKE_PATH = "/weights/take"  # of a gateway's private API
GATEWAY_KEEP_PATH = "/weights/keep"
CONTROL_PUSHES_PATH = "/internal/pushes"  # of control's own socket
KEPT_VERSION_FILE = ".version.json"  # in the folder of a KeptVersion, which is its content
KEPT_DELTA_FILE = ".delta"  # beside it, where the version came as a delta: what came, as in stepserve.delta
WEIGHTS_FILE = "model.safetensors"

LOCAL_MEMBER = "local"
"""The id of the gateway beside control, which never joins: it is on control's machine, over a Unix socket."""

MAX_CLOCK_DIFFERENCE_S = 30.0  # of a member from control: the ends of API keys are moments of the wall clock

MemberState = Literal["joining", "ready", "switching", "draining", "cordoned", "lost"]
"""`joining`: does not serve what is committed yet, and is being brought to it. `ready`: it does, proved; or it does the
model of the rollout that runs, proved. `switching`: takes its turn in a rollout, and answers or holds requests
meanwhile as one box does. `draining`: answers what it has and is to get no more. `cordoned`: kept out, by a person or
by a rollout that it failed in. `lost`: silent for longer than the lease. Requests are for `ready` members, and for
`switching` ones where none is `ready`.
"""
Wave = Literal["1", "25%", "all"]
RolloutPolicy = Literal["all", "quorum"]

MAX_ID_CHARS = 63
MemberId = Annotated[str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_ID_CHARS - 1}}}$")]
Text = Annotated[str, Field(max_length=200)]
Version = Annotated[int, Field(ge=0, lt=2**31)]  # of weights; more does not fit into a row
Labels = Annotated[dict[Annotated[str, Field(min_length=1, max_length=63)], Text], Field(max_length=32)]
Token = Annotated[str, Field(min_length=32, max_length=200)]


class FleetDevice(Message):
    """A card (`kind`: what it is called), or the machine's memory; `free_bytes` when the member joined."""

    name: Text
    kind: Text
    free_bytes: int


def fleet_devices(devices: Sequence[Device]) -> list[FleetDevice]:
    return [FleetDevice(name=each.name, kind=each.kind, free_bytes=each.free_bytes) for each in devices]


class Committed(Message):
    """The active model of the fleet. `version`: of its weights; 0: those of its registered files."""

    model: str
    digest: str
    version: int = 0

    def __eq__(self, other: object) -> bool:
        """Of each member, for each request of a job: a tenth of what pydantic's own takes."""
        if self is other:
            return True
        if not isinstance(other, Committed):
            return NotImplemented
        return (self.digest, self.version, self.model) == (other.digest, other.version, other.model)

    def __hash__(self) -> int:
        return hash((self.digest, self.version, self.model))


class FleetMember(Message):
    """A gateway as GET /fleet shows it.

    `url`: where it is reached; None for control's own gateway (`id` LOCAL_MEMBER), which is reached over its Unix
    socket. `model`, `digest`, `version`: what it serves; None, None, 0: nothing. `reason`: why it is not `ready`.
    """

    id: str
    url: str | None
    zone: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    devices: list[FleetDevice] = Field(default_factory=list)
    state: MemberState
    model: str | None = None
    digest: str | None = None
    version: int = 0
    in_flight: int = 0
    heartbeat_age_s: float
    stepserve_version: str
    vllm_version: str | None = None
    reason: str | None = None


class RolloutStep(Message):
    """One member in a rollout. `error`: why it is `failed`, `lost` or `cordoned`."""

    member: str
    state: Literal["pending", "staging", "staged", "committing", "proved", "failed", "lost"]
    wave: int
    error: str | None = None


class RolloutView(Message):
    """The rollout that runs, or the last one. `version`: of weights that were pushed; 0: a switch to files."""

    id: int
    model: str
    digest: str
    version: int = 0
    previous: str
    policy: RolloutPolicy
    wave: Wave
    state: Literal["staging", "committing", "rolling_back", "committed", "rolled_back"]
    error: str | None = None
    steps: list[RolloutStep]


class FleetView(Message):
    """GET /fleet. `committed` None: no model is active. `lease_s`: after so long a silence a member is lost."""

    gateways: list[FleetMember]
    committed: Committed | None
    rollout: RolloutView | None = None
    lease_s: float


class JoinRequest(Message):
    """A gateway wants to be a member.

    `token`: made by the member for this run; control shows it when it asks the member for something, and the member
    with each heartbeat. `boot_id`: of this run of the gateway. `now_s`: its clock, in seconds since 1970.
    """

    id: MemberId
    url: Annotated[str, Field(min_length=1, max_length=500)]
    token: Token
    boot_id: Text
    zone: Annotated[str, Field(max_length=63)] = ""
    labels: Labels = Field(default_factory=dict)
    devices: Annotated[list[FleetDevice], Field(max_length=64)] = Field(default_factory=list)
    stepserve_version: Text
    vllm_version: Text | None = None
    now_s: Annotated[float, Field(allow_inf_nan=False)]

    @model_validator(mode="before")
    @classmethod
    def _same_version(cls, given: Any) -> Any:
        """Before anything else, as another version's fields may be others."""
        theirs = given.get("stepserve_version", __version__) if isinstance(given, dict) else __version__
        if theirs != __version__:
            raise ValueError(
                f"this gateway runs Stepserve {theirs} and control {__version__}: install the same on both"
            )
        return given


class JoinAnswer(Message):
    """`heartbeat_s`: how often the member is to say that it is there; after `lease_s` of silence it is lost."""

    id: str
    heartbeat_s: float
    lease_s: float
    committed: Committed | None


class HeartbeatRequest(Message):
    """What the member serves now. `model` None: nothing yet. `leaving`: it stops, and is not waited for."""

    id: MemberId
    token: Token
    model: Text | None = None
    digest: Text | None = None
    version: Version = 0
    in_flight: Annotated[int, Field(ge=0)] = 0
    serving: bool = False  # its engine takes requests
    leaving: bool = False


class HeartbeatAnswer(Message):
    """What control makes of the member, which is ready only while this says so."""

    state: MemberState
    reason: str | None = None
    committed: Committed | None


class FileEntry(Message):
    """A file of a model. `name`: in the model's folder, with slashes."""

    name: str
    size_bytes: int
    sha256: str


class FileDelta(Message):
    """A file (KEPT_DELTA_FILE) that makes a version's WEIGHTS_FILE, byte for byte, of that of the digest `base`."""

    base: str
    file: FileEntry


class FileManifest(Message):
    """The files that make a model, an adapter's without its base's. `delta`: a short way to the weights."""

    model: str
    digest: str
    files: list[FileEntry]
    delta: FileDelta | None = None


class FileSource(Message):
    """Another member that has a model's files. `ticket` lets whoever shows it read them there, and nothing else, until
    `expires_s` (since 1970).
    """

    url: str
    ticket: str
    expires_s: int

    @property
    def authorization(self) -> str:
        return f"Ticket {self.expires_s}.{self.ticket}"


def file_ticket(token: str, digest: str, expires_s: int) -> str:
    """For the files of a model with that digest, on the member that joined with `token`, which it does not tell."""
    return hmac.new(token.encode(), f"{digest} {expires_s}".encode(), hashlib.sha256).hexdigest()


class StageRequest(Message):
    """Has a member get a model's files: its own where they lie at the same path, or another's.

    `manifests` has the model's, and its base's where it is an adapter. `source`: who sends the model's, control if that
    fails; None: control.
    """

    model: ModelRef
    manifests: list[FileManifest]
    source: FileSource | None = None


class KeptVersion(Message):
    """Weights that were pushed, as a checkpoint on disk, for gateways to serve in place of the registered files.

    `files_digest`: of those files; `digest`: what a registration of these weights would have. `folder` is absolute, and
    holds all of them in one file, WEIGHTS_FILE. `delta_base`: the digest of the version that KEPT_DELTA_FILE is for;
    None: there is no such file. `reference`: what the trainer says that they answer. `timeout_s`: how long the requests
    inside may take to end.
    """

    model: str
    files_digest: str
    digest: str
    version: WeightsVersion
    folder: str
    delta_base: str | None = None
    reference: Reference | None = None
    in_flight: InFlightPolicy = "finish"
    timeout_s: float = 300.0


class StageAnswer(Message):
    """The model with the paths of the member's machine. `fetched_bytes`: how much came over the network."""

    model: ModelRef
    fetched_bytes: int = 0
