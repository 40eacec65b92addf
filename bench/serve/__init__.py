"""What agents see over HTTP, of our servers and of peers'."""
