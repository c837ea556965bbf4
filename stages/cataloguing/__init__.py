"""Cataloguing: from measured components to linked tables."""
