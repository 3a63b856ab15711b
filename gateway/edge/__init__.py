"""What surrounds every request on the public port."""
