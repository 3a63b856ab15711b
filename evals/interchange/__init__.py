"""Runs in the formats of other harnesses: inspect-ai's log and lm-eval's files, written and read."""
