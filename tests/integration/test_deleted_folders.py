"""Folders that somebody deletes under a running server: what is loaded goes on, the rest says what is missing."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, run_story
from tests.unit.control.checkpoint_files import write_checkpoint


@pytest.mark.parametrize("deleted", ["the model", "all models", "the base directory"])
def test_a_deleted_folder_stops_nobody(tmp_path: Path, deleted: str) -> None:
    base = tmp_path / "base"
    base.mkdir()

    async def story(there: FullStack) -> None:
        layout = there.settings.layout
        write_checkpoint(layout.models / "b", seed=1)
        assert (await there.http.post("/models/register", json={"id": "b", "source": "t"})).status_code == 200
        folders = {"the model": layout.models / "b", "all models": layout.models, "the base directory": base}
        shutil.rmtree(folders[deleted])
        try:
            assert (await there.chat()).status_code == 200
            for path, wrong in (("/models/set_active", "b"), ("/models/register", "new")):
                refused = await there.http.post(
                    path, json={"id": wrong, "source": "t"} if wrong == "new" else {"id": wrong}
                )
                if deleted == "the base directory":  # and the database with it
                    assert refused.status_code == 503
                    assert "db.sqlite" in refused.json()["detail"]
                    continue
                assert refused.status_code == 422
                assert f"the folder {layout.models / wrong} does not exist" in refused.json()["detail"]
            unloaded = await there.http.post("/v1/chat/completions", json={"model": "b", "messages": []})
            assert unloaded.status_code == 503
            assert unloaded.json()["error"]["code"] == "load_failed"
            there.engine.dead = True

            async def back() -> Any:
                return (await there.chat()).status_code

            assert await eventually(back, lambda status: status == 200) == 200
            active = await there.http.get("/models/active")
            if deleted == "the base directory":
                assert active.status_code == 503
            else:
                assert active.json()["id"] == MODEL
        finally:
            for socket in (layout.gateway_socket, layout.control_socket):  # whoever stops the server removes them
                socket.parent.mkdir(parents=True, exist_ok=True)
                socket.touch()

    run_story(base, story)
