"""The routes and fields that people's scripts read, on the public port."""

import gzip
import json
from datetime import datetime
from pathlib import Path

import pytest

from stepserve.settings import Alias
from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, run_story
from tests.unit.control.checkpoint_files import write_checkpoint


def test_health_counts_downloads_and_names_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    async def story(there: FullStack) -> None:
        before = (await there.http.get("/health")).json()
        assert (before["downloads_active"], before["downloads_queued"]) == (0, 0)
        assert (before["gpu_status"], before["cuda_available"]) == ("unavailable", False)
        assert (before["gpu_memory_allocated_mb"], before["gpu_memory_reserved_mb"]) == (0, 0)
        assert before["torch_version"]
        assert (await there.http.post("/pull", json={"model": "org/name"})).status_code == 202
        after = (await there.http.get("/health")).json()
        assert after["downloads_active"] + after["downloads_queued"] == 1

    run_story(tmp_path, story)


def test_status_diag_and_config(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        status = (await there.http.get("/status")).json()
        assert (status["cache_size"], status["cached_models"]) == (1, [MODEL])
        assert status["max_cache"] == status["cache"]["limit"]
        for library in ("vllm", "transformers", "hf_hub"):
            assert status[f"{library}_available"] is True
        assert isinstance(status["bitsandbytes_available"], bool)
        layout = there.settings.layout
        for config in (status["config"], (await there.http.get("/config")).json()):
            assert config["models_dir"] == str(layout.models)
            assert config["db_path"] == str(layout.database)
            assert (config["runs_dir"], config["datasets_dir"]) == (str(layout.runs), str(layout.datasets))
            assert config["port"] == there.settings.port
        diagnosis = (await there.http.get("/diag")).json()
        assert diagnosis["torch_installed"] is True
        assert diagnosis["torch_version"]
        assert (diagnosis["cuda_count"], diagnosis["cuda_devices"]) == (0, [])

    run_story(tmp_path, story)


def test_one_model(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        [listed] = (await there.http.get("/models")).json()["models"]
        assert listed["model"] == listed["id"] == MODEL
        assert (await there.http.get(f"/models/{MODEL}")).json() == listed
        assert (await there.http.get("/models/active")).json()["since"], "which is the route of its own"
        missing = await there.http.get("/models/nope")
        assert missing.status_code == 404
        assert "nope" in missing.json()["detail"]

    run_story(tmp_path, story)


def test_the_list_has_every_name_that_can_be_asked_for(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        write_checkpoint(there.settings.layout.models / "org--tiny", 1)
        body = {"id": "org--tiny", "source": "hub:org/tiny@0123456789ab"}
        (await there.http.post("/models/register", json=body)).raise_for_status()
        registered = {each["id"]: each["created_at"] for each in (await there.http.get("/models")).json()["models"]}
        cards = {card["id"]: card for card in (await there.http.get("/v1/models")).json()["data"]}
        assert set(cards) == {MODEL, "active", "short", "org--tiny", "org/tiny"}
        for name, root in (("active", MODEL), ("short", MODEL), ("org/tiny", "org--tiny")):
            created = int(datetime.fromisoformat(registered[root]).timestamp())
            assert (cards[name]["root"], cards[name]["created"]) == (root, created)
            assert (await there.http.get(f"/v1/models/{name}")).json() == cards[name]
        unknown = await there.chat(model="nope")
        assert unknown.status_code == 404
        for name in cards:
            assert f"`{name}`" in unknown.json()["error"]["message"]

    run_story(tmp_path, story, aliases={"short": Alias(model=MODEL)})


def test_what_chat_finds_the_list_of_models_finds(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        assert (await there.chat(model="gpt-4o")).status_code == 200
        assert (await there.http.get("/v1/models/gpt-4o")).json()["root"] == MODEL

    run_story(tmp_path, story, unknown_model="active")


def test_bodies_may_be_compressed_or_begin_with_a_mark(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        plain = json.dumps({"model": MODEL, "messages": []}).encode()
        said = (await there.http.post("/v1/chat/completions", content=plain)).content
        zipped = {"content-encoding": "gzip"}
        answer = await there.http.post("/v1/chat/completions", content=gzip.compress(plain), headers=zipped)
        assert (answer.status_code, answer.content) == (200, said)
        answer = await there.http.post("/v1/chat/completions", content=b"\xef\xbb\xbf" + plain)
        assert (answer.status_code, answer.content) == (200, said)
        refused = await there.http.post("/models/register", content=gzip.compress(plain), headers=zipped)
        assert refused.status_code == 415
        assert "gzip" in refused.json()["detail"]

    run_story(tmp_path, story)


def test_a_registration_with_all_of_its_fields_null(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        write_checkpoint(there.settings.layout.models / "b", 1)
        nothing = ("tags", "path", "step", "base_model", "quantize", "engine", "probe", "activate", "chat_template")
        body = {"id": "b", "source": "4090"} | dict.fromkeys(nothing)
        answer = await there.http.post("/models/register", json=body)
        assert answer.status_code == 200, answer.text
        assert (await there.http.get("/models/b")).json()["tags"] == []
        await eventually(lambda: there.http.get("/readyz"), lambda ready: ready.status_code == 200)

    run_story(tmp_path, story)


def test_a_browser_gets_pages_and_other_clients_what_they_look_for(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        plain = await there.http.get("/")
        assert (plain.text, plain.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")
        browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        page = await there.http.get("/", headers=browser)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert f"<code>{MODEL}</code> is active" in page.text
        assert '<a href="/docs">' in page.text
        documents = await there.http.get("/docs", headers=browser)
        for shown in ("POST /v1/files", "POST /models/register", "POST /generate", "<code>num_return_sequences</code>"):
            assert shown in documents.text
        for each in (page, documents):
            assert "default-src 'none'" in each.headers["content-security-policy"]
            assert "<script" not in each.text
            assert not [quoted for quoted in each.text.split('"') if quoted.startswith(("http", "//"))]

    run_story(tmp_path, story)


def test_a_stranger_with_a_browser_is_told_no_names(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await there.key()
        page = await there.http.get("/", headers={"accept": "text/html"})
        assert page.status_code == 200
        assert "asks for a key" in page.text
        assert f"<code>{MODEL}</code>" not in page.text
        assert (await there.http.get("/docs", headers={"accept": "text/html"})).status_code == 401

    run_story(tmp_path, story)
