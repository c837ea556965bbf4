"""Average precision against COCO's own code and by hand; the radio benchmark's two forms."""

import contextlib
import io

import numpy as np
import pytest

from cyclades.pipeline.comparison.detection_metrics import (
    IOU_THRESHOLDS,
    assign,
    average_precision,
    benchmark_scores,
)
from cyclades.pipeline.comparison.overlaps import (
    Objects,
    box_overlaps,
    ellipse_boxes,
    mask_overlaps,
    pixel_edges,
)
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.products import Segments

SHAPE = (120, 120)
CLASSES = ("compact", "extended")


def rectangles(boxes):
    """Masks that fill boxes of whole pixels."""
    rows = []
    for x0, y0, x1, y1 in np.asarray(boxes).round().astype(int):
        yy, xx = np.mgrid[y0:y1, x0:x1]
        rows.append(np.sort((yy * SHAPE[1] + xx).ravel()))
    return Segments.from_lists(rows)


def random_images(seed, n_images=6):
    """Truth and noisy detections with shared scores, of two classes, some truth ignored."""
    rng = np.random.default_rng(seed)
    truths, founds = [], []
    for _ in range(n_images):
        n = int(rng.integers(8, 25))
        corner = rng.integers(5, 95, (n, 2))
        size = rng.integers(4, 16, (n, 2))
        boxes = np.hstack([corner, corner + size]).astype(float)
        labels = rng.integers(0, 2, n)
        moved = boxes + rng.integers(-2, 3, boxes.shape)
        keep = rng.random(n) < 0.8
        extra = rng.integers(5, 95, (6, 2))
        moved = np.vstack([moved[keep], np.hstack([extra, extra + rng.integers(4, 16, (6, 2))])])
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        guess = np.concatenate([labels[keep], rng.integers(0, 2, 6)])
        wrong = rng.random(len(guess)) < 0.1
        guess = np.where(wrong, 1 - guess, guess)
        scores = np.round(rng.random(len(moved)), 1)  # ties on purpose
        truths.append(
            Objects(
                boxes,
                None,
                tuple(CLASSES[k] for k in labels),
                rectangles(boxes),
                rng.random(n) < 0.2,
            )
        )
        founds.append(Objects(moved, scores, tuple(CLASSES[k] for k in guess), rectangles(moved)))
    return truths, founds


def coco_reference(truths, founds, kind):
    """AP50 and AP50:95 of faster-coco-eval; ignored truth is truth outside the area range."""
    coco = pytest.importorskip("faster_coco_eval")
    masks = pytest.importorskip("faster_coco_eval.core.mask")

    def annotation(image, objects, row):
        x0, y0, x1, y1 = objects.boxes[row]
        plane = np.zeros(SHAPE, np.uint8)
        plane.ravel()[objects.masks[row]] = 1
        return {
            "image_id": image,
            "category_id": CLASSES.index(objects.labels[row]),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": masks.encode(np.asfortranarray(plane)),
        }

    truth = [
        annotation(image, objects, row)
        | {"iscrowd": 0, "area": 1e9 if objects.ignored[row] else 1.0}
        for image, objects in enumerate(truths)
        for row in range(len(objects))
    ]
    for number, entry in enumerate(truth):
        entry["id"] = number + 1
    found = [
        annotation(image, objects, row) | {"score": float(objects.scores[row])}
        for image, objects in enumerate(founds)
        for row in range(len(objects))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO(
            {
                "images": [
                    {"id": i, "height": SHAPE[0], "width": SHAPE[1]} for i in range(len(truths))
                ],
                "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
                "annotations": truth,
            }
        )
        judge = coco.COCOeval_faster(
            reference, reference.loadRes(found), "bbox" if kind == "box" else "segm"
        )
        judge.params.maxDets = [1, 10, 1000]
        judge.params.areaRng = [[0, 1e8]]
        judge.params.areaRngLbl = ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, -1]
    return precision[0].mean(), precision.mean()


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_average_precision_is_that_of_coco(kind, seed):
    truths, founds = random_images(seed)
    result = average_precision(truths, founds, kind)
    ap50, ap = coco_reference(truths, founds, kind)
    assert 0.2 < ap50 < 0.95
    assert result.ap50 == pytest.approx(ap50, abs=1e-9)
    assert result.ap == pytest.approx(ap, abs=1e-9)


def boxes_at(*x, size=10.0):
    return np.array([[v, 0.0, v + size, size] for v in x])


def test_average_precision_by_hand():
    """Hit, false, hit of two: precision 1 up to recall 0.5, then 2/3."""
    truth = Objects(boxes_at(0, 50))
    found = Objects(boxes_at(0, 200, 50), np.array([0.9, 0.8, 0.7]))
    result = average_precision([truth], [found])
    assert result.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert result.ap == pytest.approx(result.ap50)
    assert (result.wanted, result.detections) == (2, 3)


def test_a_second_detection_of_one_object_is_false():
    truth = Objects(boxes_at(0))
    found = Objects(boxes_at(0, 1), np.array([0.5, 0.9]))
    judged = assign(truth, found, IOU_THRESHOLDS)
    assert judged.hit[0].tolist() == [True, False]
    assert judged.hit[-1].tolist() == [False, True]


def test_ignored_truth_is_neither_hit_nor_false():
    truth = Objects(boxes_at(0, 50), ignored=np.array([False, True]))
    found = Objects(boxes_at(50, 0), np.array([0.9, 0.8]))
    assert average_precision([truth], [found]).ap == 1.0
    every = Objects(truth.boxes)
    assert average_precision([every], [found.take(np.array([0]))]).ap50 == pytest.approx(51 / 101)


def test_no_truth_gives_nan_and_no_detection_gives_zero():
    some, none = Objects(boxes_at(0)), Objects(np.zeros((0, 4)))
    assert np.isnan(average_precision([none], [some]).ap)
    assert average_precision([some], [none]).ap == 0.0


def test_masks_must_be_there():
    some = Objects(boxes_at(0))
    with pytest.raises(InputError, match="masks"):
        average_precision([some], [some], "mask")


def test_overlaps_of_boxes_and_of_masks_agree_on_whole_pixels():
    rng = np.random.default_rng(5)
    corner = rng.integers(0, 60, (2, 40, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 30, (2, 40, 2))], -1).astype(float)
    by_box = box_overlaps(boxes[0], boxes[1])
    by_mask = mask_overlaps(rectangles(boxes[0]), rectangles(boxes[1]))
    assert len(by_box.iou) > 50
    for one, other in zip(by_box, by_mask, strict=True):
        np.testing.assert_allclose(one, other)


def test_boxes_of_pixels_include_their_edges():
    np.testing.assert_array_equal(pixel_edges([[3, 4, 3, 4]]), [[2.5, 3.5, 3.5, 4.5]])


def test_ellipse_boxes_reach_one_fwhm_and_are_never_tiny():
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---SIN", "DEC--SIN"], [40.0, -30.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [51.0, 51.0], [-2 / 3600, 2 / 3600]
    wcs.wcs.radesys = "ICRS"
    # 40 by 10 arcsec along east, in pixels of 2 arcsec; then one that is smaller than the least
    boxes = ellipse_boxes(wcs, [40.0, 40.0], [-30.0, -30.0], [40.0, 1.0], [10.0, 1.0], [90.0, 0.0])
    np.testing.assert_allclose(boxes[0], [30, 45, 70, 55], atol=0.01)
    np.testing.assert_allclose(boxes[1], [47, 47, 53, 53], atol=0.01)


def test_the_benchmark_takes_the_best_box_before_it_looks_at_the_label():
    truth = Objects(boxes_at(0), labels=("compact",))
    found = Objects(boxes_at(0, 1), labels=("extended", "compact"))
    compatible = benchmark_scores([truth], [found], corrected=False)
    corrected = benchmark_scores([truth], [found], corrected=True)
    assert compatible.by_class["compact"].completeness == 0.0
    assert corrected.by_class["compact"].completeness == 1.0
    assert corrected.total.reliability == 0.5


def test_the_benchmark_counts_one_detection_twice():
    truth = Objects(boxes_at(0, 1), labels=("compact", "compact"))
    found = Objects(boxes_at(0), labels=("compact",))
    compatible = benchmark_scores([truth], [found], corrected=False)
    corrected = benchmark_scores([truth], [found], corrected=True)
    assert compatible.total.hits == 2
    assert compatible.total.reliability == 2.0
    assert corrected.total.hits == 1
    assert corrected.total.f1 == pytest.approx(2 / 3)


def test_spurious_objects_raise_only_the_benchmarks_total():
    truth = Objects(boxes_at(0, 50), labels=("compact", "spurious"))
    found = Objects(boxes_at(50), labels=("spurious",))
    assert benchmark_scores([truth], [found], corrected=False).total.completeness == 0.5
    corrected = benchmark_scores([truth], [found], corrected=True)
    assert corrected.total.completeness == 0.0
    assert corrected.by_class["spurious"].completeness == 1.0


def test_an_iou_of_exactly_the_benchmarks_threshold_is_no_match():
    truth = Objects(np.array([[0.0, 0.0, 10.0, 10.0]]), labels=("compact",))
    found = Objects(np.array([[0.0, 0.0, 10.0, 6.0]]), labels=("compact",))
    assert benchmark_scores([truth], [found], corrected=False).total.hits == 0
    larger = Objects(np.array([[0.0, 0.0, 10.0, 6.1]]), labels=("compact",))
    assert benchmark_scores([truth], [larger], corrected=False).total.hits == 1


def test_the_corrected_form_ignores_faint_truth():
    truth = Objects(boxes_at(0, 50), labels=("compact", "compact"), ignored=np.array([False, True]))
    found = Objects(boxes_at(0, 50), labels=("compact", "compact"))
    total = benchmark_scores([truth], [found], corrected=True).total
    assert (total.truth, total.detections, total.hits) == (1, 1, 1)
