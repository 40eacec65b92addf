"""Grammars: what an answer may be, as masks of the tokens that may come next. All of llguidance is in here."""
