"""A gateway as a member of a fleet: it joins a control plane, which drives it over the private API by a token."""
