"""Traffic that is kept, with feedback on it."""
