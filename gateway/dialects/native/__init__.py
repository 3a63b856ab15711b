"""Stepserve's own inference routes: /generate, /chat, /solve/math, /solve/coding."""
