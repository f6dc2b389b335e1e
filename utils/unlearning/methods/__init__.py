"""One file for each family of methods."""
