"""Requests and answers that are kept to learn from, and what people say of the answers."""
