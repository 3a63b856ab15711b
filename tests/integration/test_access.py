"""Keys and scopes through the real port: gateway and control as they run, over an engine that obeys."""

import asyncio
from pathlib import Path

from tests.eventually import eventually
from tests.integration.full_stack import MODEL, FullStack, bearer, full_stack, run_story, running_control


def test_without_keys_everything_is_open_and_the_first_key_shuts_it(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        assert (await there.chat()).status_code == 200
        refused = await there.http.post("/keys", json={"name": "x"})
        assert refused.status_code == 422
        assert "admin" in refused.json()["detail"]
        made = await there.http.post("/keys", json={"name": "me", "scopes": ["admin"]})
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        assert (await there.chat()).status_code == 401
        assert (await there.chat(made.json()["key"])).status_code == 200
        assert (await there.http.get("/models")).status_code == 401
        for path in ("/livez", "/readyz"):
            assert (await there.http.get(path)).status_code == 200
        assert (await there.http.get("/health")).json() == {"status": "ok"}
        told = await there.http.get("/health", headers=bearer(made.json()["key"]))
        assert told.json()["active_model"] == MODEL

    run_story(tmp_path, story)


def test_each_scope_opens_its_routes_and_no_others(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        keys = {scope: await there.key(scopes=[scope]) for scope in ("admin", "infer", "jobs", "metrics")}
        routes = [
            ("POST", "/v1/chat/completions", {"infer", "admin"}),
            ("GET", "/v1/models", {"infer", "admin"}),
            ("GET", "/jobs", {"jobs", "admin"}),
            ("GET", "/metrics", {"metrics", "admin"}),
            ("GET", "/keys", {"admin"}),
            ("GET", "/audit", {"admin"}),
            ("POST", "/models/rollback", {"admin"}),
            ("GET", "/models", {"admin", "infer", "jobs", "metrics"}),
            ("GET", "/no/such/route", {"admin"}),
        ]
        for method, path, may in routes:
            for scope, key in keys.items():
                answer = await there.http.request(method, path, headers={"x-api-key": key}, json={"model": MODEL})
                assert (answer.status_code == 403) is (scope not in may), (method, path, scope, answer.text)
                if answer.status_code == 403:
                    assert "needs" in answer.text

    run_story(tmp_path, story)


def test_a_path_that_climbs_reaches_nothing(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(scopes=["jobs"])
        port = int(there.url.rpartition(":")[2])
        climbing = ("/jobs/../keys", "/jobs/%2e%2e/keys", "/jobs/%252e%252e/keys", "/jobs/..%2fkeys", "/jobs/./../keys")
        for path in (*climbing, "//keys"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            assert int(answer.split()[1]) in {400, 403, 404}, (path, answer)
            assert b'"keys"' not in answer

    run_story(tmp_path, story)


def test_a_client_cannot_say_who_it_is(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(scopes=["admin"], name="real")
        forged = {"x-stepserve-key": "owner", "x-stepserve-scopes": "admin", **bearer(key)}
        made = await there.http.post("/keys", json={"name": "child"}, headers=forged)
        assert made.json()["created_by"] == key.split("_")[1]
        entry = (await there.http.get("/audit", headers=bearer(key))).json()["entries"][0]
        assert (entry["actor"], entry["target"], entry["status"]) == (key.split("_")[1], "child", 201)
        assert entry["client"] == "127.0.0.1"
        assert made.json()["key"] not in (await there.http.get("/audit", headers=bearer(key))).text
        internal = await there.http.post("/internal/keys/sync", json={"source": "x"}, headers=bearer(key))
        assert internal.status_code == 404

    run_story(tmp_path, story)


def test_the_audit_log_has_actions_of_people_and_nothing_that_the_gateway_asks(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(scopes=["admin"])
        await there.gateway.key_sync.sync()
        queued = await there.http.post("/generate", json={"prompt": "x", "queue": True}, headers=bearer(key))
        assert queued.status_code == 202
        entries = (await there.http.get("/audit", headers=bearer(key))).json()["entries"]
        assert {entry["path"] for entry in entries} == {"/keys", "/models/register", "/models/set_active"}

    run_story(tmp_path, story)


def test_a_revoked_key_is_refused_at_once_and_with_control_away(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        admin = await there.key(scopes=["admin"])
        key = await there.key()
        assert (await there.chat(key)).status_code == 200
        gone = await there.http.delete(f"/keys/{key.split('_')[1]}", headers=bearer(admin))
        assert gone.json()["status"] == "revoked"
        answer = await there.chat(key)
        assert answer.status_code == 401
        assert "revoked" in answer.json()["error"]["message"]
        assert answer.headers["www-authenticate"] == "Bearer"
        assert (await there.http.delete("/keys/0123456789", headers=bearer(admin))).status_code == 404

    run_story(tmp_path, story)


def test_the_last_administrator_cannot_be_locked_out(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        admin = await there.key(scopes=["admin"])
        for listed in (await there.owner.get("/keys")).json()["keys"]:
            if listed["name"] == "first":
                assert (await there.owner.delete(f"/keys/{listed['id']}")).status_code == 200
        refused = await there.http.delete(f"/keys/{admin.split('_')[1]}", headers=bearer(admin))
        assert refused.status_code == 409
        assert (await there.http.get("/keys", headers=bearer(admin))).status_code == 200

    run_story(tmp_path, story)


async def test_keys_are_known_to_a_gateway_that_starts_without_control(tmp_path: Path) -> None:
    async with full_stack(tmp_path) as there:
        key = await there.key()
    async with full_stack(tmp_path, with_control=False) as alone:
        assert (await alone.chat()).status_code == 401
        assert (await alone.chat(key)).status_code == 503  # let in; but no model was loaded
        assert (await alone.http.get("/jobs", headers={"x-api-key": key})).status_code == 403
        async with running_control(alone.settings):
            made = await alone.owner.post("/keys", json={"name": "later"})
            assert (await alone.chat(made.json()["key"])).status_code != 401, "it is let in, with or without a model"


async def test_a_gateway_that_knows_nothing_lets_nobody_in(tmp_path: Path) -> None:
    async with full_stack(tmp_path, with_control=False) as alone:
        answer = await alone.chat()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert (await alone.http.get("/livez")).status_code == 200


def test_what_a_key_used_is_in_the_database_and_in_the_metrics(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(name="counted")
        key_id = key.split("_")[1]
        for _ in range(3):
            await there.chat(key)
        await there.chat(key, model="nobody")
        answer = await eventually(
            lambda: there.owner.get(f"/keys/{key_id}"), lambda seen: seen.json()["usage"]["requests"] >= 3
        )
        shown = answer.json()
        assert [(day["model"], day["requests"]) for day in shown["usage_by_day"]] == [(MODEL, 3)]
        admin = await there.key(scopes=["metrics"])
        metrics = (await there.http.get("/metrics", headers=bearer(admin))).text
        assert f'stepserve_key_requests_total{{key="{key_id}",model="{MODEL}"}} 3.0' in metrics

    run_story(tmp_path, story)


def test_refusals_are_in_each_clients_words(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        await there.key()
        assert (await there.http.post("/v1/messages", json={})).json()["error"]["type"] == "authentication_error"
        assert isinstance((await there.http.post("/api/chat", json={})).json()["error"], str)
        assert "detail" in (await there.http.get("/jobs")).json()

    run_story(tmp_path, story)
