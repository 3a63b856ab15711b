"""A request before any model is chosen: its route, its bounds, its size. Pure."""
