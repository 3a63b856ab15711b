"""A Kubernetes operator: a CheckpointRollout says which model is to serve, and its status what became of that.

It is a client and nothing else: `plan` decides from what the resource and the server say, `driver` asks the server,
`handlers` hand both to kopf, and `observer` tells a resource when another model became active. Nothing is kept in the
process, so that it may be killed at any moment. Needs the extra `operator`; deploy/kubernetes/operator has the CRD.
"""
