"""The demo behind ``make demo``: the whole stack on one host, and a table of what was computed and what was shared."""
