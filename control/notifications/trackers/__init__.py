"""Experiment trackers: results of evals and promotions, by training step, to where people look at their curves.

A webhook with `tracker` in place of a URL. What there is to log (`entry`) is worked out here; it is logged by a process
of its own (`program`), which is killed when it takes too long: a tracker's library is never imported by control.

One can be installed: an entry point in the group `stepserve.trackers` whose object is called with a
`Destination` and an `Entry`. Whatever it raises is a failed attempt, which
is made again later: an entry may come twice.
"""
