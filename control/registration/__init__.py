"""From files to a model."""
