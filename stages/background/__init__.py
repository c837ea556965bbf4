"""Background: level and rms maps of an image."""
