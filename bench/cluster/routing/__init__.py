"""What routers in front of many nodes do, with what they may know."""
