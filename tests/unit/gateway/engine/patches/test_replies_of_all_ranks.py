"""Calls to every rank: what one of them raises is its reply, and is raised once all have been heard."""

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.engine.patches.replies_of_all_ranks import RankFailed, attempt, replies


def _fail(_worker: Any, words: str) -> None:
    raise OSError(words)


def test_a_call_that_raises_has_a_reply() -> None:
    worker = SimpleNamespace(load=lambda path: f"loaded {path}")
    assert attempt("load", worker, "/m") == "loaded /m"
    assert attempt(lambda each, path: each.load(path), worker, path="/n") == "loaded /n"
    failed = attempt(_fail, worker, "no such shard")
    assert isinstance(failed, RankFailed)
    assert failed.error == "OSError: no such shard"
    assert isinstance(attempt("no_such_method", worker), RankFailed)


def test_the_first_rank_that_failed_is_named() -> None:
    assert replies("load", [1, 2]) == [1, 2]
    with pytest.raises(RuntimeError, match="load failed on rank 1 of 3: OSError: no such shard"):
        replies("load", [1, RankFailed(OSError("no such shard")), RankFailed(OSError("nor this"))])
