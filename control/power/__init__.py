"""How much power the cards may draw, and how many jobs may run."""
