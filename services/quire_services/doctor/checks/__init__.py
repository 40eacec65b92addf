"""The checks of `quire doctor`, a module for each subject; each gives what it has seen and what is wrong."""
