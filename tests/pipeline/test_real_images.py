"""Every real image gives a catalogue, or one sentence that says why not."""

import pytest

from cyclades.pipeline.batch import run_batch
from cyclades.pipeline.chain import Pipeline

FOLDERS = {
    "decam-optical": "5pixel",
    "deepsource-sim": None,
    "lofar-ami-pyse": None,
    "magpis-vla": None,
    "optical-misc": "4pixel",
    "parkes-1904-66": None,
    "scorpio-atca": None,
}
"""Folders of images, with the beam where their headers give none."""


def run_folder(folder, beam, out, products=("quicklook", "residual")):
    files = sorted(folder.rglob("*.fits*"))
    assert files
    pipeline = Pipeline.from_route({"image": {"beam": beam}})
    outcomes = list(run_batch(pipeline, files, out, products=products))
    assert [outcome.image for outcome in outcomes] == files
    return outcomes


def good(outcome):
    """Whether there is a catalogue, or a sentence about a file that holds no image.

    A map of level or noise is smooth, and need not have sources.
    """
    assert "unexpected" not in outcome.error
    least = 0 if outcome.image.stem.endswith(("_bkg", "_rms")) else 1
    return (outcome.counts or {}).get("components", -1) >= least or "no image" in outcome.error


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_every_image_runs_to_a_catalogue_or_a_sentence(shared_data, name, tmp_path):
    outcomes = run_folder(shared_data / name, FOLDERS[name], tmp_path)
    assert all(good(outcome) for outcome in outcomes), [o.error for o in outcomes]


@pytest.mark.slow
def test_first_fields_need_their_beam_and_run_with_it(shared_data, tmp_path):
    folder = shared_data / "first-rgz-fields-dev"
    one = min(folder.rglob("*.fits.gz"))
    (outcome,) = run_batch(Pipeline.from_route("classical"), [one], tmp_path / "none")
    assert "--beam 5.4arcsec" in outcome.error
    outcomes = run_folder(folder, "5.4arcsec", tmp_path, ())
    assert not [outcome.error for outcome in outcomes if outcome.error]
    # the fields are centred on radio galaxies, but a few of these are fainter than five sigma
    found = [outcome for outcome in outcomes if outcome.counts["components"]]
    assert len(found) > 0.95 * len(outcomes)
