"""Grammar: what an answer may be, from the format and the tools, in the words of llguidance."""
