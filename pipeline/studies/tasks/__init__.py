"""Tasks of studies: their data, their splits, and how a cell of the grid is trained and scored."""
