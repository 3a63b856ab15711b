"""/policies: which jobs are made by themselves when a model is registered."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from control.access.view import Viewer
from control.clock import iso
from control.database.tables import PolicyRow, PolicyRunRow
from control.errors import Conflict, Invalid
from control.models.registry import Registry
from control.models.repository import ModelRepository
from control.policies.book import PolicyBook, policy_in
from control.policies.request import DryRunRequest, PolicyRequest
from control.policies.steps import FIRST_EVAL, Steps, steps_of
from control.services import Given
from stepserve.request_id import key_id

router = APIRouter()

SHOWN_RUNS = 20
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


@router.get("/policies")
async def list_policies(book: Given[PolicyBook], view: Viewer) -> dict[str, Any]:
    return {"policies": [_show(row) for row in await book.policies() if view.sees(row.created_by)]}


@router.get("/policies/{name}")
async def get_policy(name: Name, book: Given[PolicyBook], view: Viewer) -> dict[str, Any]:
    """`runs`: the last models that it was for, newest first, with each step's job, or why there is none."""
    row = await book.get(name, view)
    return _show(row) | {"runs": [_show_run(run) for run in await book.runs(name, SHOWN_RUNS)]}


@router.put("/policies/{name}")
async def put(
    name: Name, request: PolicyRequest, response: Response, book: Given[PolicyBook], steps: Given[Steps]
) -> dict[str, Any]:
    """Runs that are under way go on as they began."""
    await steps.check_policy(name, request)
    row, new = await book.put(name, request, key_id.get() or f"policy:{name}")
    response.status_code = 201 if new else 200
    return _show(row)


@router.delete("/policies/{name}")
async def remove(name: Name, book: Given[PolicyBook]) -> dict[str, Any]:
    await book.remove(name)
    return {"status": "deleted", "name": name}


@router.post("/policies/{name}/dry_run")
async def dry_run(
    name: Name,
    request: DryRunRequest,
    book: Given[PolicyBook],
    steps: Given[Steps],
    registry: Given[Registry],
    models: Given[ModelRepository],
    view: Viewer,
) -> dict[str, Any]:
    """Which jobs the policy would make of a registered model; makes none."""
    policy = policy_in(await book.get(name, view))
    if policy is None:
        raise Conflict(f"the policy {name!r} cannot be read by this version: put it again")
    model = await models.get(await registry.resolve(request.id))
    shown = []
    for step in steps_of(policy):
        body, error = None, None
        try:
            wanted = steps.request_of(step, name, policy, model.id, FIRST_EVAL)
            body, error = wanted.model_dump(mode="json"), await steps.problem_of(step, wanted)
        except Invalid as refused:
            error = str(refused)
        shown.append({"step": step, "request": body, "error": error})
    return {"name": name, "model_id": model.id, "matches": policy.match.fits(model.id, model.tags), "steps": shown}


def _show(row: PolicyRow) -> dict[str, Any]:
    return {
        "name": row.name,
        **row.content,
        "created_by": row.created_by,
        "created_at": iso(row.created_at),
        "changed_at": iso(row.changed_at),
    }


def _show_run(run: PolicyRunRow) -> dict[str, Any]:
    return {
        "model_id": run.model_id,
        "model_digest": run.model_digest,
        "state": run.state,
        "steps": run.steps,
        "created_at": iso(run.created_at),
    }
