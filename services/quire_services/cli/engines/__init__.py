"""What an operator does with the engines of a running stack, over the gateway's admin API."""
