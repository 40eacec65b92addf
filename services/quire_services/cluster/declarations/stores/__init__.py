"""Where records lie: a Valkey server, or a directory for nodes of one host."""
