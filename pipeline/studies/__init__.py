"""Studies: grids of trainings that resume cell by cell, and what they say."""
