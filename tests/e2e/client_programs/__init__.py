"""Scripted conversations of clients that live in environments of their own: each is given the server's URL and prints
what it saw as JSON.
"""
