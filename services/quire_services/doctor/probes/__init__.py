"""Probes: what could hang, or end the process that asks, is asked by a child; each prints one JSON object."""
