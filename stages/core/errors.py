"""Errors a user can act on: one sentence that says what is wrong and what to do."""


class CycladesError(Exception):
    """Base of every error that is the input's fault; the command line turns it into exit code 2."""


class InputError(CycladesError, ValueError):
    """An image, mask or table that cannot be used as it is."""


class BlankImageError(InputError):
    """An image of which no pixel can be used."""


class ConfigurationError(CycladesError, ValueError):
    """An unknown stage, an unknown or invalid parameter, or stages that do not fit together."""


class OutputError(CycladesError, OSError):
    """A product or catalogue that cannot be written where it was asked for."""
