import pytest

from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.survey.run import run_survey
from cyclades.pipeline.survey.work import Work
from tests.survey_fields import write_fields


def make_work(folder, **options):
    """The classical route, at a threshold that does not depend on the field."""
    config = RouteConfig.from_mapping(
        {"background": "sep", "detection": {"name": "islands", "seed_threshold": 5.5}}
    )
    return Work.plan(config, folder, **options)


@pytest.fixture
def work(tmp_path):
    return make_work(tmp_path / "out")


@pytest.fixture(scope="session")
def survey_images(tmp_path_factory):
    """Nine overlapping fields, and the sources in them."""
    return write_fields(tmp_path_factory.mktemp("survey") / "images", 3, 3)


@pytest.fixture(scope="session")
def surveyed(survey_images, tmp_path_factory):
    """Folder of an undisturbed batch of the nine fields, with corrections."""
    folder = tmp_path_factory.mktemp("surveyed")
    work = make_work(folder, injected=6, inverted=True)
    run_survey(work, survey_images[0])
    return folder


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    """Four small overlapping fields."""
    folder = tmp_path_factory.mktemp("four") / "images"
    return write_fields(folder, 2, 2, size=96, step=72, seed=2)[0]


@pytest.fixture(scope="session")
def undisturbed(four, tmp_path_factory):
    """Folder of an undisturbed batch of the four fields."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_survey(make_work(folder), four)
    return folder
