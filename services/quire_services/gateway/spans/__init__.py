"""Spans: what the gateway tells of a request that is traced: as HTTP, and as a call of a model."""
