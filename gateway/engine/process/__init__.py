"""An engine's processes: where they come from, what runs inside them, and how they end."""
