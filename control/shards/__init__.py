"""Shards of training examples: their names, and the inbox that trainers take them from."""
