"""Webhooks and other targets that are told of ended jobs and switches, dead engines, and accuracy that fell.

The row of a job or a switch is `unannounced` from the start; `Outbox.announce` turns that, once it has ended, into one
delivery for each webhook that wants the event, in one transaction. So a kill at any moment loses no end and announces
none twice. A delivery is made at least once, with the same `id` each time.
"""
