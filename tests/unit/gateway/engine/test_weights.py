"""What a worker reads of the pushed tensors: just what was sent, wherever a tensor begins in the file."""

import torch
from safetensors.torch import load_file, save

from gateway.engine.weights.tensors import tensors_in
from gateway.serving.weights.staged import StagedWeights
from tests.e2e.server import EARLY


def test_every_type_from_any_place() -> None:
    torch.manual_seed(0)
    tensors = {
        f"{dtype}".removeprefix("torch."): torch.randn(3, 5).to(dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.int64)
    }
    weights = StagedWeights()
    odd = save({"odd": torch.tensor([1, 2, 3], dtype=torch.uint8)})  # what follows begins between two numbers
    weights.path.write_bytes(odd + b"".join(save({name: tensor}) for name, tensor in tensors.items()))
    found = {name: tensor.clone() for name, tensor in tensors_in(weights.path)}
    weights.close()
    assert found.pop("odd").tolist() == [1, 2, 3]
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_checkpoints_own_file() -> None:
    file = EARLY / "model.safetensors"
    whole = load_file(file)
    found = dict(tensors_in(file))
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
