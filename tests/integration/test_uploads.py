"""PUT /models/{id}/files/{name} as anybody with curl sees it: through the public port, real sockets, real files."""

import asyncio
import hashlib
import json
import resource
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.eventually import eventually
from tests.integration.long_lived import LongLived, long_lived
from tests.integration.public_server import PublicServer, public_server
from tests.unit.control.checkpoint_files import write_checkpoint

Visit = Callable[[PublicServer, httpx.AsyncClient], Awaitable[None]]


def visit(base: Path, body: Visit, **changes: Any) -> None:
    async def run() -> None:
        async with public_server(base, **changes) as there, httpx.AsyncClient(base_url=there.url, timeout=240) as http:
            await body(there, http)

    asyncio.run(run())


async def put(http: httpx.AsyncClient, name: str, content: bytes, **headers: str) -> httpx.Response:
    return await http.put(f"/models/m/files/{name}", content=content, headers=headers)


def test_files_one_by_one_and_then_a_registration(tmp_path: Path) -> None:
    async def body(there: PublicServer, http: httpx.AsyncClient) -> None:
        source = write_checkpoint(tmp_path / "source")
        for file in source.iterdir():
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            answer = await put(http, file.name, file.read_bytes(), **{"x-sha256": sha256})
            assert answer.status_code == 200, answer.text
            assert answer.json() == {
                "name": file.name,
                "size_bytes": file.stat().st_size,
                "received_bytes": file.stat().st_size,
                "complete": True,
                "sha256": sha256,
            }
            assert list(there.layout.models.iterdir()) == []
        registered = await http.post("/models/register", json={"id": "m", "source": "curl"})
        assert registered.status_code == 200, registered.text
        placed = there.layout.models / "m"
        assert {file.name: file.read_bytes() for file in placed.iterdir()} == {
            file.name: file.read_bytes() for file in source.iterdir()
        }
        assert (await http.get("/models/m/files")).status_code == 404
        assert list(there.layout.uploads.iterdir()) == []

    visit(tmp_path / "base", body)


def test_a_file_in_pieces_goes_on_also_after_control_came_back(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40

    async def first(there: PublicServer, http: httpx.AsyncClient) -> None:
        answer = await put(http, "config.json", content[:4000], **{"content-range": f"bytes 0-3999/{len(content)}"})
        assert (answer.status_code, answer.json()["received_bytes"]) == (200, 4000)

    async def second(there: PublicServer, http: httpx.AsyncClient) -> None:
        files = (await http.get("/models/m/files")).json()["files"]
        assert files[0]["received_bytes"] == 4000
        rest = {"content-range": f"bytes 4000-{len(content) - 1}/{len(content)}"}
        answer = await put(http, "config.json", content[4000:], **rest)
        assert answer.json()["complete"] is True
        assert answer.json()["sha256"] == hashlib.sha256(content).hexdigest()

    visit(tmp_path, first)
    visit(tmp_path, second)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLived[PublicServer]]:
    with long_lived(public_server(tmp_path_factory.mktemp("base"))) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "content", "headers", "status", "named"),
    [
        ("%2e%2e/x.json", b"{}", {}, 400, "Path contains `.`"),
        (".hidden", b"{}", {}, 422, "'.hidden' is not a valid file name"),
        ("a%20b.json", b"{}", {}, 422, "is not a valid file name"),
        ("pytorch_model.bin", b"{}", {}, 422, "pytorch_model.bin is a pickle"),
        ("x.json", b"{}", {"x-sha256": "12"}, 422, "'12' is not a sha256"),
        ("x.json", b"{}", {"x-sha256": "0" * 64}, 422, "x.json: bytes 0 to 2 have the sha256"),
        ("x.json", b"{}", {"content-range": "bytes 5-6/9"}, 409, "x.json: a gap, this begins at byte 5"),
        ("x.json", b"{}", {"content-range": "bytes 0-5/9"}, 422, "x.json: Content-Range has 6 bytes, the body 2"),
        ("x.json", b"{}", {"content-range": "2 bytes"}, 422, "x.json: Content-Range is '2 bytes'"),
        ("x.json", b"{}", {"content-range": "bytes 8-9/9"}, 422, "x.json has 9 bytes"),
        ("x.json", b"{}", {"x-upload": "else"}, 404, "nothing is being uploaded as 'm'"),
    ],
)
def test_what_cannot_be_taken_is_named_and_shows_nowhere(
    there: LongLived[PublicServer], name: str, content: bytes, headers: dict[str, str], status: int, named: str
) -> None:
    async def body() -> None:
        async with httpx.AsyncClient(base_url=there.here.url, timeout=240) as http:
            answer = await put(http, name, content, **headers)
            assert (answer.status_code, named in answer.json()["detail"]) == (status, True), answer.text
            assert list(there.here.layout.models.iterdir()) == []
            registered = await http.post("/models/register", json={"id": "m", "source": "t"})
            assert registered.status_code == 422
            await http.delete("/models/m/files")  # a begun file is kept for who goes on with it

    there.run(body())


def test_an_overlap_and_another_size(tmp_path: Path) -> None:
    async def body(_: PublicServer, http: httpx.AsyncClient) -> None:
        assert (await put(http, "x.json", b"abc", **{"content-range": "bytes 0-2/9"})).status_code == 200
        again = await put(http, "x.json", b"bcd", **{"content-range": "bytes 1-3/9"})
        assert (again.status_code, "an overlap" in again.json()["detail"]) == (409, True)
        other = await put(http, "x.json", b"de", **{"content-range": "bytes 3-4/8"})
        assert (other.status_code, "x.json has 9 bytes in this upload, not 8" in other.json()["detail"]) == (409, True)

    visit(tmp_path, body)


def test_a_body_of_unknown_length(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"{}"

    async def body(_: PublicServer, http: httpx.AsyncClient) -> None:
        answer = await http.put("/models/m/files/x.json", content=chunks())
        assert (answer.status_code, answer.json()["detail"]) == (
            411,
            "x.json: the request must say its Content-Length",
        )

    visit(tmp_path, body)


def test_an_upload_that_is_not_whole_is_no_model(tmp_path: Path) -> None:
    async def body(there: PublicServer, http: httpx.AsyncClient) -> None:
        source = write_checkpoint(tmp_path / "source")
        weights = (source / "model.safetensors").read_bytes()
        await put(http, "config.json", (source / "config.json").read_bytes())
        await put(http, "model.safetensors", weights[:50], **{"content-range": f"bytes 0-49/{len(weights)}"})
        torn = await http.post("/models/register", json={"id": "m", "source": "t"})
        assert torn.status_code == 422
        assert f"{len(weights) - 50} bytes of model.safetensors are missing" in torn.json()["detail"]
        rest = {"content-range": f"bytes 50-{len(weights) - 1}/{len(weights)}"}
        await put(http, "model.safetensors", weights[50:], **rest)
        lacking = await http.post("/models/register", json={"id": "m", "source": "t"})
        assert (lacking.status_code, "tokenizer" in lacking.json()["detail"]) == (422, True)
        assert list(there.layout.models.iterdir()) == []
        await put(http, "tokenizer.json", b"{}")
        assert (await http.post("/models/register", json={"id": "m", "source": "t"})).status_code == 200

    visit(tmp_path / "base", body)


def test_somebody_elses_upload_of_the_same_id(tmp_path: Path) -> None:
    async def body(_: PublicServer, http: httpx.AsyncClient) -> None:
        mine = {"upload": "mine", "files": [{"name": "config.json", "size_bytes": 2}]}
        assert (await http.post("/models/m/files", json=mine)).status_code == 200
        theirs = await http.post("/models/m/files", json=mine | {"upload": "theirs"})
        assert (theirs.status_code, "another upload of m (mine) is under way" in theirs.json()["detail"]) == (409, True)
        stray = await put(http, "config.json", b"{}")
        assert stray.status_code == 409
        assert (await http.delete("/models/m/files")).status_code == 200
        assert (await http.post("/models/m/files", json=mine | {"upload": "theirs"})).status_code == 200

    visit(tmp_path, body)


def test_a_full_disk_keeps_what_came(tmp_path: Path) -> None:
    async def body(_: PublicServer, http: httpx.AsyncClient) -> None:
        assert (await put(http, "config.json", b"{}")).status_code == 200
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))
        try:
            full = await put(http, "model.safetensors", bytes(5_000_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert full.status_code == 507
        assert full.json()["detail"].startswith("model.safetensors: the disk is full; what has arrived is kept")
        assert (await put(http, "model.safetensors", bytes(5_000_000))).status_code == 200
        files = (await http.get("/models/m/files")).json()["files"]
        assert {file["name"]: file["complete"] for file in files} == {"config.json": True, "model.safetensors": True}

    visit(tmp_path, body)


def test_more_than_the_disk_holds_is_refused_before_a_byte_is_sent(tmp_path: Path) -> None:
    async def body(_: PublicServer, http: httpx.AsyncClient) -> None:
        huge = {"upload": "mine", "files": [{"name": "model.safetensors", "size_bytes": 2**49}]}
        refused = await http.post("/models/m/files", json=huge)
        assert (refused.status_code, f"{2**49} bytes are to come" in refused.json()["detail"]) == (507, True)

    visit(tmp_path, body)


def test_control_being_away_is_said(tmp_path: Path) -> None:
    async def body(there: PublicServer, http: httpx.AsyncClient) -> None:
        await there.control.aclose()
        answer = await put(http, "x.json", b"{}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")

    visit(tmp_path, body)


@asynccontextmanager
async def _half_sent(url: str, size: int, half: bytes) -> AsyncIterator[None]:
    """A client that dies after half of its body."""
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT /models/m/files/x.json HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n"
    writer.write(head.encode() + half)
    await writer.drain()
    yield
    writer.close()


def test_a_client_that_dies_leaves_what_it_sent(tmp_path: Path) -> None:
    async def body(there: PublicServer, http: httpx.AsyncClient) -> None:
        content = bytes(range(1, 251)) * 20_000
        async with _half_sent(there.url, len(content), content[:4_000_000]):
            await asyncio.to_thread(_until_written, there.layout.uploads / "m" / "files" / "x.json")
        files = await eventually(lambda: _files(http), lambda files: files[0]["received_bytes"] > 0)
        received = files[0]["received_bytes"]
        assert received >= 2_000_000
        rest = {"content-range": f"bytes {received}-{len(content) - 1}/{len(content)}"}
        whole = (await put(http, "x.json", content[received:], **rest)).json()
        assert (whole["complete"], whole["sha256"]) == (True, hashlib.sha256(content).hexdigest())

    visit(tmp_path, body)


async def _files(http: httpx.AsyncClient) -> Any:
    return (await http.get("/models/m/files")).json()["files"]


def _until_written(file: Path) -> None:
    deadline = time.monotonic() + 10
    while not (file.exists() and file.stat().st_blocks):
        assert time.monotonic() < deadline, f"nothing is written to {file}"
        time.sleep(0.01)


def test_a_registration_while_a_file_is_coming_in(tmp_path: Path) -> None:
    async def body(there: PublicServer, http: httpx.AsyncClient) -> None:
        source = write_checkpoint(tmp_path / "source")
        for file in source.iterdir():
            assert (await put(http, file.name, file.read_bytes())).status_code == 200
        async with _half_sent(there.url, 8_000_000, bytes(range(1, 251)) * 16_000):
            await asyncio.to_thread(_until_written, there.layout.uploads / "m" / "files" / "x.json")
            answer = await http.post("/models/register", json={"id": "m", "source": "t"})
            assert (answer.status_code, answer.json()["detail"]) == (409, "files of m are coming in right now")
            discarded = await http.delete("/models/m/files")
            assert (discarded.status_code, discarded.json()["detail"]) == (409, "files of m are coming in right now")
        assert list(there.layout.models.iterdir()) == []

    visit(tmp_path / "base", body)


def test_one_file_sent_by_many_with_other_content_each(tmp_path: Path) -> None:
    """Whoever is told that it is whole has its own bytes there at that moment; the file is never a mixture."""

    async def body(there: PublicServer, http: httpx.AsyncClient) -> None:
        contents = [bytes([number]) * 3_000_000 for number in range(1, 7)]
        answers = await asyncio.gather(*(put(http, "x.json", content) for content in contents))
        assert {answer.status_code for answer in answers} <= {200, 409}
        hashes = {hashlib.sha256(content).hexdigest() for content in contents}
        told = {answer.json()["sha256"] for answer in answers if answer.status_code == 200}
        assert told
        assert told <= hashes
        content = await asyncio.to_thread((there.layout.uploads / "m" / "files" / "x.json").read_bytes)
        assert hashlib.sha256(content).hexdigest() in told

    visit(tmp_path, body)


def test_room_that_one_upload_was_promised_is_not_promised_twice(tmp_path: Path) -> None:
    async def body(there: PublicServer, http: httpx.AsyncClient) -> None:
        most = int(shutil.disk_usage(there.layout.uploads).free * 0.6)
        begun = {"upload": "u", "files": [{"name": "model.safetensors", "size_bytes": most}]}
        assert (await http.post("/models/m/files", json=begun)).status_code == 200
        assert (await http.post("/models/m/files", json=begun)).status_code == 200, "the same one goes on"
        other = await http.post("/models/other/files", json=begun)
        assert (other.status_code, f"besides {most} that other uploads will take" in other.json()["detail"]) == (
            507,
            True,
        )
        assert (await http.delete("/models/m/files")).status_code == 200
        assert (await http.post("/models/other/files", json=begun)).status_code == 200

    visit(tmp_path, body)


def test_a_book_that_names_files_elsewhere_is_not_followed(tmp_path: Path) -> None:
    """What lies below checkpoints/ may have been written by anybody who can reach the folder."""
    victim = tmp_path / "precious"
    victim.write_text("kept")
    folder = tmp_path / "checkpoints" / "m"
    folder.mkdir(parents=True)
    told = {"size_bytes": 3, "chunks": [[3, None]], "begun": []}
    (folder / "upload.json").write_text(
        json.dumps({"upload": None, "expected": {}, "files": {"../../../precious": told}})
    )

    async def body(_: PublicServer, http: httpx.AsyncClient) -> None:
        assert (await http.get("/models/m/files")).status_code == 404
        assert (await put(http, "x.json", b"{}")).status_code == 200
        assert victim.read_text() == "kept"

    visit(tmp_path, body)


def test_two_sets_of_weights_are_refused_before_anything_is_placed(tmp_path: Path) -> None:
    async def body(there: PublicServer, http: httpx.AsyncClient) -> None:
        source = write_checkpoint(tmp_path / "source", shards=2)
        for file in source.iterdir():
            await put(http, file.name, file.read_bytes())
        whole = write_checkpoint(tmp_path / "whole", seed=4) / "model.safetensors"
        await put(http, whole.name, whole.read_bytes())
        refused = await http.post("/models/register", json={"id": "m", "source": "curl"})
        assert refused.status_code == 422
        assert "model.safetensors lies beside model-00001-of-00002.safetensors" in refused.json()["detail"]
        assert list(there.layout.models.iterdir()) == []
        assert (await http.delete("/models/m/files")).status_code == 200
        for file in source.iterdir():
            await put(http, file.name, file.read_bytes())
        registered = await http.post("/models/register", json={"id": "m", "source": "curl"})
        assert registered.status_code == 200, registered.text

    visit(tmp_path / "base", body)
