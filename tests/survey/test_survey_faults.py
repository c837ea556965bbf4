"""What goes wrong during a batch leaves the catalogue that it would have become."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from cyclades.pipeline import products
from cyclades.pipeline.survey import fields, running
from cyclades.pipeline.survey.engines import InProcess, LocalProcesses
from cyclades.pipeline.survey.journal import Journal, read_entries
from cyclades.pipeline.survey.run import Workers, run_survey
from cyclades.pipeline.survey.work import Task
from cyclades.stages.core.errors import ConfigurationError, InputError, OutputError
from cyclades.stages.detection.islands import IslandsDetection
from tests.benchmarks.batch import contents
from tests.survey.conftest import make_work


def equal(folder, undisturbed):
    """Whether a batch has become what it would have been, and left nothing half-written."""
    left = [p.name for p in folder.rglob(".*") if p.name != ".journal.sqlite.lock"]
    assert not left
    right = contents(undisturbed)
    assert len(right) > 20
    return contents(folder) == right


def test_worker_processes_that_are_killed(four, work, undisturbed, monkeypatch):
    """Two workers; each is killed once while the others go on."""
    engines = []
    made = LocalProcesses.__init__

    def remember(self, *given):
        made(self, *given)
        engines.append(self)

    monkeypatch.setattr(LocalProcesses, "__init__", remember)
    killed, threads = [], set()
    shutdown = ProcessPoolExecutor.shutdown

    def noted(self, *given, **named):
        threads.add(threading.current_thread())
        shutdown(self, *given, **named)

    # from Python 3.12 on a broken pool holds its lock while it calls back: no shutdown there
    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", noted)

    def told(entry):
        alive = [p for p in engines[0].processes() if p not in killed]
        if len(killed) < 2 and alive:
            killed.append(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    run_survey(work, four, Workers(2), told=told, attempts=5)
    assert len(killed) == 2
    assert threads == {threading.main_thread()}
    assert equal(work.folder, undisturbed)


def test_files_that_a_power_cut_left_short_are_made_again(four, undisturbed, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(undisturbed, folder)
    stems = [image.stem for image in four]
    for name, length in (
        (f"rows/{stems[0]}.components.parquet", 0),
        (f"rows/{stems[1]}.noise.npz", 100),
        (f"fields/{stems[3]}.catalogue.fits", 2880),
    ):
        (folder / name).write_bytes((folder / name).read_bytes()[:length])
    planned = []
    run_survey(make_work(folder), four, planned=lambda *given: planned.append(given))
    assert planned == [(3, 4)]
    assert equal(folder, undisturbed)


def test_an_image_whose_workers_always_die_is_set_aside(work, tmp_path):
    """The others are done, each death counts for the image that was being processed."""

    class Deadly(InProcess):
        def submit(self, task):
            future = super().submit(task) if task.stem != "bad" else type(wrong)()
            if task.stem == "bad":
                future.set_exception(running.LostWorkerError("the worker process died"))
            return future

    from concurrent.futures import Future

    wrong = Future()
    images = [tmp_path / "bad.fits", tmp_path / "worse.fits"]
    for image in images:
        image.write_bytes(b"no image")
    work.folder.mkdir()
    running.prepare(work)
    with Journal(work.folder) as journal:
        tasks = running.plan(journal, work, images)
        running.lead(journal, work, Deadly(work), tasks, attempts=3)
        bad, worse = (journal.entry(str(image)) for image in images)
    assert (bad.state, bad.kind, bad.attempts) == ("failed", "lost", 3)
    assert (worse.state, worse.kind, worse.attempts) == ("failed", "input", 1)
    assert bad.error == f"{images[0]}: the worker process died."


def leader(folder, images, *options):
    command = [sys.executable, "-m", "cyclades", "batch", *map(str, images), "-o", str(folder),
               "--set", "background=sep", "--set", "detection.seed_threshold=5.5",
               *options]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(folder, done, seconds=120):
    """Wait until some images are done."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (folder / "journal.sqlite").exists():
            try:
                entries = read_entries(folder)
            except Exception:  # the tables are being made
                entries = []
            if sum(entry.state == "done" for entry in entries) >= done:
                return
        time.sleep(0.05)
    raise AssertionError("no image was done in time")


def test_the_leader_killed_goes_on_where_it_was(four, tmp_path, undisturbed):
    folder = tmp_path / "out"
    with leader(folder, four, "--workers", "2") as process:
        wait_for(folder, 1)
        process.kill()
    states = [entry.state for entry in read_entries(folder)]
    assert "done" in states
    assert not (folder / "survey.catalogue.fits").exists()
    time.sleep(0.5)  # the workers notice
    began = {entry.stem: entry.worker for entry in read_entries(folder) if entry.state == "done"}
    run_survey(make_work(folder), four)
    assert equal(folder, undisturbed)
    after = {entry.stem: entry.worker for entry in read_entries(folder)}
    assert began.items() <= after.items()  # what was done was not done again


def test_ctrl_c_says_how_to_go_on(four, tmp_path, undisturbed):
    folder = tmp_path / "out"
    with leader(folder, four, "--workers", "1") as process:
        wait_for(folder, 1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in said
    assert "Traceback" not in said
    assert all(entry.state != "running" for entry in read_entries(folder))
    run_survey(make_work(folder), four)
    assert equal(folder, undisturbed)


def test_a_full_disk_stops_the_batch_and_loses_nothing(four, work, undisturbed, monkeypatch):
    write = products._write_one
    written = []

    def full(what, result, path):
        if result.provenance["input"]["name"] not in written:
            written.append(result.provenance["input"]["name"])
        if len(written) > 1:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(what, result, path)

    with monkeypatch.context() as patched:
        patched.setattr(products, "_write_one", full)
        with pytest.raises(OutputError, match=r"No space left on device.*make room"):
            run_survey(work, four)
    states = [entry.state for entry in read_entries(work.folder)]
    assert sorted(states) == ["done", "pending", "pending", "pending"]
    run_survey(work, four)
    assert equal(work.folder, undisturbed)


def test_a_survey_that_cannot_be_written_is_written_the_next_time(
    four, work, undisturbed, monkeypatch
):
    from cyclades.pipeline.survey import finish

    def full(*given, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(finish, "coverage", lambda *given: type("M", (), {"save": full})())
        with pytest.raises(OutputError, match="No space left"):
            run_survey(work, four)
    told = []
    run_survey(work, four, told=told.append)
    assert not told  # no field was done again
    assert equal(work.folder, undisturbed)


def test_files_that_are_no_images(four, work, undisturbed, tmp_path):
    whole = four[0].read_bytes()
    bad = {"empty.fits": b"", "text.fits": b"no image", "cut.fits": whole[: len(whole) // 2],
           "noise.fits.gz": bytes(range(256))}  # fmt: skip
    images = list(four)
    for name, content in bad.items():
        images.append(tmp_path / name)
        images[-1].write_bytes(content)
    images.append(tmp_path / "missing.fits")
    run_survey(work, images)
    entries = {entry.image: entry for entry in read_entries(work.folder)}
    failed = [e for e in entries.values() if e.state == "failed"]
    assert {e.image for e in failed} == {str(image) for image in images[4:]}
    assert all(e.kind == "input" and e.attempts == 1 and e.error.endswith(".") for e in failed)
    reference = contents(undisturbed)
    assert contents(work.folder) == reference
    # one of them is repaired
    images[4].write_bytes(whole)
    told = []
    run_survey(work, images, told=told.append)
    assert [(entry.image, entry.state) for entry in told] == [(str(images[4]), "done")]


def test_a_field_leaves_logging_and_warnings_as_they_were(work):
    """A batch in a notebook: its warnings are shown afterwards as they were before."""
    package, warned = logging.getLogger("cyclades"), logging.getLogger("py.warnings")
    handler = logging.StreamHandler()
    package.addHandler(handler)
    package.setLevel(logging.WARNING)
    work.folder.mkdir()

    def state():
        levels = package.level, handler.level
        return warnings.showwarning, warned.propagate, list(warned.handlers), levels

    try:
        with warnings.catch_warnings():
            before = state()
            with fields._logged(work, Task(work.folder / "x.fits", "x")):
                warnings.warn("of the field", stacklevel=1)
            assert state()[:2] == before[:2]
            assert state()[3] == before[3]
    finally:
        package.removeHandler(handler)
        package.setLevel(logging.NOTSET)
    assert "of the field" in (work.folder / "logs" / "x.log").read_text()


def test_an_unexpected_error_is_of_one_image(four, work, monkeypatch):
    monkeypatch.setattr(fields, "_rehearse", lambda work: None)
    from cyclades.pipeline.chain import Pipeline

    run = Pipeline.run

    def broken(self, image, **options):
        if image == four[1]:
            raise ZeroDivisionError("deep inside")
        return run(self, image, **options)

    monkeypatch.setattr(Pipeline, "run", broken)
    run_survey(work, four)
    states = {entry.image: (entry.state, entry.kind) for entry in read_entries(work.folder)}
    assert states.pop(str(four[1])) == ("failed", "defect")
    assert set(states.values()) == {("done", "")}
    assert "deep inside" in (work.folder / "logs" / f"{four[1].stem}.log").read_text()


@pytest.fixture
def forgetful(monkeypatch):
    """Workers of this process that were not looked at yet."""
    monkeypatch.setattr(fields, "_judged", {})


def test_a_worker_that_lacks_a_file_says_which(four, tmp_path, forgetful):
    from dataclasses import replace

    work = make_work(tmp_path / "out")
    for files, said in (
        ((("/no/such/weights.safetensors", 5),), "lacks the file"),
        (((str(four[0]), 5),), "has another file"),
    ):
        changed = replace(work, files=files, key=said)
        outcome = fields.process(changed, Task(four[0], "a"))
        assert outcome.kind == "unfit"
        assert said in outcome.error
        with pytest.raises(ConfigurationError, match=said):
            run_survey(changed, four)
    outcome = fields.process(replace(work, version="9.9"), Task(four[0], "a"))
    assert "not 9.9" in outcome.error
    assert {entry.state for entry in read_entries(work.folder)} == {"pending"}


def test_a_worker_that_cannot_run_a_stage_is_no_fault_of_the_image(
    work, four, forgetful, monkeypatch
):
    def detect(self, image, background, *, context):
        raise InputError("There are no weights none.safetensors.")

    monkeypatch.setattr(IslandsDetection, "detect", detect)
    with pytest.raises(ConfigurationError, match=r"cannot run the route: .*none\.safetensors"):
        run_survey(work, four)
    assert {entry.state for entry in read_entries(work.folder)} == {"pending"}


def test_a_process_that_may_not_take_more_memory():
    """A limit makes the allocation fail, and not the machine."""
    code = (
        "import multiprocessing\n"
        "def work(limit):\n"
        "    import numpy as np\n"
        "    from cyclades.pipeline.survey.fields import _limit_memory\n"
        "    _limit_memory(limit)\n"
        "    try:\n"
        "        return np.ones(60_000_000).nbytes\n"
        "    except MemoryError:\n"
        "        return 'no memory'\n"
        "if __name__ == '__main__':\n"
        "    from concurrent.futures import ProcessPoolExecutor\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    for limit in (0, 400_000_000):\n"
        "        with ProcessPoolExecutor(1, context) as pool:\n"
        "            print(pool.submit(work, limit).result())\n"
    )
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(code)
        file.flush()
        done = subprocess.run([sys.executable, file.name], capture_output=True, text=True)
    if sys.platform != "linux":
        pytest.skip("memory of a process can be limited on Linux")
    assert done.stdout.split("\n")[:2] == ["480000000", "no memory"], done.stderr


def test_workers_have_one_thread_each(work, monkeypatch):
    """Counted in one that has loaded what computes."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with LocalProcesses(work, 1, ["cuda:1"]) as engine:
        pool = engine._pool(0)
        # and one GPU, which it sees as the only one
        assert pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() == "1"
        assert pool.submit(_threads).result() == (1, 1)


def _threads():
    import numba
    from threadpoolctl import threadpool_info

    np.linalg.inv(np.eye(300))
    libraries = [one["num_threads"] for one in threadpool_info()]
    return numba.config.NUMBA_NUM_THREADS, max(libraries, default=1)
