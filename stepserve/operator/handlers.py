"""What kopf calls for a CheckpointRollout: one handler, for whatever happened to it."""

import logging
from datetime import UTC, datetime
from typing import Any

import kopf

from stepserve.operator.driver import Advance, Driver, refused
from stepserve.operator.observer import Observer
from stepserve.operator.rollout import GROUP, PLURAL, VERSION, Rollout, RolloutStatus, SpecRefused, status_of

_AGAIN = "Handler 'reconcile' failed temporarily: "
_PREFIX = f"kopf.{GROUP}"
_REQUEST_TIMEOUT_S = 30.0
_AFTER_A_FAULT_S = 10.0


def settings_of() -> kopf.OperatorSettings:
    """kopf's own notes are annotations, since the status has a schema; it needs to list no namespaces and no CRDs."""
    settings = kopf.OperatorSettings()
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=_PREFIX)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=_PREFIX, key="last-handled")
    settings.posting.reporting_component = "stepserve-operator"
    settings.posting.event_name_prefix = "checkpointrollout-"
    settings.scanning.disabled = True
    settings.networking.request_timeout = _REQUEST_TIMEOUT_S
    return settings


def registry_of(driver: Driver, observer: Observer) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**given: Any) -> kopf.ConnectionInfo | None:
        connection = kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)
        if connection is not None:
            observer.connect(connection)
        return connection

    @kopf.on.startup(registry=registry)
    async def start(**_: Any) -> None:
        observer.start()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await observer.stop()

    @kopf.on.create(GROUP, VERSION, PLURAL, id="reconcile", backoff=_AFTER_A_FAULT_S, registry=registry)
    @kopf.on.update(GROUP, VERSION, PLURAL, id="reconcile", backoff=_AFTER_A_FAULT_S, registry=registry)
    @kopf.on.resume(GROUP, VERSION, PLURAL, id="reconcile", backoff=_AFTER_A_FAULT_S, registry=registry)
    async def reconcile(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
        """One step. kopf writes the patch before it calls again, so each step is begun in the status first."""
        try:
            rollout = Rollout.of(body)
        except SpecRefused as error:
            status = refused(status_of(body), body["metadata"]["generation"], str(error), datetime.now(UTC))
            patch.status.update(status.shown())
            return
        advance = await driver.advance(rollout)
        patch.status.update(advance.status.shown())
        _tell(body, rollout.status, advance)
        if advance.again_in_s is not None:
            raise kopf.TemporaryError(f"{advance.reason}: {advance.message}", delay=advance.again_in_s)

    return registry


def as_steps(record: logging.LogRecord) -> bool:
    """A filter of kopf's log, for which a handler that is to be called again has failed."""
    text = record.getMessage()
    if text.startswith(_AGAIN):
        record.msg, record.args = text.removeprefix(_AGAIN), ()
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    return True


def _tell(body: kopf.Body, before: RolloutStatus, advance: Advance) -> None:
    """An event for each change of what the conditions say, and none for a repetition."""
    told = before.condition("Progressing")
    if told is not None and (before.phase, told.reason) == (advance.phase, advance.reason):
        return
    kind = "Normal" if advance.phase in {"Progressing", "Serving"} else "Warning"
    kopf.event(body, type=kind, reason=advance.reason, message=advance.message)
