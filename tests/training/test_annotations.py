"""Labels of other people's tools on files in their formats: CAESAR, RadioGalaxyNET, LabelMe."""

import json

import numpy as np
import pytest
from astropy.io import fits

from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.training.folder import FolderOptions
from cyclades.pipeline.training.sources import build_source
from cyclades.stages.core.errors import ConfigurationError, InputError

SHAPE = (40, 48)
BEAM = {"beam": "5arcsec"}


@pytest.fixture
def image(tmp_path):
    """An image with a source in rows 8 to 13 and columns 20 to 27, counted from 0."""
    data = np.random.default_rng(3).normal(0.0, 0.01, SHAPE).astype("f4")
    data[8:14, 20:28] += 1.0
    header = fits.Header(
        {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRVAL1": 10.0, "CRVAL2": -30.0,
         "CRPIX1": 24.0, "CRPIX2": 20.0, "CDELT1": -1 / 3600, "CDELT2": 1 / 3600}
    )  # fmt: skip
    path = tmp_path / "images" / "galaxy0001.fits"
    path.parent.mkdir()
    fits.writeto(path, data, header)
    return path


def whole(image, labels, known=CLASSES, **more):
    """Labels of the whole image."""
    options = FolderOptions.from_mapping(
        {"images": str(image), "image": BEAM, "labels": str(labels), **more}
    )
    return build_source(options, 32, known).labelled_image(0)


def mask(path, *places):
    drawn = np.zeros(SHAPE, "u1")
    for rows, columns in places:
        drawn[rows, columns] = 1
    fits.writeto(path, drawn)


def caesar(folder, image, *objects):
    file = folder / "galaxy0001.json"
    content = {
        "img": f"../images/{image.name}",
        "telescope": "ATCA",
        "nx": SHAPE[1],
        "ny": SHAPE[0],
        "objs": list(objects),
    }
    file.write_text(json.dumps(content))
    return file


def test_caesar_masks_are_objects_of_our_classes(image, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    mask(folder / "m1.fits", (slice(8, 14), slice(20, 28)))
    mask(folder / "m2.fits", (slice(30, 33), slice(2, 5)), (slice(35, 38), slice(9, 12)))
    mask(folder / "m3.fits", (slice(1, 3), slice(40, 44)))
    mask(folder / "empty.fits")
    caesar(
        folder,
        image,
        {"mask": "m1.fits", "class": "compact", "name": "S1", "nislands": 1},
        {"mask": "m2.fits", "class": "extended-multisland", "name": "S2", "nislands": 2},
        {"mask": "m3.fits", "class": "flagged", "name": "S3"},
        {"mask": "empty.fits", "class": "spurious", "name": "S4"},
    )
    # the folder, or the files by name
    for labels in (folder, folder / "{name}.json"):
        made = whole(image, labels)
        assert [CLASSES[k] for k in made.classes[:2]] == ["compact", "multi-component"]
        np.testing.assert_array_equal(made.boxes[0], [20, 8, 28, 14])
        np.testing.assert_array_equal(made.boxes[1], [2, 30, 12, 38])
        assert made.segments.lengths.tolist() == [48, 18, 8]
        assert made.ignore.tolist() == [False, False, True]
        assert made.source.read().data.flat[made.segments[0]].min() > 0.9
    # a network that knows CAESAR's own classes keeps them
    made = whole(image, folder, ("compact", "extended-multisland", "flagged", "spurious"))
    assert made.classes.tolist() == [0, 1, 2]
    assert not made.ignore.any()


def test_bad_caesar_files_are_refused_in_one_sentence(image, tmp_path):
    file = caesar(tmp_path, image, {"mask": "none.fits", "class": "compact"})
    with pytest.raises(InputError, match=r"none\.fits"):
        whole(image, file)
    fits.writeto(tmp_path / "small.fits", np.ones((3, 4), "u1"))
    caesar(tmp_path, image, {"mask": "small.fits", "class": "compact"})
    with pytest.raises(InputError, match="the mask has shape"):
        whole(image, file)
    caesar(tmp_path, image, {"class": "compact"})
    with pytest.raises(InputError, match="a class and a mask"):
        whole(image, file)
    mask(tmp_path / "m.fits", (slice(8, 14), slice(20, 28)))
    caesar(tmp_path, image, {"mask": "m.fits", "class": "galaxy"})
    with pytest.raises(ConfigurationError, match="galaxy"):
        whole(image, file)
    assert len(whole(image, file, classes={"galaxy": "extended"}).classes) == 1
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="names the image"):
        whole(image, tmp_path / "other")


def radio_galaxy_net(path, image):
    """Keys, categories and segmentation as RadioGalaxyNET has them; rows count from the top."""
    top = SHAPE[0] - 14
    corners = [20, top, 28, top, 28, top + 6, 20, top + 6]
    content = {
        "info": {"description": "RadioGalaxyNET"},
        "licenses": [],
        "categories": [
            {"id": k + 1, "name": name, "supercategory": "galaxy", "keypoints": ["ir"],
             "skeleton": []}
            for k, name in enumerate(("FR-II", "FR-I", "FR-X", "R"))
        ],
        "images": [{"id": 5, "file_name": f"{image.stem}.png", "height": SHAPE[0],
                    "width": SHAPE[1]}],
        "annotations": [
            {"id": 9, "image_id": 5, "category_id": 2, "bbox": [20, top, 8, 6], "area": 48,
             "segmentation": [corners], "iscrowd": 0, "keypoints": [24, top + 3, 2],
             "num_keypoints": 1},
        ],
    }  # fmt: skip
    path.write_text(json.dumps(content))


def test_radio_galaxy_net_names_pictures_and_counts_rows_from_the_top(image, tmp_path):
    radio_galaxy_net(tmp_path / "train.json", image)
    ours = {"FR-II": "multi-component", "FR-I": "extended", "FR-X": "extended", "R": "compact"}
    file = tmp_path / "train.json"
    made = whole(image, file, tuple(ours), top_first=True)
    assert made.classes.tolist() == [1]
    np.testing.assert_array_equal(made.boxes, [[20, 8, 28, 14]])
    assert made.source.read().data.flat[made.segments[0]].min() > 0.9
    mapped = whole(image, file, classes=ours, top_first=True)
    assert [CLASSES[k] for k in mapped.classes] == ["extended"]


def shape(label, kind, points, group=None):
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}}


def labelme(path, image, *shapes):
    path.write_text(
        json.dumps({"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imageData": None,
                    "imagePath": f"{image.stem}.png", "imageHeight": SHAPE[0],
                    "imageWidth": SHAPE[1]})
    )  # fmt: skip
    return path


def test_labelme_shapes_and_groups(image, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    labelme(
        folder / "a.json",
        image,
        shape("compact", "polygon", [[20, 8], [28, 8], [28, 14], [20, 14]]),
        shape("multi-component", "rectangle", [[4, 30], [2, 33]], 1),
        shape("multi-component", "rectangle", [[9, 35], [12, 38]], 1),
        shape("extended", "circle", [[40, 20], [40, 23]]),
        shape("compact", "point", [[3, 3]]),
    )
    made = whole(image, folder)
    assert [CLASSES[k] for k in made.classes] == ["compact", "multi-component", "extended"]
    np.testing.assert_array_equal(made.boxes[:2], [[20, 8, 28, 14], [2, 30, 12, 38]])
    np.testing.assert_allclose(made.boxes[2], [37, 17, 43, 23], atol=0.01)
    assert made.segments.lengths.tolist()[:2] == [48, 15]
    assert abs(made.segments.lengths[2] - np.pi * 9) < 6
    turned = whole(image, folder, top_first=True)
    np.testing.assert_array_equal(turned.boxes[0], [20, 26, 28, 32])
    rows = turned.segments[0] // SHAPE[1]
    assert (rows.min(), rows.max()) == (26, 31)


def test_labels_drawn_on_a_picture_of_other_pixels_are_refused(image, tmp_path):
    """Where they would be put in the wrong place without a word."""
    file = labelme(tmp_path / "x.json", image)
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "imageHeight": 2 * SHAPE[0]}))
    with pytest.raises(InputError, match=f"{2 * SHAPE[0]} pixels high"):
        whole(image, file)
    radio_galaxy_net(tmp_path / "train.json", image)
    told = json.loads((tmp_path / "train.json").read_text())
    told["images"][0]["width"] //= 2
    (tmp_path / "train.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=f"{SHAPE[1] // 2} wide"):
        whole(image, tmp_path / "train.json", ("FR-II", "FR-I", "FR-X", "R"))


def test_bad_labelme_files_are_refused_in_one_sentence(image, tmp_path):
    file = labelme(tmp_path / "x.json", image, shape("compact", "mask", [[1, 2], [3, 4]]))
    with pytest.raises(InputError, match="LabelMe"):
        whole(image, file)
    labelme(file, image, shape("compact", "polygon", [[1, 2]]))
    with pytest.raises(InputError, match="LabelMe"):
        whole(image, file)
    labelme(file, image)
    assert len(whole(image, file).classes) == 0
    file.write_text("{}")
    with pytest.raises(InputError, match="CAESAR"):
        whole(image, file)
