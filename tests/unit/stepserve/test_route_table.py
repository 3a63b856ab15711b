"""The one table of routes: who a path belongs to, and what of that a caller is told."""

import pytest

from stepserve.route_table import OWN_NAMES, ROWS, TIER_ROWS, match, normalised, tier_in


def test_every_route_is_itself_in_the_table() -> None:
    for row in (*ROWS, *TIER_ROWS):
        path = row.path.replace("{tier}", "fast").replace("{name:path}", "a/b")
        for method in row.methods:
            assert match(method, path).row is row, f"{method} {row.path}"


def test_no_method_of_a_path_has_two_rows() -> None:
    named = [(method, row.path) for row in (*ROWS, *TIER_ROWS) for method in row.methods]
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("method", "path", "allow", "envelope"),
    [
        ("GET", "/v1/chat/completions", ("POST",), "openai"),
        ("OPTIONS", "/v1/messages", ("POST",), "anthropic"),
        ("DELETE", "/fast/v1/models", ("GET", "HEAD"), "openai"),
        ("DELETE", "/api/tags", ("GET", "HEAD"), "ollama"),
        ("PATCH", "/models/x/files/y", ("POST", "PUT"), "native"),
        ("PUT", "/models/active", ("GET", "PATCH", "DELETE"), "native"),
        ("GET", "/v1/nothing", (), "openai"),
        ("POST", "/api/nothing", (), "ollama"),
        ("GET", "/nothing", (), "native"),
    ],
)
def test_what_is_no_route_is_refused_in_its_neighbours_words(
    method: str, path: str, allow: tuple[str, ...], envelope: str
) -> None:
    found = match(method, path)
    assert (found.row, found.allow, found.envelope) == (None, allow, envelope)


def test_a_parameter_is_what_the_path_has_in_its_place() -> None:
    assert match("PUT", "/models/m/files/a/b.safetensors").params == {"model_id": "m", "name": "a/b.safetensors"}
    assert match("DELETE", "/models/active").params == {"model_id": "active"}
    assert match("POST", "/fast/v1/embeddings").params == {"tier": "fast"}
    assert match("GET", "/v1/responses/resp_1").params == {"response_id": "resp_1"}


@pytest.mark.parametrize(
    ("path", "plain"), [("/", "/"), ("/v1/models/", "/v1/models"), ("/v1/models", "/v1/models"), ("/a//", "/a/")]
)
def test_one_slash_at_the_end_says_nothing(path: str, plain: str) -> None:
    assert normalised(path) == plain


def test_no_tier_can_be_called_as_a_route_is() -> None:
    assert {path.split("/")[1] for path in (row.path for row in ROWS) if path != "/"} <= OWN_NAMES
    assert all(tier_in(f"/{name}/v1/models") is None for name in OWN_NAMES)
