"""`python -m gateway`: the gateway process, with the libraries that an engine needs before all others."""

import importlib

from gateway.engine import libraries
from stepserve.process import without_collector

if __name__ == "__main__":
    libraries.exec_with_them()
    with without_collector():
        server = importlib.import_module("gateway.server")
    server.main()
