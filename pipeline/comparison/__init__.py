"""Judging: catalogues against truth, against each other, and without truth."""
