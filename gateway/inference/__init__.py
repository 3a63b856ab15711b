"""From a request to the model that answers it, on the public port and from inside."""
