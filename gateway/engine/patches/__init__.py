"""Every change to vLLM's behaviour, a file each: the description (`PATCH`) and the code that makes the change.

These files import nothing of vLLM before a hook runs, so that the registry can be read before vLLM is imported, and by
an engine's process without what only the front end needs. docs/engine-patches.md is tested against the registry.
"""
