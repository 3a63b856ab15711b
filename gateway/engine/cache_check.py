"""Whether anything that an engine computed with earlier weights is still used for answers."""

import itertools
import uuid
from collections.abc import Sequence
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM


class CacheCheck:
    """The same prompt at every proof. After a change of weights vLLM must find nothing of it in its KV cache.

    A proof's other prompts cannot show that: a request for a prompt's log-probabilities never reads the cache. A block
    that other requests have taken meanwhile cannot show it either, and does no harm.
    """

    def __init__(self, client: AsyncLLM, token_ids: Sequence[int], priority: int) -> None:
        config: Any = client.vllm_config.cache_config
        length = min(config.block_size + 1, client.model_config.max_model_len - 1)
        self._asked = list(itertools.islice(itertools.cycle(token_ids), length))
        self._is_of_use = bool(config.enable_prefix_caching) and length > config.block_size
        self._client = client
        self._priority = priority
        self._must_be_empty = False

    @property
    def tokens(self) -> int:
        """How many it asks for: one more than a block holds."""
        return len(self._asked) if self._is_of_use else 0

    def weights_changed(self) -> None:
        self._must_be_empty = True

    async def stale_tokens(self) -> int:
        """How many tokens of the earlier weights' were used. Raises EngineDeadError."""
        if not self._is_of_use:
            return 0
        params = SamplingParams(
            temperature=0.0, max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        request: Any = {"prompt_token_ids": self._asked}
        unique_id = f"proof-cache-{uuid.uuid4().hex}"
        outputs = [
            output async for output in self._client.generate(request, params, unique_id, priority=self._priority)
        ]
        found = outputs[-1].num_cached_tokens or 0
        must_be_empty, self._must_be_empty = self._must_be_empty, False
        return found if must_be_empty else 0
