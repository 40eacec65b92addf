"""What is sent: agents over HTTP and how they are played, and traces of requests."""
