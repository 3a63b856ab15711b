"""What keys look like, and what each route demands."""

import pytest

from stepserve.access import SCOPES, Demand, allowed, digest_of, id_of, new_token
from stepserve.route_table import demand, tier_in


def test_a_new_key_has_256_random_bits_and_names_its_id() -> None:
    key_id, token = new_token()
    assert id_of(token) == key_id
    assert len(token.rpartition("_")[2]) >= 43 or len(token) == 57
    assert new_token()[1] != token
    assert len(digest_of(token)) == 64
    assert key_id not in digest_of(token)


@pytest.mark.parametrize(
    "token", ["", "sy_", "sk-abc", "sy_0123456789_short", "sy_0123456789_" + "é" * 43, "x" * 100_000]
)
def test_what_was_never_a_key_has_no_id(token: str) -> None:
    assert id_of(token) is None


@pytest.mark.parametrize(
    ("method", "path", "demanded"),
    [
        ("GET", "/livez", "open"),
        ("GET", "/readyz", "open"),
        ("GET", "/health", "open"),
        ("GET", "/", "open"),
        ("POST", "/health", "admin"),
        ("GET", "/metrics", "metrics"),
        ("POST", "/v1/chat/completions", "infer"),
        ("GET", "/v1/models", "infer"),
        ("POST", "/fast/v1/chat/completions", "infer"),
        ("POST", "/generate", "infer"),
        ("POST", "/chat", "infer"),
        ("POST", "/solve/math", "infer"),
        ("POST", "/api/chat", "infer"),
        ("POST", "/tokenize", "infer"),
        ("POST", "/v1/batches", "jobs"),
        ("GET", "/v1/files/f/content", "jobs"),
        ("POST", "/eval/jobs", "jobs"),
        ("POST", "/data_gen/jobs", "jobs"),
        ("GET", "/jobs/x/events", "jobs"),
        ("GET", "/datasets", "jobs"),
        ("POST", "/shards/claim", "jobs"),
        ("GET", "/models", "any"),
        ("GET", "/models/active", "any"),
        ("GET", "/info", "any"),
        ("POST", "/models/register", "admin"),
        ("POST", "/models/set_active", "admin"),
        ("DELETE", "/models/x", "admin"),
        ("PUT", "/models/x/files/y", "admin"),
        ("GET", "/keys", "admin"),
        ("POST", "/keys", "admin"),
        ("GET", "/audit", "admin"),
        ("POST", "/pull", "admin"),
        ("POST", "/api/pull", "admin"),
        ("DELETE", "/api/delete", "admin"),
        ("POST", "/settings/power_profile", "admin"),
        ("GET", "/config", "admin"),
        ("GET", "/logs/jobs", "admin"),
        ("GET", "/modelsx", "admin"),
        ("GET", "/v1x", "admin"),
        ("POST", "/something/new", "admin"),
        ("OPTIONS", "/models", "admin"),
        ("DELETE", "/models/v1", "admin"),
        ("PUT", "/models/v1/files/x", "admin"),
        ("GET", "/jobs/v1/x", "jobs"),
    ],
)
def test_what_a_route_demands(method: str, path: str, demanded: Demand) -> None:
    assert demand(method, path) == demanded


def test_admin_may_everything_and_others_their_own() -> None:
    for scope in SCOPES:
        assert allowed(frozenset({"admin"}), scope)
        assert allowed(frozenset({scope}), scope)
        assert allowed(frozenset({scope}), "any")
    assert not allowed(frozenset({"infer", "jobs", "metrics"}), "admin")
    assert not allowed(frozenset({"infer"}), "jobs")
    assert not allowed(frozenset(), "infer")


@pytest.mark.parametrize(
    ("path", "tier"),
    [
        ("/fast/v1/models", "fast"),
        ("/fast/v1", "fast"),
        ("/v1/models", None),
        ("/v1/v1/x", None),
        ("/fast/v2/x", None),
        ("//v1/x", None),
        ("/models/v1", None),
        ("/datasets/v1/x", None),
        ("/api/v1/x", None),
    ],
)
def test_the_tier_in_a_path(path: str, tier: str | None) -> None:
    assert tier_in(path) == tier
