"""What every process of the server shares: the contract between gateway and control, settings, paths, supervision."""

__version__ = "0.1.0"
