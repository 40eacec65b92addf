"""Configuration: settings, their loader, and files that people name."""
