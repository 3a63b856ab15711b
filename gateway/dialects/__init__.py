"""Routes of other vocabularies than OpenAI's: each asks one of vLLM's own routes, in process, and translates."""
