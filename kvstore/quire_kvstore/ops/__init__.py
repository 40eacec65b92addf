"""Ops: everything a session or an operator can ask of the store, one op a file, as functions of (state, command)."""
