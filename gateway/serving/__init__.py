"""Loaded models: which there are, who may ask them, and how one takes another's place."""
