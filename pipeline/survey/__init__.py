"""Many images: a journal, workers on one machine or many, and the survey that they make."""
