"""One page a module; `show` draws it."""
