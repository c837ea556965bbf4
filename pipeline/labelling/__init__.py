"""Labels by people: a page that starts from what a route finds, and what comes of decisions."""
