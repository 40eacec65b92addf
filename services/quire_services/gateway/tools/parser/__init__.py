"""Parser: an answer's text, in pieces, to content, reasoning and tool calls."""
