"""Commands that show and change nothing: the settings, a running pool."""
