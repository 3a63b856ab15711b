"""A simulated fleet: the real decisions, on a virtual clock, over members with given service times and failures."""
