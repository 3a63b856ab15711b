import pytest

from gateway.request.body import RequestBody


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model": "a", "messages": []}', "a"),
        (b'{"messages": [{"model": "inner"}]}', None),
        (b'{"model": null}', None),
        (b'{"model": 3}', None),
        (b'{"model": ', None),
        (b"[]", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b'{"messages":' + b"[" * 100_000, None),
        ('{"model": "modèle"}'.encode(), "modèle"),
    ],
)
def test_the_model_a_body_names(body: bytes, name: str | None) -> None:
    assert RequestBody(body).model == name


def test_an_empty_object_is_one() -> None:
    assert RequestBody(b"{}").is_object
    assert not RequestBody(b"[]").is_object
