"""Pages of docs/ that are written by the program they describe, and the site that they are part of."""
