import numpy as np

from cyclades.stages.core.products import Segments


def test_the_brightest_pixel_of_each_segment():
    segments = Segments.from_lists([np.array([5, 3, 9]), np.zeros(0, int), np.array([1]), [4, 6]])
    values = np.array([2.0, 2.0, np.nan, -1.0, np.nan, np.nan])
    np.testing.assert_array_equal(segments.brightest(values), [1, -1, 3, -1])
