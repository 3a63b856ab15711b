"""A real gateway as a member of a real control plane, over engines that are told what to answer."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from gateway.errors import JoinRefused, StageFailed, StageNoSpace
from gateway.fleet.files import MemberFiles
from gateway.fleet.membership import Membership, control_client
from stepserve.contract import GatewayState, ModelRef
from stepserve.fleet import FileEntry, FileManifest, FileSource, StageRequest, file_ticket
from stepserve.fleet_settings import FleetSettings
from tests.e2e.server import free_port
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control_plane, settings_of
from tests.integration.echo_kind import EchoKind
from tests.integration.full_stack import FullStack, bearer, full_stack
from tests.unit.control.checkpoint_files import write_checkpoint
from tests.unit.gateway.fakes import FakeEngine

LEASE_S = 1.0
EMPTY = GatewayState(boot_id="1", pid=1, active=None, switching_to=None, slots=[], held=0)


@asynccontextmanager
async def member(
    base: Path,
    head: str,
    key: str | None,
    make_engine: Callable[[ModelRef], FakeEngine] = FakeEngine,
    control_socket: Path | None = None,
) -> AsyncIterator[FullStack]:
    """A gateway that joins; leaving it is its stop."""
    fleet = FleetSettings(control=head, api_key=SecretStr(key) if key else None, id="m1", control_socket=control_socket)
    async with full_stack(base, with_control=False, make_engine=make_engine, port=free_port(), fleet=fleet) as there:
        assert there.gateway.member is not None
        joining = asyncio.create_task(there.gateway.member.membership.run(lambda: asyncio.sleep(0)))
        try:
            yield there
        finally:
            joining.cancel()
            await asyncio.wait({joining})


async def ready(there: FullStack, wanted: int) -> Any:
    """The body of /readyz, once it has that status."""

    async def look() -> httpx.Response:
        return await there.http.get("/readyz")

    return (await eventually(look, lambda answer: answer.status_code == wanted)).json()


async def test_a_member_has_controls_keys_and_what_is_committed_there(tmp_path: Path) -> None:
    async with full_stack(tmp_path / "head", fleet=FleetSettings(lease_s=LEASE_S)) as head:
        admin = bearer(await head.key(scopes=["admin"]))
        fleet_key, infer_key = await head.key(scopes=["fleet"]), await head.key(scopes=["infer"])
        async with member(tmp_path / "m1", head.url, fleet_key) as there:
            await ready(there, 200)
            assert (await there.chat()).status_code == 401
            answer = await there.chat(infer_key)
            assert (answer.status_code, answer.headers["x-model-id"]) == (200, "a")
            seen = (await head.http.get("/fleet", headers=bearer(fleet_key))).json()
            assert [(each["id"], each["state"]) for each in seen["gateways"]] == [
                ("local", "ready"),
                ("m1", "ready"),
            ]
            assert (await head.http.get("/fleet", headers=bearer(infer_key))).status_code == 403
            assert (await there.http.get("/models", headers=admin)).status_code == 421
            going_on = {"model": "a", "input": "x", "previous_response_id": "resp_1"}
            refused = await there.http.post("/v1/responses", json=going_on, headers=bearer(infer_key))
            assert (refused.status_code, refused.json()["error"]["code"]) == (421, "control_elsewhere")

            for token in (None, fleet_key, "x" * 43):
                asked = bearer(token) if token else {}
                assert (await there.http.get("/internal/member/state", headers=asked)).status_code == 401

            write_checkpoint(head.settings.layout.models / "b", 1)
            for path, body in (("register", {"id": "b", "source": "t"}), ("set_active", {"id": "b"})):
                done = await head.http.post(f"/models/{path}", json=body, headers=admin)
                assert done.status_code == 200, done.text
            assert [each["id"] for each in done.json()["gateways"]] == ["local", "m1"]
            assert (await there.chat(infer_key, model="active")).headers["x-model-id"] == "b"

            assert (await head.http.post("/fleet/m1/cordon", headers=admin)).status_code == 200
            assert "cordoned by hand" in (await ready(there, 503))["reason"]
            audit = (await head.http.get("/audit", headers=admin)).json()["entries"]
            assert "/fleet/m1/cordon" in {entry["path"] for entry in audit}
        gone = (await head.http.get("/fleet", headers=admin)).json()["gateways"][1]
        assert (gone["state"], gone["reason"]) == ("lost", "it was stopped")


async def test_a_member_that_control_does_not_hear_serves_on_and_is_not_ready(tmp_path: Path) -> None:
    async with full_stack(tmp_path / "head", fleet=FleetSettings(lease_s=LEASE_S)) as head:
        started = member(tmp_path / "m1", head.url, "")
        there = await started.__aenter__()
        await ready(there, 200)
    reason = (await ready(there, 503))["reason"]
    assert "the control plane does not hear this member" in reason
    assert (await there.chat()).status_code == 200
    await started.__aexit__(None, None, None)


async def test_a_member_on_controls_machine_needs_neither_a_key_nor_the_head(tmp_path: Path) -> None:
    """`stepserve up --replicas` starts such; nobody listens at the head's address here."""

    head_url = f"http://127.0.0.1:{free_port()}"
    async with full_stack(tmp_path / "head", fleet=FleetSettings(lease_s=LEASE_S)) as head:
        infer_key, admin_key = await head.key(scopes=["infer"]), await head.key(scopes=["admin"])
        socket = head.settings.layout.control_socket
        async with member(tmp_path / "m1", head_url, None, control_socket=socket) as there:
            await ready(there, 200)
            assert (await there.chat()).status_code == 401
            answer = await there.chat(infer_key)
            assert (answer.status_code, answer.headers["x-model-id"]) == (200, "a")
            elsewhere = await there.http.get("/models", headers=bearer(admin_key))
            assert (elsewhere.status_code, head_url in elsewhere.text) == (421, True)
    with pytest.raises(ValueError, match=r"control_socket is the way to fleet\.control, which is not set"):
        FleetSettings(control_socket=tmp_path)


async def test_a_member_answers_for_jobs_and_for_control_alone(tmp_path: Path) -> None:
    engines: list[FakeEngine] = []

    def make(model: ModelRef) -> FakeEngine:
        engines.append(FakeEngine(model))
        return engines[-1]

    async with full_stack(tmp_path / "head", kinds=[EchoKind()], fleet=FleetSettings(lease_s=60)) as head:
        admin = await head.key(scopes=["admin"])
        async with member(tmp_path / "m1", head.url, await head.key(scopes=["fleet"]), make) as there:
            await ready(there, 200)
            await eventually(
                lambda: head.owner.get("/fleet"), lambda seen: seen.json()["gateways"][1]["state"] == "ready"
            )
            made = (await head.owner.post("/echo/jobs", json={"model_id": "a", "steps": 6})).json()
            look = f"/jobs/{made['job_id']}"
            job = (await eventually(lambda: head.owner.get(look), lambda seen: seen.json()["status"] == "done")).json()
            assert job["result"]["texts"] == ["a"] * 6
            assert [engine.batched for engine in (head.engine, *engines)] == [3, 3]

            assert there.gateway.member is not None
            token = there.gateway.member.membership.token
            digest = engines[0].ref.digest
            for key, asked, status in (
                (admin, digest, 401), (token, "sha256:other", 409), (token, digest, 200)
            ):  # fmt: skip
                body = {"model": "a", "digest": asked, "items": [{"prompt": "?"}]}
                answer = await there.http.post("/internal/member/batch", json=body, headers=bearer(key))
                assert answer.status_code == status, answer.text


async def test_a_wrong_key_ends_the_start(tmp_path: Path) -> None:
    async with full_stack(tmp_path / "head") as head:
        infer = await head.key(scopes=["infer"])
        for key, said in ((infer, "has the scopes infer; POST /fleet/join needs fleet"), ("wrong", "malformed")):
            fleet = FleetSettings(control=head.url, api_key=SecretStr(key))
            settings = settings_of(tmp_path, fleet=fleet)
            control = control_client(settings)
            with pytest.raises(JoinRefused, match=said):
                await Membership(settings, control, lambda: EMPTY).run(lambda: asyncio.sleep(0))
            await control.aclose()


async def staging(here: ControlPlane) -> tuple[StageRequest, FileManifest]:
    """Of the model `a`, as a member asks that does not see control's folder."""
    manifest = FileManifest.model_validate(await here.get("/fleet/files/a"))
    model = ModelRef(id="a", path="/nowhere/a", digest=manifest.digest)
    return StageRequest(model=model, manifests=[manifest]), manifest


async def test_a_member_fetches_what_it_lacks(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "head") as here:
        await here.add_model("a")
        source = here.layout.models / "a"
        asked: list[tuple[str, str]] = []

        async def note(request: httpx.Request) -> None:
            asked.append((request.url.path.rpartition("/")[2], request.headers.get("range", "")))

        here.http.event_hooks["request"].append(note)
        request, manifest = await staging(here)
        same = await MemberFiles(tmp_path / "same", here.http, here.http, list).stage(
            request.model_copy(update={"model": request.model.model_copy(update={"path": str(source)})})
        )
        assert (same.model.path, same.fetched_bytes) == (str(source), 0), "the folder is seen here too"

        asked.clear()
        files = MemberFiles(tmp_path / "m", here.http, here.http, list)
        first = await files.stage(request)
        folder = Path(first.model.path)
        assert folder.parent == tmp_path / "m"
        size_bytes = sum(file.size_bytes for file in manifest.files)
        assert first.fetched_bytes == size_bytes
        assert {file.name for file in manifest.files} == {name for name, _ in asked}
        for file in manifest.files:
            assert (folder / file.name).read_bytes() == (source / file.name).read_bytes()

        asked.clear()
        assert (await files.stage(request)).fetched_bytes == 0
        assert asked == [], "what is there is not asked for again"

        weights = folder / "model.safetensors"
        whole = weights.read_bytes()
        weights.unlink()
        weights.with_name(".model.safetensors.part").write_bytes(whole[:100])
        resumed = await files.stage(request)
        assert asked == [("model.safetensors", "bytes=100-")]
        assert resumed.fetched_bytes == len(whole) - 100
        assert weights.read_bytes() == whole

        weights.unlink()
        weights.with_name(".model.safetensors.part").write_bytes(b"?" * len(whole))
        with pytest.raises(StageFailed, match=r"model\.safetensors of a came with other content"):
            await files.stage(request)
        assert (await files.stage(request)).fetched_bytes == len(whole), "what is wrong is not kept"


async def test_a_member_fetches_from_another_and_from_control_where_that_fails(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "head") as here, httpx.AsyncClient() as peers:
        await here.add_active("a")
        async with member(tmp_path / "m1", "http://head", None) as there:
            assert there.gateway.member is not None
            token = there.gateway.member.membership.token
            request, manifest = await staging(here)
            seen = request.model.model_copy(update={"path": str(here.layout.models / "a")})
            await there.gateway.member.files.stage(request.model_copy(update={"model": seen}))
            asked: list[str] = []

            async def note(sent: httpx.Request) -> None:
                asked.append(sent.url.path)

            here.http.event_hooks["request"].append(note)
            later, past = int(time.time()) + 600, int(time.time()) - 600
            for number, (expires_s, digest, secret, from_control) in enumerate((
                (later, manifest.digest, token, False),
                (past, manifest.digest, token, True),
                (later, "sha256:other", token, True),
                (later, manifest.digest, "x" * 40, True),
            )):  # fmt: skip
                asked.clear()
                ticket = file_ticket(secret, digest, expires_s)
                source = FileSource(url=there.url, ticket=ticket, expires_s=expires_s)
                files = MemberFiles(tmp_path / f"m{number}", here.http, peers, list)
                placed = await files.stage(request.model_copy(update={"source": source}))
                for file in manifest.files:
                    fetched = Path(placed.model.path) / file.name
                    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == file.sha256
                assert bool(asked) == from_control, (number, asked)

            ticket = file_ticket(token, manifest.digest, later)
            headers = {"authorization": f"Ticket {later}.{ticket}"}
            for path, status in (
                (f"/internal/member/files/{manifest.digest}/config.json", 200),
                (f"/internal/member/files/{manifest.digest}/../state", 401),
                (f"/internal/member/files/{manifest.digest}/none", 404),
                ("/internal/member/state", 401),
            ):
                assert (await there.http.get(path, headers=headers)).status_code == status, path


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
async def test_a_link_in_the_place_of_a_half_fetched_file_is_not_written_through(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    async with control_plane(tmp_path / "head") as here:
        await here.add_model("a")
        files = MemberFiles(tmp_path / "m", here.http, here.http, list)
        request, _ = await staging(here)
        weights = Path((await files.stage(request)).model.path) / "model.safetensors"
        whole, mine = weights.read_bytes(), tmp_path / "mine"
        mine.write_bytes(b"mine")
        weights.unlink()
        link(weights.with_name(".model.safetensors.part"), mine)
        await files.stage(request)
        assert (weights.read_bytes(), mine.read_bytes()) == (whole, b"mine")


async def test_an_empty_file_is_a_file_too(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "head") as here:
        await here.add_model("a")
        (here.layout.models / "a" / "merges.txt").touch()
        request, _ = await staging(here)
        folder = Path((await MemberFiles(tmp_path / "m", here.http, here.http, list).stage(request)).model.path)
        assert (folder / "merges.txt").read_bytes() == b""


def test_room_is_wanted_only_for_what_is_to_come_and_made_of_what_nothing_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that has room for `free_bytes` and for what is removed from it."""
    size_bytes, free_bytes = 5_000_000_000, 0
    earlier = [tmp_path / "m" / name for name in ("loaded", "old", "older")]

    def disk_usage(_folder: object) -> SimpleNamespace:
        removed = sum(not each.exists() for each in earlier)
        return SimpleNamespace(free=free_bytes + removed * 4_000_000_000)

    async def run() -> None:
        nonlocal free_bytes
        async with control_plane(tmp_path / "head") as here:
            await here.add_model("a")
            request, manifest = await staging(here)
            for each in earlier:
                each.mkdir(parents=True)
            wrong = FileEntry(name="config.json", size_bytes=size_bytes, sha256="0" * 64)
            wanted = manifest.model_copy(update={"files": [wrong]})
            files = MemberFiles(tmp_path / "m", here.http, here.http, lambda: earlier[:1])
            request = request.model_copy(update={"manifests": [wanted]})
            monkeypatch.setattr("gateway.fleet.files.shutil.disk_usage", disk_usage)

            with pytest.raises(StageFailed, match="came with other content"):
                await files.stage(request)
            assert [each.exists() for each in earlier] == [True, False, False], "but for what is loaded"

            folder = next(each for each in (tmp_path / "m").iterdir() if each not in earlier)
            part = folder / ".config.json.part"
            with part.open("wb") as stream:
                stream.truncate(size_bytes - 10)
            free_bytes = 200_000_000 - 8_000_000_000
            with pytest.raises(StageFailed, match=r"control refuses config\.json of a: 416"):  # so it was asked
                await files.stage(request)
            part.unlink()
            with pytest.raises(StageNoSpace, match=r"needs 5\.10 GB more"):
                await files.stage(request)
            monkeypatch.undo()

    asyncio.run(run())


async def test_files_come_in_ranges_by_content_and_nothing_else_does(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "head") as here:
        await here.add_model("a")
        files = MemberFiles(tmp_path / "m", here.http, here.http, list)
        request, manifest = await staging(here)
        first = manifest.files[0]

        def with_first(**changes: Any) -> StageRequest:
            wrong = manifest.model_copy(update={"files": [first.model_copy(update=changes)]})
            return request.model_copy(update={"manifests": [wrong]})

        with pytest.raises(StageFailed, match="is not a name of a model's file"):
            await files.stage(with_first(name="../../etc/passwd"))
        with pytest.raises(StageNoSpace, match="GB are free"):
            await files.stage(with_first(size_bytes=10**18))
        with pytest.raises(StageFailed, match="control refuses none of a: 404"):
            await files.stage(with_first(name="none", size_bytes=5))
        with pytest.raises(StageFailed, match="control named no files of a"):
            await files.stage(request.model_copy(update={"manifests": []}))

        listed = await here.get("/fleet/files/a")
        assert {"config.json", "model.safetensors"} <= {file["name"] for file in listed["files"]}
        for file in listed["files"]:
            url = f"/fleet/files/a/{file['name']}?digest={listed['digest']}"
            whole = (await here.http.get(url)).content
            assert (len(whole), hashlib.sha256(whole).hexdigest()) == (file["size_bytes"], file["sha256"])
            if len(whole) > 1:
                rest = await here.http.get(url, headers={"range": "bytes=1-"})
                assert (rest.status_code, rest.content) == (206, whole[1:])
        stale = await here.http.get(f"/fleet/files/a/config.json?digest=sha256:{'0' * 64}")
        assert stale.status_code == 409
        assert (await here.http.get(f"/fleet/files/a/..%2fdb.sqlite?digest={listed['digest']}")).status_code == 404


async def test_a_member_keeps_a_few_models_and_those_that_are_loaded(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "head") as here:
        loaded: list[Path] = []
        files = MemberFiles(tmp_path / "m", here.http, here.http, lambda: loaded)
        folders = []
        for number in range(5):
            await here.add_model(f"a{number}", seed=number)
            manifest = FileManifest.model_validate(await here.get(f"/fleet/files/a{number}"))
            model = ModelRef(id=f"a{number}", path="/nowhere", digest=manifest.digest)
            folders.append(Path((await files.stage(StageRequest(model=model, manifests=[manifest]))).model.path))
            loaded[:] = folders[:1]
        assert [folder.exists() for folder in folders] == [True, False, True, True, True]
