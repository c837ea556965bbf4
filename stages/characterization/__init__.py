"""Characterization: positions, fluxes and shapes, with their errors."""
