"""How results are shown: console tables, plots, progress bars, JSON."""
