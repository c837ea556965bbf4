"""Looking at images with the sources of catalogues: in notebooks, as a page, in other programs."""
