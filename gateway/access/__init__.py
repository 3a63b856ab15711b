"""Who may do what, and how much: decided for every request before anything else."""
