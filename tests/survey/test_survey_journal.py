"""The journal, and what it says is still to be done."""

import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from cyclades.pipeline.survey.inputs import expand, stems
from cyclades.pipeline.survey.journal import FILE, Entry, Journal, read_entries
from cyclades.pipeline.survey.running import plan, prepare
from cyclades.stages.core.errors import InputError, OutputError
from tests.survey.conftest import make_work


@pytest.fixture
def journal(work):
    work.folder.mkdir()
    prepare(work)
    with Journal(work.folder) as made:
        yield made


def test_rows_come_back(journal, tmp_path):
    entry = Entry(
        "a/b.fits", "b", "done", 12, 34, "abc", "key", 2, "host:1", 1.5, "", "",
        ("b.catalogue.fits",), {"components": 3}, {"rms": 0.1, "found": [1, 2]},
    )  # fmt: skip
    journal.put(entry, Entry("c.fits", "c"))
    assert journal.entry("a/b.fits") == entry
    assert journal.entry("none") is None
    assert [one.stem for one in journal.entries()] == ["b", "c"]
    assert journal.counts() == {"pending": 1, "running": 0, "done": 1, "failed": 0}
    # readable while it is written
    assert read_entries(tmp_path / "out")[0] == entry
    journal.put(replace(entry, state="running"))
    assert journal.resume() == 1
    assert journal.entry("a/b.fits").state == "pending"
    journal.note("what", "that")
    assert (journal.about("what"), journal.about("other")) == ("that", None)


def test_a_folder_has_one_batch_at_a_time(journal, work):
    with pytest.raises(OutputError, match="Another batch is at work"):
        Journal(work.folder)
    journal.close()
    Journal(work.folder).close()


def test_a_file_that_is_no_journal_is_left_alone(work):
    work.folder.mkdir()
    path = work.folder / FILE
    path.write_text("notes of somebody " * 100)
    with pytest.raises(InputError, match="is no journal of cyclades"):
        Journal(work.folder)
    assert path.read_text().startswith("notes")
    with pytest.raises(InputError, match="holds no journal"):
        read_entries(work.folder / "nothing")


def test_a_full_disk_is_one_sentence(journal):
    pages = journal._base.execute("PRAGMA page_count").fetchone()[0]
    journal._base.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(OutputError, match=r"cannot be written \(database or disk is full\)"):
        journal.put(*(Entry(f"{i}.fits", f"{i}", error="x" * 500) for i in range(100)))
    # and nothing of it was kept
    assert not list(journal.entries())


def test_it_is_whole_after_a_kill(tmp_path):
    code = (
        "import sys, itertools\nfrom pathlib import Path\n"
        "from cyclades.pipeline.survey.journal import Entry, Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for i in itertools.count():\n"
        "    journal.put(Entry(f'{i}a', f'{i}a'), Entry(f'{i}b', f'{i}b'))\n"
        "    print(i, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            if int(line) >= 20:
                break
        running.kill()
    entries = read_entries(tmp_path)
    assert len(entries) >= 42
    assert len(entries) % 2 == 0
    base = sqlite3.connect(tmp_path / FILE)
    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    base.close()
    Journal(tmp_path).close()  # the lock went with the process


def files(folder, *names):
    made = []
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        made.append(path)
    return made


def test_what_arguments_stand_for(tmp_path):
    a, b, c = files(tmp_path, "x/a.fits", "x/deep/b.fit.gz", "c.FITS")
    files(tmp_path, "x/.hidden.fits", "x/notes.md", "x/d.fits.part", "x/.cache/e.fits")
    assert expand([tmp_path / "x"]) == [a, b]
    assert expand([str(tmp_path / "x" / "*.fits"), a]) == [a]
    assert expand([str(tmp_path / "**" / "*.FITS")]) == [c]
    names = tmp_path / "all.txt"
    names.write_text("# two\nx/a.fits\n\nx/deep\n")
    assert expand([names]) == [a, b]
    assert expand([tmp_path], without=tmp_path / "x") == [c]
    assert expand([tmp_path / "none.fits"]) == [tmp_path / "none.fits"]
    for wrong, said in (("no*.fits", "No file matches"), (tmp_path / "none.txt", "cannot be read")):
        with pytest.raises(InputError, match=said):
            expand([wrong])
    names.write_text("\n")
    with pytest.raises(InputError, match="names no images"):
        expand([names])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no FITS images"):
        expand([tmp_path / "empty"])


def test_what_commands_write_beside_an_image_is_no_image_of_a_folder(tmp_path):
    alone, image, band = files(tmp_path, "truth.fits", "one.fits", "sky.rms.fits")
    files(tmp_path, "one.truth.fits", "one.rms.fits", "one.level.fits", "one.residual.fits.gz")
    files(tmp_path, "one.catalogue.fits", "one.catalogue.aegean.fits", "one.catalogue.moc.fits")
    # a map of an image that is not there may be one that somebody wants to search
    assert expand([tmp_path]) == sorted([alone, image, band])


def test_stems_are_told_apart_by_folders(tmp_path):
    images = files(tmp_path, "one/image.fits", "two/image.fits", "image.fits.gz", "image.fit")
    made = stems(images, {})
    assert list(made.values())[:2] == ["image", "two_image"]
    assert len(set(made.values())) == 4
    # an image keeps its stem, whatever comes with it
    taken = {stem: str(image) for image, stem in made.items()}
    assert stems(images[::-1], taken) == dict(reversed(made.items()))


def settled(journal, work, image, state="done"):
    """Write down that an image is done, or failed, as it is."""
    from cyclades.pipeline.provenance import describe_file

    status = image.stat()
    name = f"{image.stem}.catalogue.fits"
    (work.folder / "fields" / name).write_bytes(b"")
    entry = Entry(str(image), image.stem, state, status.st_size, status.st_mtime_ns,
                  describe_file(image)["sha256"], work.key, files=(name,))  # fmt: skip
    journal.put(entry)
    return entry


def test_what_is_done_is_left_alone(journal, work, tmp_path):
    (image,) = files(tmp_path, "a.fits")
    settled(journal, work, image)

    def to_do(*, work=work, **options):
        tasks = plan(journal, work, [image], **options)
        settled(journal, work, image)
        return [task.image for task in tasks]

    assert to_do() == []
    assert to_do(force=True) == [image]
    # another time, the same content
    os.utime(image, (1, 1))
    assert plan(journal, work, [image]) == []
    assert journal.entry(str(image)).mtime == 10**9
    # the same size, another content
    image.write_bytes(b"A.fits")
    os.utime(image, (time.time(), time.time() + 5))
    assert to_do() == [image]
    # another configuration
    other = make_work(work.folder, products=("rms",))
    assert other.key != work.key
    assert to_do(work=other) == [image]
    # its catalogue is gone
    (work.folder / "fields" / "a.catalogue.fits").unlink()
    assert to_do() == [image]
    image.unlink()
    assert [task.image for task in plan(journal, work, [image])] == [image]


def test_failures_are_left_alone_until_asked_for(journal, work, tmp_path):
    (image,) = files(tmp_path, "a.fits")
    settled(journal, work, image, "failed")
    assert plan(journal, work, [image]) == []
    assert len(plan(journal, work, [image], retry=True)) == 1
    settled(journal, work, image, "failed")
    image.write_bytes(b"another")
    assert len(plan(journal, work, [image])) == 1


def test_the_key_follows_what_the_outcome_depends_on(tmp_path):
    (mask,) = files(tmp_path, "mask.reg")
    from cyclades.pipeline.config import RouteConfig
    from cyclades.pipeline.survey.work import Work

    def key(**options):
        config = RouteConfig.from_mapping({"image": {"mask": str(mask)}})
        return Work.plan(config, tmp_path, **options).key

    first = key()
    assert key() == first
    assert key(device="cuda", memory=10**9) == first  # where, not what
    assert len({first, key(injected=5), key(inverted=True), key(formats=("ecsv",))}) == 4
    mask.write_text("another mask")
    assert key() != first
