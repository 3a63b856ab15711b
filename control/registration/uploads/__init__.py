"""Checkpoints that arrive over HTTP: kept aside in pieces until one is whole."""
