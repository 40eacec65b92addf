"""The served model: where its settings lead, and what is said of one that cannot be served."""
