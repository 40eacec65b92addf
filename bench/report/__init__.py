"""Figures, tables, plots and results on disk, and the targets they are held against."""
