"""What commands say on the terminal besides their results."""

import logging


def log_to_terminal(verbose: bool = False, quiet: bool = False) -> None:
    """Send the cyclades log, and the warnings of libraries where asked, to the terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("cyclades")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)
    # headers of real images make astropy warn about what the reader has already judged
    logging.captureWarnings(True)
    warnings = logging.getLogger("py.warnings")
    warnings.handlers = [handler if verbose else logging.NullHandler()]
    warnings.propagate = False
