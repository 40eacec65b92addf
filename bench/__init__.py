"""Benches: what Quire costs and what it brings, alone and beside peers; `README.md` says how each is run."""
