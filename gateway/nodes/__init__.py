"""One model over several machines.

The gateway's machine is the *head*. Every other *node* runs `stepserve node`, which joins the head over one TCP
connection, gets orders to run its share of a model's ranks, and says when they have ended. vLLM's own connections go
between the ranks themselves.
"""
