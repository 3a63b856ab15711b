"""Which model the gateway serves: one writer, and what keeps both sides agreed."""
