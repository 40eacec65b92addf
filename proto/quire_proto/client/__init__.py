"""The client library: sessions, their sockets and threads, and one named call an op."""
