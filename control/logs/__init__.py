"""The ends of log files."""
