"""A canary: a share of the requests for `active` goes to a candidate that is loaded beside the active model.

`choice` says which requests, and `guards` when to stop; both are pure. `canary` has what is so now. It changes nothing
of what is loaded: a request whose candidate is not loaded any more is answered by the active model.
"""
