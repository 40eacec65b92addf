"""HTTP: connections, bounds, origins, errors, and what is done for every request."""
