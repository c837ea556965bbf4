"""From the options of a task to the task."""

from cyclades.pipeline.studies.options import TaskOptions
from cyclades.pipeline.studies.tasks.base import Task
from cyclades.pipeline.studies.tasks.detection_options import (
    FirstDetectionOptions,
    SimulatedDetectionOptions,
    SurveyDetectionOptions,
)
from cyclades.pipeline.studies.tasks.morphology_options import MorphologyOptions


def build_task(name: str, options: TaskOptions) -> Task:
    """Make a task.

    Parameters
    ----------
    name : str
        In the configuration.
    options : TaskOptions

    Raises
    ------
    ConfigurationError
        Where options of its trainings are wrong.
    """
    if isinstance(options, MorphologyOptions):
        from cyclades.pipeline.studies.tasks.morphology import Morphology

        return Morphology(name, options)
    from cyclades.pipeline.studies.tasks.detection import (
        FirstDetection,
        SimulatedDetection,
        SurveyDetection,
    )

    if isinstance(options, FirstDetectionOptions):
        return FirstDetection(name, options)
    if isinstance(options, SurveyDetectionOptions):
        return SurveyDetection(name, options)
    assert isinstance(options, SimulatedDetectionOptions)
    return SimulatedDetection(name, options)
