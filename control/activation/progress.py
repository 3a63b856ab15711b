"""How far an activation is, and how it is shown."""

from dataclasses import dataclass
from typing import Any, Literal

from control.clock import iso
from control.database.tables import ActivationRow

Phase = Literal["waiting_for_reference", "switching"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the activation that runs; `since_s` by the Activator's clock."""

    activation_id: int
    phase: Phase
    since_s: float
    reference_wait_ms: float = 0.0


def show(row: ActivationRow, progress: Progress | None = None) -> dict[str, Any]:
    """An entry of GET /models/activations; `progress` of the one that runs."""
    runs = progress is not None and progress.activation_id == row.id and row.status == "running"
    mine = progress if runs else None
    return {
        "activation_id": row.id,
        "id": row.model_id,
        "digest": row.digest,
        "version": row.version,
        "previous": row.previous,
        "cause": row.cause,
        "status": row.status,
        "requested_method": row.requested_method,
        "method": row.method,
        "paused_ms": row.paused_ms,
        "total_ms": row.total_ms,
        "reference_wait_ms": mine.reference_wait_ms if mine else row.reference_wait_ms,
        "phase": mine.phase if mine else None,
        "in_flight": row.in_flight,
        "proof": row.proof,
        "error": row.error,
        "rolled_back_to": row.rolled_back_to,
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
    }
