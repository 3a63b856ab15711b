"""Live updates of weights, on the engine's side."""
