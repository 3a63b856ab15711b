"""A safetensors file's header, with control's errors (stepserve.shard reads it)."""

from pathlib import Path

from control.errors import Invalid
from stepserve import shard
from stepserve.shard import Tensor

__all__ = ["Tensor", "read_tensors"]


def read_tensors(file: Path) -> list[Tensor]:
    """The file's tensors in the order of their bytes. Blocks; reads the header alone. Raises Invalid."""
    try:
        return shard.read_tensors(file)
    except shard.BadShard as error:
        raise Invalid(str(error)) from error
