"""Tracing: OpenTelemetry behind the spans of this stack. Imported only by a process that has an endpoint."""
