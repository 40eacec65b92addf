"""The engine: scheduler, model runner and attention backends over a shared arena."""
