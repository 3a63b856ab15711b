"""The HTTP routes of control, one noun a file."""
