"""Several gateways on one machine: which cards or cores, which port and which folder each of them has.

The first is the server's own, the head of a fleet; the others are members that its control drives as it drives members
on other machines (decision 0086).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepserve.address import is_everywhere, loopback_for
from stepserve.devices import VISIBLE_VARIABLE, cores_here, devices_here
from stepserve.engine_arguments import ranks_of
from stepserve.installed_vllm import is_cpu_build
from stepserve.named_templates import SUFFIX
from stepserve.paths import Layout
from stepserve.placement import Device
from stepserve.setting_sources import PREFIX, config_file
from stepserve.settings import Settings

_LAST_PORT = 65535
_LOOPBACK = "127.0.0.1"


class ReplicasRefused(Exception):
    """So many gateways cannot run here; the text is a sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one gateway computes on. `cards` as CUDA_VISIBLE_DEVICES names them; none: it has `cores` alone."""

    cards: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Replica:
    """A gateway in addition to the head's own, a member that listens on the loopback address."""

    id: str
    port: int
    share: Share
    base: Path

    @property
    def layout(self) -> Layout:
        return Layout(base=self.base, models=self.base / "models")

    @property
    def url(self) -> str:
        return f"http://{_LOOPBACK}:{self.port}"


@dataclass(frozen=True, slots=True)
class Replicas:
    """`head`: what the head's own gateway gets; None: there are no others, and it takes what it finds."""

    head: Share | None = None
    members: tuple[Replica, ...] = ()


def replicas_of(settings: Settings, environment: Mapping[str, str]) -> Replicas:
    """Asks the machine for its devices. Blocks for a moment. Raises ReplicasRefused."""
    count = settings.replicas.count
    if count == 1 or settings.replicas.ray is not None:
        return Replicas()
    ports = _ports(settings)
    head, *others = _shares(settings, environment)
    folder = settings.layout.replicas
    members = (
        Replica(name, port, share, folder / name)
        for name, port, share in zip(settings.replicas.members, ports, others, strict=True)
    )
    return Replicas(head, tuple(members))


def card_groups(cards: Sequence[Device], count: int, each: int) -> list[tuple[str, ...]]:
    """`count` groups of `each` cards: no card is in two of them, and all of a group are of one kind.

    Raises ReplicasRefused.
    """
    kinds: dict[str, list[str]] = {}
    for card in cards:
        kinds.setdefault(card.kind, []).append(card.name)
    groups = [
        tuple(names[begin : begin + each])
        for names in kinds.values()
        for begin in range(0, len(names) - each + 1, each)
    ]
    if len(groups) < count:
        of_a_kind = f" of one kind ({', '.join(kinds)})" if len(kinds) > 1 and each > 1 else ""
        raise ReplicasRefused(
            f"{count} replicas of {_counted(each, 'card')}{of_a_kind} do not fit on {_counted(len(cards), 'card')}:"
            f" {len(groups)} would. Start fewer with --replicas, or give each fewer with --gpus-per-replica."
        )
    return groups[:count]


def core_groups(cores: Sequence[int], count: int, each: int) -> list[tuple[int, ...]]:
    """All cores, neighbours together, in `count` groups of at least `each`. Raises ReplicasRefused."""
    if len(cores) < count * each:
        raise ReplicasRefused(
            f"{count} replicas need {_counted(count * each, 'core')}, and there are {len(cores)}: start fewer with"
            " --replicas."
        )
    size, larger = divmod(len(cores), count)
    ends = [(number + 1) * size + min(number + 1, larger) for number in range(count)]
    return [tuple(cores[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


def _shares(settings: Settings, environment: Mapping[str, str]) -> Iterator[Share]:
    replicas = settings.replicas
    ranks = ranks_of(settings.engine.args)
    each = replicas.gpus_each or ranks
    if is_cpu_build():
        if replicas.gpus_each is not None:
            raise ReplicasRefused("--gpus-per-replica: vLLM's CPU build is installed here, which uses no card.")
        yield from (Share(cores=cores) for cores in core_groups(cores_here(), replicas.count, ranks))
        return
    if each < ranks:
        raise ReplicasRefused(
            f"--gpus-per-replica {each}: the setting engine.args makes a model take {ranks} cards; give each replica as"
            " many."
        )
    yield from (Share(cards=cards) for cards in card_groups(_cards(environment), replicas.count, each))


def _cards(environment: Mapping[str, str]) -> list[Device]:
    """Those that were left to this server, by the names that they have there; a part of a card (MIG) by its id.

    Raises ReplicasRefused.
    """
    cards = [device for device in devices_here() if device.kind != "cpu"]
    named = [name.strip() for name in environment.get(VISIBLE_VARIABLE, "").split(",") if name.strip()]
    if named and len(cards) != len(named):
        return [Device(name, 0) for name in named]
    if named:
        return [Device(name, card.free_bytes, card.kind) for name, card in zip(named, cards, strict=True)]
    if not cards:
        raise ReplicasRefused("No card was found to share out among replicas: `stepserve doctor` says what is wrong.")
    return [replace(card, name=card.uuid) if ":" in card.name else card for card in cards]


def _ports(settings: Settings) -> range:
    """Of the members. Raises ReplicasRefused."""
    first = settings.replicas.first_port or settings.port + 1
    ports = range(first, first + settings.replicas.count - 1)
    if ports[-1] > _LAST_PORT:
        raise ReplicasRefused(
            f"The replicas' ports {first} to {ports[-1]} go beyond {_LAST_PORT}: set replicas.first_port."
        )
    taken = {settings.port: "port"} | ({settings.ui_port: "ui_port"} if settings.ui else {})
    for port, name in taken.items():
        if port in ports:
            raise ReplicasRefused(
                f"The replicas' ports {first} to {ports[-1]} include {name} {port}: set replicas.first_port."
            )
    return ports


def environment_of_share(share: Share, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a gateway that has these devices alone. CUDA counts cards as nvidia-smi does only when told."""
    if not share.cards:
        return dict(environment)
    order = {} if environment.get(VISIBLE_VARIABLE) else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**environment, **order, VISIBLE_VARIABLE: ",".join(share.cards)}


def environment_of(replica: Replica, settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a member of the server that has these `settings`.

    It has them too, but for where it keeps things and listens. Between the head and its members nothing leaves the
    machine, so they speak without TLS.
    """
    own: dict[str, object] = {
        "BASE_DIR": replica.base,
        "MODELS_DIR": replica.layout.models,
        "HOST": _LOOPBACK,
        "PORT": replica.port,
        "UI": False,
        "TLS": '{"cert_file": null, "key_file": null}',
        "REPLICAS__COUNT": 1,
        "FLEET__CONTROL": _url_of(settings),
        "FLEET__CONTROL_SOCKET": settings.layout.control_socket,
        "FLEET__ID": replica.id,
        "FLEET__ADVERTISE": replica.url,
    }
    if (file := config_file(environment)) is not None:  # one in the base directory would not be found from another
        own["CONFIG"] = file.absolute()
    if (template := _own_template(settings)) is not None:
        own["DEFAULT_CHAT_TEMPLATE"] = template
    inherited = {name: value for name, value in environment.items() if not name.upper().startswith(f"{PREFIX}TLS__")}
    named = {f"{PREFIX}{name}": str(value) for name, value in own.items()}
    return {**environment_of_share(replica.share, inherited), **named}


def _url_of(settings: Settings) -> str:
    """Of the head, as it is told to people; members themselves take control's socket."""
    host = loopback_for(settings.host) if is_everywhere(settings.host) else settings.host
    scheme = "https" if settings.tls.on else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _own_template(settings: Settings) -> Path | None:
    """The file of the default chat template, where it is one of the base directory."""
    name = settings.default_chat_template
    if name is None or "/" in name or "\n" in name:
        return None
    file = settings.layout.templates / f"{name.removesuffix(SUFFIX)}{SUFFIX}"
    return file if file.is_file() else None


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
