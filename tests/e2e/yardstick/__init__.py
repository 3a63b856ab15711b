"""Requests, valid and odd, that a bare vLLM and Stepserve answer alike, but for the differences that are listed."""
