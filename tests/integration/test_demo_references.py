"""The references that come with the demo checkpoints: of these very files, and what computing them gives here."""

import asyncio
import json

import pytest

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from demo.references import CHECKPOINTS, FOLDER, HERE, compute, file_name
from stepserve.contract import Reference

pytestmark = pytest.mark.long


def test_there_is_one_for_each_checkpoint_and_no_other() -> None:
    digests = {inspect(HERE / "checkpoints" / name, DigestCache()).digest for name in CHECKPOINTS}
    assert {file.name for file in FOLDER.iterdir()} == {file_name(digest) for digest in digests}


def test_computing_one_gives_what_is_shipped() -> None:
    digest, computed = asyncio.run(compute("step-1500"))
    shipped = Reference.model_validate(json.loads((FOLDER / file_name(digest)).read_text()))
    assert (shipped.kind, shipped.prompt_token_ids) == ("computed", computed.prompt_token_ids)
    assert shipped.encodings == computed.encodings
    pairs = zip(shipped.logprobs, computed.logprobs, strict=True)
    assert all(ours == pytest.approx(theirs, abs=0.05) for ours, theirs in pairs)
