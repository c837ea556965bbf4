"""Images in buckets: only the parts that are asked for are fetched."""

import pickle
import uuid

import numpy as np
import pytest
from astropy.io import fits

from cyclades.pipeline.chain import Pipeline
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.io import open_image
from cyclades.stages.core.tiling import Box
from tests.requirements import require

require("s3")


@pytest.fixture(scope="module")
def endpoint():
    """A server of this machine that answers as S3 does."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    """A bucket, and how much of it was fetched."""

    def __init__(self, monkeypatch):
        import boto3
        from s3fs.core import S3FileSystem

        self.name = f"cyclades-{uuid.uuid4()}"
        self.client = boto3.client("s3")
        self.client.create_bucket(Bucket=self.name)
        self.fetched = 0
        inner = S3FileSystem._call_s3

        async def counted(system, method, *given, **options):
            made = await inner(system, method, *given, **options)
            if method == "get_object":
                self.fetched += made["ContentLength"]
            return made

        monkeypatch.setattr(S3FileSystem, "_call_s3", counted)

    def put(self, path):
        self.client.upload_file(str(path), self.name, path.name)
        return f"s3://{self.name}/{path.name}"


@pytest.fixture
def bucket(endpoint, monkeypatch):
    from s3fs import S3FileSystem

    # what users of another store than Amazon's set, too
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield Bucket(monkeypatch)
    S3FileSystem.clear_instance_cache()


def test_window_of_an_image_in_a_bucket(bucket, tmp_path):
    # 36 MB, which is less than the block that s3fs fetches unless told
    data = np.random.default_rng(0).normal(size=(6000, 1500)).astype(np.float32)
    fits.PrimaryHDU(data).writeto(tmp_path / "big.fits")
    size = (tmp_path / "big.fits").stat().st_size
    source = open_image(bucket.put(tmp_path / "big.fits"), beam="4pixel", blank_zeros=False)
    assert (source.name, source.shape) == ("big", (6000, 1500))
    before = bucket.fetched
    found = source.window(Box(3000, 3100, 100, 900))
    np.testing.assert_array_equal(found.data, data[3000:3100, 100:900])
    assert 0 < bucket.fetched - before < size / 2
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.window(Box(0, 5, 0, 5)).data, data[:5, :5])


def test_compressed_tiles_in_a_bucket(bucket, tmp_path):
    data = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)
    fits.CompImageHDU(data, compression_type="GZIP_2", quantize_level=0).writeto(
        tmp_path / "tiles.fits"
    )
    source = open_image(bucket.put(tmp_path / "tiles.fits"), beam="4pixel", blank_zeros=False)
    found = source.window(Box(100, 130, 20, 90))
    np.testing.assert_array_equal(found.data, data[100:130, 20:90])


def test_catalogue_of_an_image_in_a_bucket_is_that_of_the_file(bucket, tmp_path):
    from tests.survey_fields import write_fields

    (path,), _ = write_fields(tmp_path / "field", 1, 1, size=160)
    pipeline = Pipeline.from_route("classical")
    near, far = (pipeline.run(one).catalogue for one in (path, bucket.put(path)))
    assert len(near.components) >= 3
    for name in ("ra", "dec", "peak_flux", "total_flux", "local_rms"):
        np.testing.assert_array_equal(near.components[name].value, far.components[name].value)


def test_a_missing_object_is_said_in_a_sentence(bucket):
    with pytest.raises(InputError, match="cannot be read"):
        open_image(f"s3://{bucket.name}/none.fits")
