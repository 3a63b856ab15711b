"""Ollama's API: the routes that its clients use, answered by vLLM's."""
