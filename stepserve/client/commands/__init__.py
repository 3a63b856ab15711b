"""The groups of the `stepserve` command, one a file."""
