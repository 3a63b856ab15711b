"""Policies: the jobs that are made by themselves when a model is registered.

`request` is what is asked for, `steps` makes requests for jobs of it, `book` is its SQL, `runner` the loop.
"""
