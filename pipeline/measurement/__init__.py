"""Measuring known sources: on one image, at several frequencies, epochs or Stokes parameters."""
