"""The kernels on a GPU: their tests, and their times against ceilings of the same run."""
