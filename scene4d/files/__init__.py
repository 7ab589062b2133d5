"""Files of our own and of others."""
