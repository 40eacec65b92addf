"""Sharing: which block holds which tokens, who is computing what is missing, and who may use what was published."""
