"""`preload` and `keep_alive` as operators write them, through gateway and control as they run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, run_story
from tests.unit.control.checkpoint_files import write_checkpoint


async def register(there: FullStack, name: str, **fields: Any) -> Any:
    if not (there.settings.layout.models / name).exists():
        write_checkpoint(there.settings.layout.models / name, ord(name))
    answer = await there.http.post("/models/register", json={"id": name, "source": "t", **fields})
    answer.raise_for_status()
    return answer.json()


async def loaded(there: FullStack) -> set[str]:
    return {each["model"]["id"] for each in (await there.http.get("/status")).json()["engines"]}


async def come_to(there: FullStack, check: Callable[[set[str]], bool]) -> None:
    await eventually(lambda: loaded(there), check)


def test_a_models_keep_alive_counts_and_is_changed(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await register(there, "b", keep_alive="1h")
        shown = (await there.http.get("/models/b")).json()
        assert shown["keep_alive"] == 3600
        assert (await there.chat(model="b")).status_code == 200
        assert await loaded(there) == {MODEL, "b"}
        changed = await there.http.patch("/models/b", json={"keep_alive": "100ms"})
        assert changed.json() == {"status": "changed", "id": "b", "keep_alive": 0.1}
        await come_to(there, lambda names: names == {MODEL})
        assert (await there.http.patch("/models/b", json={"keep_alive": -1})).status_code == 200
        assert (await there.chat(model="b")).status_code == 200
        await register(there, "c")
        refused = await there.chat(model="c")
        assert refused.status_code == 503
        assert "b is to stay (keep_alive)" in refused.json()["error"]["message"]
        assert (await there.http.patch("/models/b", json={"keep_alive": None})).json()["keep_alive"] is None
        assert (await there.chat(model="c")).status_code == 200
        assert (await there.http.get("/models/b")).json()["keep_alive"] is None

    run_story(tmp_path, story, max_loaded_models=2)


def test_registering_again_changes_it_and_other_content_keeps_it(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await register(there, "b", keep_alive=60)
        await register(there, "b")
        assert (await there.http.get("/models/b")).json()["keep_alive"] == 60
        write_checkpoint(there.settings.layout.models / "other", 77)
        await there.http.post("/models/register", json={"id": "b", "source": "t", "path": "models/other"})
        body = {"id": "b", "source": "t", "path": "models/other", "replace": True}
        assert "replaced" in (await there.http.post("/models/register", json=body)).json()
        assert (await there.http.get("/models/b")).json()["keep_alive"] == 60
        await there.http.post("/models/register", json=body | {"keep_alive": "2m"})
        assert (await there.http.get("/models/b")).json()["keep_alive"] == 120

    run_story(tmp_path, story)


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("/models/b", {"keep_alive": "soon"}, 422, "'soon' is not a duration such as 5m, 0 or -1"),
        ("/models/b", {}, 422, "keep_alive"),
        ("/models/b", {"tags": []}, 422, "tags"),
        ("/models/nope", {"keep_alive": 5}, 404, "nope"),
    ],
)
def test_what_is_refused_names_why(tmp_path: Path, path: str, body: Any, status: int, named: str) -> None:
    async def story(there: FullStack) -> None:
        await register(there, "b")
        answer = await there.http.patch(path, json=body)
        assert answer.status_code == status, answer.text
        assert named in str(answer.json()["detail"])

    run_story(tmp_path, story)


def test_models_are_loaded_at_the_start_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def register_both(there: FullStack) -> None:
        await register(there, "b")
        assert there.gateway.preload.outcomes == {}
        shutil.rmtree(there.settings.layout.models / MODEL)  # the next start writes it

    async def story(there: FullStack) -> None:
        await come_to(there, lambda names: names == {MODEL, "b"})
        reason = "no model is registered as 'nope': see GET /models"
        preloaded = {"nope": reason, "b": "loaded"}

        async def outcomes() -> Any:
            return (await there.http.get("/status")).json()["preload"]

        await eventually(outcomes, lambda found: found == preloaded)
        assert (await there.chat()).status_code == 200

    run_story(tmp_path, register_both)
    run_story(tmp_path, story, max_loaded_models=3, preload=["nope", "b"])


def test_the_settings_keep_alive_is_for_all_models(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await register(there, "b")
        assert (await there.chat(model="b")).status_code == 200
        await come_to(there, lambda names: names == {MODEL})
        assert (await there.chat()).status_code == 200, "the active model stays"

    run_story(tmp_path, story, model_keep_alive=0.2)
