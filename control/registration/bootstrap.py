"""The first start: something to serve, and something to measure it with."""

import asyncio
import logging
import os
import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from control.checkpoints.quantisation import QuantizeWish
from control.errors import Conflict, Invalid
from control.models.activation_log import ActivationLog
from control.models.placed_folders import PlacedFolders
from control.models.registration import RegisterRequest, check_id
from control.models.registry import Registered, Registry
from control.models.repository import ModelRepository
from stepserve.contract import ModelRef
from stepserve.durable import written_aside
from stepserve.paths import Layout

log = logging.getLogger(__name__)

DEMO_ID = "demo-step-1500"
_DEMO_CHECKPOINT = "checkpoints/step-1500"
_DEMO_DATASET = "math_eval.jsonl"
_DEMO_REFERENCES = "references"


async def bootstrap(
    layout: Layout,
    models: ModelRepository,
    registry: Registry,
    history: ActivationLog,
    placed: PlacedFolders,
    *,
    install_demo: bool,
    model_path: Path | None,
    quantize: QuantizeWish = "no",
) -> None:
    """Appoints the first active model: `model_path` at every start that names one, else the demo on an empty registry.

    Only rows and files: the reconciler loads it. Raises Invalid when `model_path` holds no whole checkpoint.
    """
    if model_path is not None:
        registered = await _register_operators(registry, model_path, quantize)
    elif install_demo and await models.is_empty():
        await _place_demo(layout, placed)
        registered = await registry.register(RegisterRequest(id=DEMO_ID, source="demo", tags=["demo"]))
    else:
        return
    model = registered.model
    active = await history.active()
    if active is None or active.id != model.id:
        await history.appoint(ModelRef(id=model.id, path=model.path, digest=model.digest), cause="start")


async def _register_operators(registry: Registry, named: Path, quantize: QuantizeWish) -> Registered:
    """The operator's own folder is allowed wherever it lies. One whose content changed gets an id of its own."""
    folder = await asyncio.to_thread(lambda: named.expanduser().resolve())
    name = re.sub(r"[^A-Za-z0-9._-]+|\.\.+", "-", folder.name).lstrip("._-")[:100]
    try:
        model_id = check_id(name)
    except ValueError as error:
        raise Invalid(f"model_path: no id can be made of {folder}: {error}") from error
    try:
        return await registry.take_in(RegisterRequest(id=model_id, source="model_path", quantize=quantize), folder)
    except Conflict:
        digest = (await registry.inspect(folder)).digest.removeprefix("sha256:")
        other_id = f"{model_id}-{digest[:12]}" + (f"-{quantize}" if quantize != "no" else "")
        request = RegisterRequest(id=other_id, source="model_path", quantize=quantize)
        return await registry.take_in(request, folder)


async def _place_demo(layout: Layout, placed: PlacedFolders) -> None:
    """Copies aside and renames, so that nobody ever sees half a model."""
    target = layout.models / DEMO_ID
    if not await asyncio.to_thread(os.path.lexists, target):
        aside = await asyncio.to_thread(placed.placing, target)
        with as_file(files("demo")) as demo:
            await asyncio.to_thread(shutil.copytree, demo / _DEMO_CHECKPOINT, aside)
        await placed.place(aside, target, "demo")
        log.info("installed the demo model at %s", target)
    await asyncio.to_thread(_copy_dataset, layout.datasets / _DEMO_DATASET)
    await asyncio.to_thread(_copy_references, layout.references)


def _copy_references(folder: Path) -> None:
    """What the demo's checkpoints must say: a first start has nothing to compute."""
    with as_file(files("demo")) as demo:
        for shipped in (demo / _DEMO_REFERENCES).glob("*.json"):
            target = folder / shipped.name
            if not os.path.lexists(target):
                with written_aside(target) as aside:
                    shutil.copyfile(shipped, aside)


def _copy_dataset(target: Path) -> None:
    if not os.path.lexists(target):
        with as_file(files("demo")) as demo, written_aside(target) as aside:
            shutil.copyfile(demo / "datasets" / _DEMO_DATASET, aside)
