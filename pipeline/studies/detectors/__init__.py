"""Detectors of many kinds in one table."""
