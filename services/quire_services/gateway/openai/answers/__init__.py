"""What is around the choices of an answer."""
