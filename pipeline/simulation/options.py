"""What the options of every simulated field have in common."""

from cyclades.pipeline.options import Options
from cyclades.pipeline.simulation.geometry import CENTRE
from cyclades.stages.core.stage import parameter


class SimulationOptions(Options):
    """A simulated field: its size and place."""

    size: int = parameter(1024, "Side of the image.", unit="pixels", ge=32, le=32768)
    ra: float = parameter(CENTRE[0], "Right ascension of the centre.", unit="deg", ge=0.0, lt=360.0)
    dec: float = parameter(CENTRE[1], "Declination of the centre.", unit="deg", ge=-90.0, le=90.0)
