"""Settings of a fleet: how a gateway joins a control plane, and how long control waits for its members."""

import ssl
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from stepserve.address import normal_url
from stepserve.fleet import LOCAL_MEMBER, Labels, MemberId


class FleetSettings(BaseModel):
    """`control`: the control plane's URL; set, the gateway is a member there and has no control of its own
    (`stepserve join` sets it). `api_key`: a key of that control plane with the scope `fleet`.

    `control_socket`: control's own socket, where it is on the same machine: no key is needed there, and the head may be
    away (`stepserve up --replicas` sets it).

    `id`: the member's name (default: the machine's name and the port). `advertise`: the URL at which control and a
    balancer reach this gateway (default: the address that leads to control). `ca_file`: a PEM file of authorities that
    certificates within the fleet may be signed by, in addition to the system's. `lease_s`: of control: after so long a
    silence a member is lost. `step_timeout_s`: of control: so long one member may take, in a switch or a push, to get
    its files, and again to load and prove them, before it has failed. `job_share`: of control: the share of all
    gateways that may be set apart for jobs whose model is not active, where none has room for it beside; 0: none.
    `send_bytes_per_s`: of control: how fast files go to all members together; None: as fast as it goes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    control: str | None = None
    control_socket: Path | None = None
    api_key: SecretStr | None = None
    id: MemberId | None = None
    zone: Annotated[str, Field(max_length=63)] = ""
    labels: Labels = Field(default_factory=dict)
    advertise: str | None = None
    ca_file: Path | None = None
    lease_s: Annotated[float, Field(ge=1, le=3600)] = 10.0
    send_bytes_per_s: Annotated[int, Field(ge=1_000_000)] | None = None
    job_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    step_timeout_s: Annotated[float, Field(gt=0, le=86400)] = 3600.0

    @field_validator("control", "advertise")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        return url if url is None else normal_url(url)

    @field_validator("id")
    @classmethod
    def _is_not_controls_own(cls, name: str | None) -> str | None:
        if name == LOCAL_MEMBER:
            raise ValueError(f"{LOCAL_MEMBER!r} is the gateway on control's machine: choose another name")
        return name

    @field_validator("ca_file")
    @classmethod
    def _holds_certificates(cls, file: Path | None) -> Path | None:
        if file is not None:
            try:
                ssl.create_default_context(cafile=file)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(f"{file} is not a PEM file of certificates: {error}") from error
        return file

    @model_validator(mode="after")
    def _socket_has_a_control(self) -> Self:
        if self.control_socket is not None and self.control is None:
            raise ValueError("fleet.control_socket is the way to fleet.control, which is not set")
        return self

    @property
    def heartbeat_s(self) -> float:
        """Several fit into a lease, so that one that is late loses no member."""
        return self.lease_s / 5

    def tls(self) -> ssl.SSLContext:
        """What the fleet's own connections are verified by. Reading the system's authorities takes 60 ms."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context
