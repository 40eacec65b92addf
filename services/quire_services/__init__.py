"""Entry points, configuration, signals and HTTP."""
