"""Links where the server writes or reads: what they lead to is neither changed, nor removed, nor taken for a model."""

import asyncio
import hashlib
import os
from pathlib import Path

import httpx
import pytest

from tests.integration.control_plane import control_plane
from tests.integration.fake_hub import FakeHub
from tests.integration.public_server import public_server
from tests.integration.pulls import WEIGHTS, add, ended, pull, pulling, visible
from tests.unit.control.checkpoint_files import write_checkpoint

STAGED = Path("models", ".pulls", f"acme--tiny@{'c' * 12}")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mine(folder: Path) -> dict[str, bytes]:
    """A user's folder outside the base directory; what is in it."""
    write_checkpoint(folder, seed=7)
    (folder / "notes.txt").write_bytes(b"three weeks of them")
    return contents(folder)


def link_files(staged: Path, outside: Path) -> None:
    files = staged / "files"
    files.mkdir(parents=True)
    (files / f"{WEIGHTS}.partial").hardlink_to(outside / "notes.txt")
    (files / "config.json").symlink_to(outside / "config.json")
    (files / "config.json.partial").symlink_to(outside / "config.json")
    (files / "tokenizer.json").symlink_to("tokenizer.json.partial")
    (files / "tokenizer.json.partial").symlink_to("tokenizer.json")
    (files / "chat_templates").symlink_to(outside)


def link_folder(staged: Path, outside: Path) -> None:
    staged.mkdir(parents=True)
    (staged / "files").symlink_to(outside)


@pytest.mark.parametrize("put", [link_files, link_folder])
async def test_a_pull_goes_through_no_link_on_its_way(
    put: object, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = add(hub, "acme/tiny", tmp_path / "source")
    before = mine(tmp_path / "mine")
    assert callable(put)
    put(tmp_path / "base" / STAGED, tmp_path / "mine")

    async with pulling(hub, tmp_path / "base", monkeypatch) as here:
        job = await ended(here, (await pull(here, "acme/tiny"))["job_id"])
        assert job["status"] == "done", job["error"]
        placed = here.layout.models / "acme--tiny"
        assert all(path.is_file() and not path.is_symlink() for path in placed.iterdir())
        assert contents(placed) == {name: repository.files[name] for name in contents(placed)}
        assert (placed / WEIGHTS).stat().st_nlink == 1
    assert contents(tmp_path / "mine") == before


@pytest.mark.long
async def test_a_snapshot_of_links_in_the_models_place_is_as_good_as_what_they_lead_to(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's own cache has it: each entry leads to a blob. Blobs may be read where models may lie."""
    repository = add(hub, "acme/tiny", tmp_path / "source")
    cache = tmp_path / "cache"
    snapshot = cache / "models--acme--tiny" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (cache / "models--acme--tiny" / "blobs").mkdir()
    for number, name in enumerate(("config.json", "tokenizer.json", WEIGHTS)):
        (snapshot / name).symlink_to(f"../../blobs/{number}")
        (snapshot / name).write_bytes(repository.files[name])
    before = contents(cache)

    async with pulling(hub, tmp_path / "base", monkeypatch) as here:
        (here.layout.models / "acme--tiny").symlink_to(snapshot)
        job = await ended(here, (await pull(here, "acme/tiny"))["job_id"])
        assert job["status"] == "failed"
        assert f"lies outside {here.layout.models}" in job["error"]
        (here.layout.models / "acme--tiny").unlink()
        (here.layout.models / "acme--tiny").mkdir()
        for file in snapshot.iterdir():
            (here.layout.models / "acme--tiny" / file.name).symlink_to(file)
        job = await ended(here, (await pull(here, "acme/tiny"))["job_id"])
        assert job["status"] == "failed"
        assert f"is a link to {(snapshot / 'config.json').resolve()}, outside" in job["error"]
        (here.layout.models / "acme--tiny" / "config.json").unlink()
        (here.layout.models / "acme--tiny" / "config.json").symlink_to("config.json")
        job = await ended(here, (await pull(here, "acme/tiny"))["job_id"])
        assert job["status"] == "failed"
        assert (await here.get("/models"))["models"] == []
    async with pulling(hub, tmp_path / "base", monkeypatch, model_roots=[cache]) as here:
        entry = here.layout.models / "acme--tiny" / "config.json"
        entry.unlink()
        entry.symlink_to(snapshot / "config.json")
        job = await ended(here, (await pull(here, "acme/tiny"))["job_id"])
        assert (job["status"], job["result"]["transferred_bytes"]) == ("done", 0), job["error"]
        await here.http.delete("/models/acme--tiny", params={"files": "true"})
    assert contents(cache) == before


@pytest.mark.long
def test_a_link_in_a_repository_is_the_text_that_the_hub_sends_for_it(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git keeps a link as a file whose content is the path, and the hub hands that out."""
    secret = tmp_path / "secret.json"
    secret.write_text('{"architectures": ["LlamaForCausalLM"]}')
    for name in ("config.json", WEIGHTS):
        add(hub, f"acme/{name.partition('.')[0]}", tmp_path / name).files[name] = str(secret).encode()

    async def run() -> None:
        async with pulling(hub, tmp_path / "base", monkeypatch) as here:
            for name, said in (("config", "makes no sense"), ("model", f"{WEIGHTS} is not a safetensors file")):
                job = await ended(here, (await pull(here, f"acme/{name}"))["job_id"])
                assert (job["status"], said in job["error"]) == ("failed", True), job["error"]
            assert visible(here) == []

    asyncio.run(run())


async def test_a_registered_folder_whose_entries_lead_in_circles_is_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            folder = write_checkpoint(here.layout.models / name.partition(".")[0])
            (folder / name).unlink()
            (folder / name).symlink_to("around")
            (folder / "around").symlink_to(name)
            refusal = await here.refused(422, "/models/register", id=folder.name, source="t")
            assert name.partition(".")[0] in refusal
        (here.layout.models / "self").symlink_to("self")
        assert "does not exist" in await here.refused(422, "/models/register", id="self", source="t")
        assert await here.get("/models") == {"models": []}


CONTENT = bytes(range(256)) * 4


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("link", [os.link, os.symlink])
async def test_an_upload_does_not_write_through_a_link_in_its_folder(
    link: object, restarted: bool, tmp_path: Path
) -> None:
    """Of the same size, so that nothing but the link tells them apart."""
    outside = tmp_path / "mine.json"
    outside.write_bytes(b"m" * len(CONTENT))
    assert callable(link)

    async def half(url: str, http: httpx.AsyncClient, begin: int) -> httpx.Response:
        end = begin + len(CONTENT) // 2
        headers = {"content-range": f"bytes {begin}-{end - 1}/{len(CONTENT)}"}
        return await http.put(f"{url}/models/m/files/x.json", content=CONTENT[begin:end], headers=headers)

    async def goes_on(url: str, http: httpx.AsyncClient, place: Path) -> None:
        torn = await half(url, http, len(CONTENT) // 2)
        assert (torn.status_code, "a gap" in torn.json()["detail"]) == (409, True), torn.text
        whole = await http.put(f"{url}/models/m/files/x.json", content=CONTENT)
        assert whole.json()["sha256"] == hashlib.sha256(CONTENT).hexdigest()
        assert place.read_bytes() == CONTENT
        place.unlink()
        link(outside, place)
        refused = await http.post(f"{url}/models/register", json={"id": "m", "source": "t"})
        assert (refused.status_code, f"{len(CONTENT)} bytes of x.json are missing" in refused.json()["detail"]) == (
            422,
            True,
        )

    async with httpx.AsyncClient(timeout=240) as http:
        async with public_server(tmp_path / "base") as there:
            assert (await half(there.url, http, 0)).status_code == 200
            place = there.layout.uploads / "m" / "files" / "x.json"
            place.unlink()
            link(outside, place)
            url = there.url
            if not restarted:
                await goes_on(url, http, place)
        if restarted:
            async with public_server(tmp_path / "base") as there:
                await goes_on(there.url, http, place)
    assert outside.read_bytes() == b"m" * len(CONTENT)


async def test_an_uploads_book_is_not_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "mine.json"
    outside.write_bytes(b"mine")

    async with public_server(tmp_path / "base") as there, httpx.AsyncClient(base_url=there.url, timeout=240) as http:
        folder = there.layout.uploads / "m"
        folder.mkdir(parents=True)
        (folder / ".upload.json").hardlink_to(outside)
        assert (await http.put("/models/m/files/config.json", content=b"{}")).status_code == 200
    assert outside.read_bytes() == b"mine"


async def test_a_folder_of_an_upload_that_became_a_link_gets_no_files(tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    before = mine(outside)

    async with public_server(tmp_path / "base") as there, httpx.AsyncClient(base_url=there.url, timeout=240) as http:
        assert (await http.put("/models/m/files/config.json", content=b"{}")).status_code == 200
        (there.layout.uploads / "m" / "files" / "chat_templates").symlink_to(outside)
        template = await http.put("/models/m/files/chat_templates/notes.txt", content=b"other")
        assert template.status_code == 200, template.text
        assert not (there.layout.uploads / "m" / "files" / "chat_templates").is_symlink()
    assert contents(outside) == before
