"""Images and catalogues of published radio surveys, fetched where a user's own image lies."""
