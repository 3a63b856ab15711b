"""Everything that knows vLLM. Nothing outside of it imports vllm or torch."""
