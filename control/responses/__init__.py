"""Stored responses and conversations: what /v1/responses is gone on from."""
