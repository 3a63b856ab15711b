"""The groups of the `switchyard` command, one a file."""
