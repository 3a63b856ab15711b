"""`python -m stepserve.starters.ray_cluster`: asks a Ray cluster for the replicas of a server, and says where they are.

`stepserve up --ray` supervises it. Ray places one actor for each replica, and places it again when its node is lost;
they all end with this process, by whatever it ends.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import ray
import ray.util.scheduling_strategies
import setproctitle

from stepserve import logs
from stepserve.child import EXIT_REFUSED
from stepserve.privacy import make_private
from stepserve.process import follow_parent
from stepserve.setting_origins import load
from stepserve.settings import Settings
from stepserve.starters.fleet_key import fleet_key
from stepserve.starters.order import order_of
from stepserve.starters.placing import ClusterRefused, bundle_of, control_url
from stepserve.starters.replica_actor import ReplicaActor, Report

log = logging.getLogger("stepserve.ray")

_LOOK_EVERY_S = 2.0
_ANSWER_S = 5.0
_REMIND_S = 30.0
_STRATEGIES = {"spread": "SPREAD", "pack": "PACK"}


class Cluster:
    """A connection to the cluster that the settings name. `stop`: set when everything is to end."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._group: Any = None
        self._actors: dict[str, Any] = {}
        self._said: dict[str, str] = {}

    def run(self) -> None:
        """Until `stop`; then ends the replicas. Raises ClusterRefused."""
        control = self._control_url()
        bundle = bundle_of(self._settings)
        count = self._settings.replicas.count
        strategy = _STRATEGIES[self._settings.replicas.placement]
        self._group = ray.util.placement_group([bundle] * count, strategy=strategy)
        try:
            if self._has_room(count, bundle):
                self._begin(control, bundle, fleet_key(self._settings, self._stop))
                while not self._stop.wait(_LOOK_EVERY_S):
                    self._look()
        finally:
            self._end()

    def _control_url(self) -> str:
        """Where the nodes reach the server. Raises ClusterRefused."""
        settings = self._settings
        here = str(ray.util.get_node_ip_address())
        nodes = {str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]}
        return control_url(settings, here, nodes)

    def _has_room(self, count: int, bundle: dict[str, float]) -> bool:
        """Waits for it, as a cluster may grow. False: it is time to end."""
        waited_s = 0.0
        while not self._group.wait(timeout_seconds=1):
            if self._stop.is_set():
                return False
            if waited_s % _REMIND_S == 0:
                there = {name: ray.cluster_resources().get(name, 0) for name in bundle}
                _tell(f"waiting for room: {count} replicas take {_words(bundle)} each, and the cluster has"
                      f" {_words(there)}, taken or not")  # fmt: skip
            waited_s += 1.0
        return True

    def _begin(self, control: str, bundle: dict[str, float], key: str | None) -> None:
        strategies = ray.util.scheduling_strategies
        kind = ray.remote(ReplicaActor)
        for number, name in enumerate(self._settings.replicas.members):
            place = strategies.PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            options = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0), "scheduling_strategy": place}
            actor = kind.options(**options, max_restarts=-1, max_concurrency=2)
            self._actors[name] = actor.remote(order_of(self._settings, name, control, key))

    def _look(self) -> None:
        """Says of each replica where it is, when that has changed."""
        asked = {name: actor.report.remote() for name, actor in self._actors.items()}
        for name, answer in asked.items():
            try:
                said = _in_words(ray.get(answer, timeout=_ANSWER_S))
            except ray.exceptions.RayError:
                said = "is not there: Ray places it (again) when there is room"
            if said != self._said.get(name):
                self._said[name] = said
                _tell(f"{name} {said}")

    def _end(self) -> None:
        timeout_s = self._settings.drain_timeout_s
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get([actor.stop.remote(timeout_s) for actor in self._actors.values()], timeout=timeout_s)
        for actor in self._actors.values():
            ray.kill(actor)
        ray.util.remove_placement_group(self._group)


def _in_words(report: Report) -> str:
    if report.trouble is not None:
        return f"does not run on {report.node}: {report.trouble}"
    return f"runs on {report.node}, port {report.port}"


def _words(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _tell(text: str) -> None:
    log.info("%s", text)
    print(f"ray: {text}", flush=True)


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[None]:
    """Raises ClusterRefused."""
    address = settings.replicas.ray
    try:
        ray.init(address=address, namespace="stepserve", log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[:1]
        raise ClusterRefused(
            f"No Ray cluster can be reached at {address} (replicas.ray): {first[0] if first else error!r}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def main() -> int:
    make_private()
    setproctitle.setproctitle("stepserve: ray")
    follow_parent(signal.SIGTERM)
    settings = load()
    logs.configure("ray", settings)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it has nothing to read again
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a private box does not phone home
    stop = threading.Event()
    try:
        with connected(settings):
            for number in (signal.SIGTERM, signal.SIGINT):  # Ray has set its own
                signal.signal(number, lambda *_: stop.set())
            Cluster(settings, stop).run()
    except ClusterRefused as error:
        print(error, file=sys.stderr, flush=True)
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
