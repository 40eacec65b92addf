"""One node: a real store and its event stream, and how long an engine would take."""
