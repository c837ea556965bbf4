"""Batches on Dask clusters: the same catalogue, whatever happens to workers and scheduler."""

import os
import signal
import sys
import time

import pytest

from cyclades.pipeline.survey.cluster import (
    ClusterOptions,
    DaskEngine,
    read_cluster,
    start_cluster,
)
from cyclades.pipeline.survey.journal import Journal, read_entries
from cyclades.pipeline.survey.run import Workers, run_survey
from cyclades.pipeline.survey.running import lead, plan, prepare
from cyclades.stages.core.errors import ConfigurationError, InputError
from tests.benchmarks.batch import contents
from tests.dask_services import DaskServices
from tests.requirements import require

require("distributed")


@pytest.fixture
def told():
    return []


def test_a_cluster_gives_the_same_catalogue_without_one_of_its_workers(
    four, work, undisturbed, told
):
    """One of two workers lacks the weights; the other one is killed once."""
    work.folder.mkdir()
    prepare(work)
    cluster = start_cluster(ClusterOptions(cluster="local", jobs=2))
    with Journal(work.folder) as journal, DaskEngine(work, cluster=cluster) as engine:
        client = engine._client
        client.wait_for_workers(2, timeout=60)
        lacking, other = sorted(client.scheduler_info(n_workers=-1)["workers"])
        mark = (work.key, work.version, work.device)
        client.run(_forget, mark, "It lacks the weights none.safetensors.", workers=[lacking])
        killed = []

        def watch(entry):
            told.append(entry)
            if not killed:
                killed.append(client.run(os.getpid, workers=[other])[other])
                os.kill(killed[0], signal.SIGKILL)

        lead(journal, work, engine, plan(journal, work, four), told=watch)
    assert len(killed) == 1
    assert len(told) == 4
    assert {entry.state for entry in told} == {"done"}
    assert lacking not in {entry.worker for entry in told}
    run_survey(work, four, Workers(1))
    assert contents(work.folder) == contents(undisturbed)


def _forget(mark, reason):
    from cyclades.pipeline.survey import fields

    fields._judged[mark] = reason


@pytest.fixture
def services():
    made = DaskServices(1)
    yield made
    made.stop()


def test_a_scheduler_that_is_started_again_goes_on(four, work, undisturbed, told, services):
    restarted = []

    def watch(entry):
        told.append(entry)
        if not restarted:
            services.restart()
            restarted.append(entry)

    work.folder.mkdir()
    prepare(work)
    engine = _reached(work, services.address)
    with Journal(work.folder) as journal, engine:
        lead(journal, work, engine, plan(journal, work, four), told=watch)
    assert restarted
    assert sorted(entry.stem for entry in told) == [path.stem for path in four]
    assert {(entry.state, entry.attempts) for entry in told} == {("done", 1)}
    run_survey(work, four, Workers(1))
    assert contents(work.folder) == contents(undisturbed)


def _reached(work, address):
    for _ in range(20):
        try:
            return DaskEngine(work, address, patience=60)
        except InputError:
            time.sleep(0.5)
    raise AssertionError("the scheduler did not start")


def test_no_scheduler_is_one_sentence(four, work, monkeypatch):
    from cyclades.pipeline.survey import cluster

    monkeypatch.setattr(cluster, "CONNECTING", 0.5)
    with pytest.raises(InputError, match="No Dask scheduler answers"):
        run_survey(work, four, Workers(scheduler="tcp://127.0.0.1:1"))
    assert {entry.state for entry in read_entries(work.folder)} == {"pending"}


def described(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return path


def test_a_slurm_job_is_what_its_file_says(tmp_path):
    path = described(
        tmp_path,
        "cluster: slurm\njobs: 0\noptions:\n  queue: radio\n  account: survey\n  cores: 8\n"
        "  memory: 32GB\n  walltime: '02:00:00'\n",
    )
    with start_cluster(read_cluster(path)) as cluster:
        script = cluster.job_script()
    for line in ("#SBATCH -p radio", "#SBATCH -A survey", "#SBATCH --cpus-per-task=8",
                 "#SBATCH -t 02:00:00"):  # fmt: skip
        assert line in script
    # eight processes of one thread each
    assert "--nworkers 8" in script
    assert "--nthreads 1" in script


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cluster: slum\n", "did you mean 'slurm'"),
        ("cluster: slurm\nworkers: 3\n", "there is no such option"),
        ("cluster: local\noptions: {nonsense: 1}\n", "cannot be started"),
        ("- slurm\n", "mapping"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, text, said):
    with pytest.raises(ConfigurationError, match=said):
        start_cluster(read_cluster(described(tmp_path, text)))


def test_without_the_extra_it_says_what_to_install(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigurationError, match=r"install cyclades\[distributed\]"):
        DaskEngine(work, "tcp://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"install cyclades\[distributed\]"):
        start_cluster(ClusterOptions(cluster="local"))


@pytest.mark.slow
def test_a_queue_runs_the_workers(four, work, undisturbed, tmp_path, monkeypatch):
    """With a queue that starts every job at once, on this machine."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, text in (
        ("sbatch", '#!/bin/sh\nsetsid sh "$1" > /dev/null 2>&1 &\necho "Submitted batch job $!"\n'),
        ("scancel", '#!/bin/sh\nkill -- -"$1" 2> /dev/null || true\n'),
    ):
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}{os.pathsep}{os.environ['PATH']}")
    path = described(
        tmp_path,
        "cluster: slurm\njobs: 2\noptions:\n  cores: 1\n  memory: 4GB\n"
        f"  python: {sys.executable}\n"
        "  interface: lo\n  scheduler_options: {dashboard_address: null}\n",
    )
    run_survey(work, four, Workers(cluster=path))
    assert contents(work.folder) == contents(undisturbed)
    workers = {entry.worker for entry in read_entries(work.folder)}
    assert all(worker.startswith("tcp://127.0.0.1:") for worker in workers)
