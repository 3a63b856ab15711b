"""ASGI plumbing that knows no models."""
