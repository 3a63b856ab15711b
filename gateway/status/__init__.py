"""Routes that the gateway answers by itself: health, version, configuration, metrics."""
