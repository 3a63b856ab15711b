"""The real ollama client fetches a model through the public port, from a hub on loopback."""

from pathlib import Path

import ollama
import pytest

from tests.integration.fake_hub import FakeHub
from tests.integration.full_stack import MODEL, full_stack
from tests.integration.pulls import CDN
from tests.unit.control.checkpoint_files import write_checkpoint


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    hub = FakeHub()
    hub.add("acme/tiny", write_checkpoint(tmp_path / "source", seed=9))
    return hub


async def test_a_hub_that_cannot_be_reached_is_said_to_be_so(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub.running():
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)  # nobody listens there any more
    async with (
        full_stack(tmp_path / "base", hub_timeout_s=5, hub_hosts=[CDN]) as here,
        ollama.AsyncClient(host=here.url, trust_env=False) as client,
    ):
        with pytest.raises(ollama.ResponseError, match=r"the connection to the hub fails: .*; pull_.* tries again"):
            await client.pull("acme/tiny")
        async for line in await client.pull("acme/tiny", stream=True):
            if line.status is not None and "the connection to the hub fails" in line.status:
                break
        else:
            pytest.fail("a stream that ends without saying why")


async def test_ollama_pull(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hub.running():
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        async with (
            full_stack(tmp_path / "base", hub_timeout_s=5, hub_hosts=[CDN]) as here,
            ollama.AsyncClient(host=here.url, trust_env=False) as client,
        ):
            lines = [line async for line in await client.pull("acme/tiny", stream=True)]
            assert (lines[0].status, lines[-1].status) == ("pulling manifest", "success")
            halfway = [line for line in lines if line.total]
            assert all(line.completed is not None and line.completed <= (line.total or 0) for line in halfway)
            assert {model.model for model in (await client.list()).models} >= {"acme--tiny", MODEL}
            assert (await client.show("acme/tiny")).modelinfo is not None
            answer = await here.http.post("/v1/completions", json={"model": "acme/tiny", "prompt": "x"})
            assert (answer.status_code, answer.headers["x-model-id"]) == (200, "acme--tiny")
            again = await client.pull("acme/tiny")
            assert again.status == "success"
            with pytest.raises(ollama.ResponseError, match="acme/nothing"):
                await client.pull("acme/nothing")
            with pytest.raises(ollama.ResponseError, match="acme/nothing"):
                async for _ in await client.pull("acme/nothing", stream=True):
                    pass
            key = await here.key(scopes=["admin"])
            headers = {"authorization": f"Bearer {key}"}
            async with ollama.AsyncClient(host=here.url, trust_env=False, headers=headers) as admin:
                assert (await admin.pull("acme/tiny")).status == "success"
            entry = (await here.owner.get("/audit")).json()["entries"][0]
            assert (entry["path"], entry["target"], entry["actor"]) == ("/pull", "acme/tiny", key.split("_")[1])
            job = (await here.owner.get("/jobs?type=pull&limit=1")).json()["jobs"][0]
            assert (await here.owner.get(f"/jobs/{job['id']}")).json()["created_by"] == key.split("_")[1]
