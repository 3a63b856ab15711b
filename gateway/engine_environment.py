"""What vLLM reads from the environment when it is imported; to be set before that, here and where engines begin."""

import os


def set_defaults(max_sequences_per_request: int) -> None:
    """`max_sequences_per_request`: vLLM's own bounds on `n` and on prompts are drawn there too."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # inference never downloads anything
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # The requests are done when an engine is ended; what is left has nothing to say, and a restart waits for it.
    os.environ.setdefault("VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", "2")
    os.environ.setdefault("VLLM_MAX_N_SEQUENCES", str(max_sequences_per_request))
    os.environ.setdefault("VLLM_MAX_COMPLETION_PROMPTS", str(max_sequences_per_request))
