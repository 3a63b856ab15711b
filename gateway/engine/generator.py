"""Random generators of seeded requests on the CPU, which vLLM must be able to turn back.

When a prompt is read in parts, vLLM samples a token after each part, throws it away, and turns the request's generator
back by `set_offset`. A CPU generator has no offset: the call raises, and the engine dies of one request with a seed.
"""

from typing import Any

import torch

_DRAWN = 4  # what vLLM takes off the offset for one token


class RewindableGenerator(torch.Generator):
    """On the CPU, turned back means to its seed.

    That is exact before a request's first token. One that was preempted and begins again draws its first numbers anew.
    """

    def get_offset(self) -> int:
        return _DRAWN if self.device.type == "cpu" else super().get_offset()

    def set_offset(self, offset: int) -> Any:
        return self.manual_seed(self.initial_seed()) if self.device.type == "cpu" else super().set_offset(offset)
