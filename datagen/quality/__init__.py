"""What can be said of a job's examples: measured in one pass over its log, and held against its config's limits."""
