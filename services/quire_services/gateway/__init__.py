"""The gateway: HTTP on one side, engines on the other."""
