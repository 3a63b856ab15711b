"""How a trainer's tensors become the body of a push."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from stepserve.client.errors import BadCheckpoint
from stepserve.client.weights import ExpectedTensor, ExpectedWeights, WeightsBody
from stepserve.probe import METADATA_KEY
from stepserve.shard import read_segments

EXPECTED = ExpectedWeights(
    id="m", version=0, digest="sha256:0", bytes=0,
    tensors=[
        ExpectedTensor(name="embed", dtype="BF16", shape=[4, 2]),
        ExpectedTensor(name="norm", dtype="F32", shape=[2]),
    ],
)  # fmt: skip


class Model:
    def __init__(self) -> None:
        self.embed = torch.arange(8, dtype=torch.float32).reshape(4, 2)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"embed": self.embed, "head": self.embed, "norm": torch.ones(2, requires_grad=True)}


def body(pieces: Iterable[bytes | memoryview]) -> bytes:
    return b"".join(pieces)


def test_a_model_is_sent_in_the_servers_types_and_without_its_tied_head(tmp_path: Path) -> None:
    made = WeightsBody.of(Model(), EXPECTED, {"logprobs": [[-1.0]]})
    content = body(made.pieces)
    assert made.length == len(content)
    assert made.headers()["content-length"] == str(len(content))
    file = tmp_path / "body"
    file.write_bytes(content)
    found = read_segments(file, "body")
    assert [(each.name, each.dtype, each.shape) for each in found.tensors] == [
        ("embed", "BF16", (4, 2)),
        ("norm", "F32", (2,)),
    ]
    first = content[found.tensors[0].begin : found.tensors[0].end]
    assert torch.frombuffer(bytearray(first), dtype=torch.bfloat16).tolist() == [float(n) for n in range(8)]
    assert json.loads(found.metadata[METADATA_KEY]) == {"logprobs": [[-1.0]]}


def test_what_is_of_the_servers_type_is_not_copied() -> None:
    embed = torch.zeros(1000, 1000, dtype=torch.bfloat16)
    pieces = [piece for piece in WeightsBody.of({"embed": embed}, EXPECTED, None).pieces if len(piece) > 100]
    assert isinstance(pieces[0], memoryview)
    embed += 1
    assert bytes(pieces[0][:2]) == b"\x80\x3f"


def test_an_iterable_is_read_once_as_it_is_sent() -> None:
    made = WeightsBody.of(iter(Model().state_dict().items()), EXPECTED, None)
    assert made.length is None
    assert "content-length" not in made.headers()
    assert b"head" in body(made.pieces)
    assert body(made.pieces) == b""


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(BadCheckpoint, match="step is not a PyTorch tensor that can be sent, but a int"):
        WeightsBody.of({"step": 3}, EXPECTED, None)
