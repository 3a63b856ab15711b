"""The verifiers that come with Stepserve, one a file."""
