"""Everything a route may ask for, wired once by control.app."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from control.access.audit_log import AuditLog
from control.access.dataset_owners import DatasetOwners
from control.access.key_book import KeyBook
from control.access.usage_book import UsageBook
from control.activation.activator import Activator
from control.batches.files import FileStore
from control.batches.kind import BatchKind
from control.gateway_client import GatewayClient
from control.jobs.queue import JobQueue
from control.jobs.runner import JobRunner
from control.jobs.submission import JobSubmission
from control.models.activation_log import ActivationLog
from control.models.eval_history import EvalHistory
from control.models.loading import Loading
from control.models.registry import Registry
from control.power.governor import Governor
from control.registration.registrar import Registrar
from control.registration.uploads.uploads import Uploads
from control.shards.inbox import ShardInbox
from control.telemetry.telemetry import Telemetry
from stepserve.loop_lag import LoopLag
from stepserve.paths import Layout
from stepserve.settings import Alias


@dataclass(frozen=True, slots=True)
class Services:
    layout: Layout
    registry: Registry
    activator: Activator
    history: ActivationLog
    gateway: GatewayClient
    loading: Loading
    submission: JobSubmission
    queue: JobQueue
    runner: JobRunner
    inbox: ShardInbox
    uploads: Uploads
    registrar: Registrar
    telemetry: Telemetry
    governor: Governor
    evals: EvalHistory
    keys: KeyBook
    usage: UsageBook
    audit: AuditLog
    files: FileStore
    batch_kind: BatchKind
    lag: LoopLag
    aliases: Mapping[str, Alias]
    dataset_owners: DatasetOwners
    isolate_keys: bool


def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


Wired = Annotated[Services, Depends(_services)]
