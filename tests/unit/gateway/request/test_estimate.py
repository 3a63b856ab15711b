import pytest

from gateway.request.body import RequestBody
from gateway.request.estimate import DEFAULT_MAX_TOKENS, estimate_of


@pytest.mark.parametrize(
    ("body", "model", "max_tokens"),
    [
        (b'{"model": "a", "max_tokens": 5}', "a", 5),
        (b'{"model": "a", "max_completion_tokens": 7, "max_tokens": 5}', "a", 7),
        (b'{"max_output_tokens": 9}', None, 9),
        (b'{"model_id": "b", "max_new_tokens": 3}', "b", 3),
        (b'{"options": {"num_predict": 11}}', None, 11),
        (b'{"max_tokens": 5, "n": 3}', None, 15),
        (b'{"max_tokens": 5, "prompt": ["a", "b"]}', None, 10),
        (b'{"max_tokens": 5, "prompt": [[1, 2], [3]], "n": 2}', None, 20),
        (b'{"max_tokens": 5, "prompt": [1, 2, 3]}', None, 5),
        (b'{"max_tokens": 5, "prompt": ["a", "b"], "best_of": 3, "n": 2}', None, 30),
        (b'{"max_tokens": "5", "n": "3"}', None, 15),
        (b'{"max_tokens": 5.0, "n": 3.0}', None, 15),
        (b'{"max_tokens": 5, "prompt_embeds": ["eA==", "eA=="]}', None, 10),
        (b'{"input": ["a", "b", "c"]}', None, DEFAULT_MAX_TOKENS),
        (b'{"max_tokens": 5, "prompt": ["a", "b"], "n": 3, "input": ["x"]}', None, 30),
        (b'{"input": "a"}', None, DEFAULT_MAX_TOKENS),
        (b'{"messages": []}', None, DEFAULT_MAX_TOKENS),
        (b'{"max_tokens": "many", "n": [], "model": 3, "options": 5}', None, DEFAULT_MAX_TOKENS),
        (b'{"max_tokens": -5, "n": true}', None, DEFAULT_MAX_TOKENS),
        (b"[]", None, 0),
        (b"not json", None, 0),
        (b"\xff", None, 0),
        (b"[" * 100_000, None, 0),
    ],
)
def test_what_a_body_asks_for(body: bytes, model: str | None, max_tokens: int) -> None:
    found = estimate_of(RequestBody(body))
    assert (found.model, found.max_tokens) == (model, max_tokens)


def test_input_is_prompts_where_vectors_are_made() -> None:
    for path in ("/v1/embeddings", "/api/embed", "/reasoning/v1/embeddings"):
        found = estimate_of(RequestBody(b'{"input": ["a", "b", "c"]}'), path)
        assert (found.sequences.total, found.max_tokens) == (3, 0)


def test_an_absurd_bound_is_a_bound() -> None:
    body = RequestBody(b'{"max_tokens": 9223372036854775807, "n": 9223372036854775807}')
    assert estimate_of(body).tokens < 1 << 41
    long = RequestBody(b'{"max_tokens": 1, "prompt": "' + b"x" * 4000 + b'"}')
    assert estimate_of(long).prompt_tokens > 1000
