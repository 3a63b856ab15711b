"""What a replica takes of a cluster, and where it finds the server."""

from stepserve.address import is_everywhere, is_loopback
from stepserve.engine_arguments import ranks_of
from stepserve.installed_vllm import is_cpu_build
from stepserve.settings import Settings


class ClusterRefused(Exception):
    """The cluster cannot be used; the text is a sentence that says why and what to do."""


def bundle_of(settings: Settings) -> dict[str, float]:
    """What Ray sets apart for one replica, by Ray's names. Raises ClusterRefused."""
    ranks = ranks_of(settings.engine.args)
    gpus = settings.replicas.gpus_each or (0 if is_cpu_build() else ranks)
    if 0 < gpus < ranks:
        raise ClusterRefused(
            f"--gpus-per-replica {gpus}: the setting engine.args makes a model take {ranks} cards; give each replica as"
            " many."
        )
    return {"CPU": 1.0} | ({"GPU": float(gpus)} if gpus else {})


def control_url(settings: Settings, here: str, nodes: set[str]) -> str:
    """`here`: this machine's address in the cluster; `nodes`: those of all. Raises ClusterRefused."""
    if settings.fleet.advertise is not None:
        return settings.fleet.advertise
    host = here if is_everywhere(settings.host) else settings.host
    if is_loopback(host) and (others := sorted(each for each in nodes if each != here and not is_loopback(each))):
        raise ClusterRefused(
            f"The server listens on {host} alone, and replicas on {others[0]} could not reach it: set INFERENCE_HOST,"
            " or INFERENCE_FLEET__ADVERTISE to a URL that leads here."
        )
    scheme = "https" if settings.tls.on else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
