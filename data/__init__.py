"""Installed data: routes, samples, weights."""
