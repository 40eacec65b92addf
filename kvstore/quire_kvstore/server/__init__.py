"""The server: a thread with a socket, which takes each request through its checks to its op."""
