"""How fast batches are, what they cost beyond the computation, and what faults do to them.

    python tests/benchmarks/batch.py OUTPUT WHAT [--fields N]

speed      one and two worker processes on the same fields
overhead   many small images in one process: time beyond that of a loop over the chain alone
cluster    a simulated Dask cluster: time beyond that of the work on its workers
workers    worker processes killed at random moments; the outcome beside that without
leader     the leading process killed with -9 at random moments; likewise
scheduler  a Dask scheduler, or one of its workers, killed and started again at random moments
disk       a disk (in memory; needs root) that is full, until it is made larger
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

OWN_MOUNTS = "CYCLADES_OWN_MOUNTS"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def fields(folder, number, size, seed):
    from tests.survey_fields import write_fields

    rows = max(1, int(number**0.5))
    columns = -(-number // rows)
    paths, _ = write_fields(
        folder, rows, columns, size=size, step=int(0.8 * size), a_field=10, seed=seed
    )
    for path in paths[number:]:
        path.unlink()
    return paths[:number]


def command(images, output, *options):
    return [sys.executable, "-m", "cyclades", "batch", str(images), "-o", str(output), *options]


def batch(images, output, *options):
    """Run a batch to its end; return wall and processor seconds."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command(images, output, *options), capture_output=True, text=True)
    after = os.times()
    assert done.returncode == 0, done.stderr
    cpu = after.children_user + after.children_system
    return time.perf_counter() - start, cpu - before.children_user - before.children_system


def contents(output):
    """Checksums of everything that must not depend on what happened on the way."""
    made = {}
    patterns = ("survey.*.fits", "survey.*.ecsv", "fields/*.catalogue.fits", "rows/*")
    for pattern in patterns:
        for path in output.glob(pattern):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.suffix == ".npz":  # an archive holds the time of its writing
                import numpy as np

                with np.load(path) as held:
                    parts = b"".join(held[name].tobytes() for name in sorted(held.files))
                digest = hashlib.sha256(parts).hexdigest()
            made[str(path.relative_to(output))] = digest
    return made


def judge(name, output, reference):
    mine, right = contents(output), contents(reference)
    different = sorted(k for k in mine.keys() | right.keys() if mine.get(k) != right.get(k))
    left = [str(p) for p in output.rglob(".*") if ".partial" in p.name or ".tmp" in p.name]
    print(
        f"{name}: {len(right)} files, {len(different)} differ from the undisturbed ones"
        f"{' ' + ', '.join(different[:5]) if different else ''}; {len(left)} half-written left"
    )
    return not different and not left


def alive(number):
    try:
        with open(f"/proc/{number}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(number):
    try:
        with open(f"/proc/{number}/task/{number}/children", encoding="ascii") as file:
            found = [int(word) for word in file.read().split()]
    except OSError:
        return []
    made = []
    for child in found:
        try:
            text = Path(f"/proc/{child}/cmdline").read_text("ascii")
        except OSError:
            continue
        if "spawn_main" in text:  # and not the tracker of resources
            made.append(child)
    return made


def speed(folder, number, size, seed):
    images = folder / "images"
    fields(images, number, size, seed)
    rows = []
    for workers in (1, 2, 1, 2):
        output = folder / f"workers{workers}"
        shutil.rmtree(output, ignore_errors=True)
        load = os.getloadavg()[0]
        wall, cpu = batch(images, output, "--workers", str(workers))
        rows.append((workers, wall, cpu))
        print(f"{workers} workers: {wall:.1f} s, {cpu:.1f} processor s, load before {load:.1f}")
    best = {w: min(wall for workers, wall, _ in rows if workers == w) for w in (1, 2)}
    print(f"two workers are {best[1] / best[2]:.2f} times as fast, on {number} fields")
    judge("one beside two workers", folder / "workers1", folder / "workers2")


def overhead(folder, number, size, seed):
    from cyclades.pipeline.chain import Pipeline, Result
    from cyclades.pipeline.cli import _prepare_process
    from cyclades.pipeline.config import RouteConfig
    from cyclades.pipeline.survey import facts, run
    from cyclades.pipeline.survey.inputs import expand
    from cyclades.pipeline.survey.work import Work
    from cyclades.stages.core.context import Context

    images = folder / "images"
    fields(images, number, size, seed)
    spent = dict.fromkeys(("run", "write", "collect", "finish"), (0.0, 0.0))

    def timed(kind, name):
        inner = getattr(kind, name)

        def outer(*given, **options):
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return inner(*given, **options)
            finally:
                so_far = spent[name]
                spent[name] = (so_far[0] + time.perf_counter() - wall,
                               so_far[1] + time.process_time() - cpu)  # fmt: skip

        setattr(kind, name, outer)

    _prepare_process()
    for name in ("first", "out"):
        shutil.rmtree(folder / name, ignore_errors=True)
    route = RouteConfig.from_route("classical")
    cpu = time.process_time()
    run.run_survey(Work.plan(route, folder / "first"), expand([images])[:1])
    print(f"imports, compiled code and the first image: {time.process_time() - cpu:.1f} s")
    timed(Pipeline, "run")
    timed(Result, "write")
    timed(facts, "collect")
    timed(run, "finish")
    work = Work.plan(route, folder / "out")
    wall, cpu = time.perf_counter(), time.process_time()
    run.run_survey(work, expand([images]))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    parts, pipeline, start = spent.copy(), Pipeline(route), time.process_time()
    with Context(workers=1, seed=route.seed) as context:
        for image in expand([images]):
            pipeline.run(image, context=context)
    alone = time.process_time() - start
    print(
        f"processor: {1e3 * alone / number:.1f} ms an image in a loop over the chain alone, "
        f"{1e3 * (cpu - alone) / number:.1f} ms an image beyond that in the batch"
    )
    for label, place, total in (("wall", 0, wall), ("processor", 1, cpu)):
        inside = sum(part[place] for part in parts.values())
        print(
            f"{label}: {total:.1f} s for {number} images of {size} x {size}, "
            f"{1e3 * parts['run'][place] / number:.0f} ms an image in the chain, "
            f"{1e3 * parts['write'][place] / number:.0f} ms in its files, "
            f"{1e3 * parts['collect'][place] / number:.0f} ms for the survey's figures, "
            f"{1e3 * parts['finish'][place] / number:.0f} ms in the survey at the end, "
            f"{1e3 * (total - inside) / number:.1f} ms beyond"
        )


def cluster(folder, number, size, seed):
    from cyclades.pipeline.config import RouteConfig
    from cyclades.pipeline.survey.cluster import ClusterOptions, DaskEngine, start_cluster
    from cyclades.pipeline.survey.inputs import expand
    from cyclades.pipeline.survey.journal import Journal
    from cyclades.pipeline.survey.running import lead, plan, prepare
    from cyclades.pipeline.survey.work import Work

    images = folder / "images"
    fields(images, number, size, seed)
    for workers in (2, 4):
        output = folder / f"cluster{workers}"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        work = Work.plan(RouteConfig.from_route("classical"), output)
        with (
            Journal(output) as journal,
            DaskEngine(
                work, cluster=start_cluster(ClusterOptions(cluster="local", jobs=workers))
            ) as engine,
        ):
            prepare(work)
            tasks = plan(journal, work, expand([images]))
            warm, rest = tasks[: 2 * workers], tasks[2 * workers :]
            lead(journal, work, engine, warm)
            start = time.perf_counter()
            lead(journal, work, engine, rest)
            wall = time.perf_counter() - start
            stems = {task.stem for task in rest}
            busy = sum(e.seconds for e in journal.entries() if e.stem in stems)
        print(
            f"{workers} workers: {wall:.1f} s for {busy:.1f} s of work: "
            f"{100 * (workers * wall / busy - 1):.1f} % beyond"
        )


def reference(folder, number, size, seed):
    images = folder / "images"
    fields(images, number, size, seed)
    output = folder / "reference"
    shutil.rmtree(output, ignore_errors=True)
    wall, _ = batch(images, output, "--workers", "2")
    print(f"undisturbed: {wall:.1f} s")
    return images, output, wall


def kill_workers(folder, number, size, seed, kills):
    images, right, _ = reference(folder, number, size, seed)
    rng = random.Random(seed)
    output = folder / "killed"
    shutil.rmtree(output, ignore_errors=True)
    options = ("--workers", "2", "--attempts", "20")
    leader = subprocess.Popen(
        command(images, output, *options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    done = 0
    while leader.poll() is None and done < kills:
        time.sleep(rng.uniform(0.3, 6.0))
        victims = children(leader.pid)
        if victims:
            os.kill(rng.choice(victims), signal.SIGKILL)
            done += 1
    said = leader.communicate()[0].decode()
    assert leader.returncode == 0, said
    print(f"{done} workers killed")
    return judge("workers killed", output, right)


def kill_leader(folder, number, size, seed, kills):
    images, right, wall = reference(folder, number, size, seed)
    rng = random.Random(seed)
    output = folder / "killed"
    shutil.rmtree(output, ignore_errors=True)
    done = stray = 0
    for _ in range(kills):
        leader = subprocess.Popen(
            command(images, output, "--workers", "2"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(rng.uniform(0.0, 1.0) * max(0.6 * wall, 4.0))
        workers = children(leader.pid)
        if leader.poll() is None:
            leader.kill()
            done += 1
        leader.wait()
        time.sleep(2.0)
        stray += sum(alive(worker) for worker in workers)
    batch(images, output, "--workers", "2")
    print(f"leader killed {done} times; {stray} workers lived on after 2 s")
    return judge("leader killed", output, right)


def restart_services(folder, number, size, seed, kills):
    from tests.dask_services import DaskServices

    images, right, _ = reference(folder, number, size, seed)
    rng = random.Random(seed)
    output = folder / "restarted"
    shutil.rmtree(output, ignore_errors=True)
    services = DaskServices(2)
    time.sleep(20)
    options = ("--scheduler", services.address, "--attempts", "20")
    leader = subprocess.Popen(
        command(images, output, *options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    done = {"workers": 0, "schedulers": 0}
    while leader.poll() is None and sum(done.values()) < kills:
        time.sleep(rng.uniform(2.0, 12.0))
        if rng.random() < 0.2:
            services.restart()
            done["schedulers"] += 1
        else:
            services.start_worker(rng.randrange(2))
            done["workers"] += 1
    said = leader.communicate()[0].decode()
    services.stop()
    assert leader.returncode == 0, said
    print(f"killed and started again: {done}")
    return judge("services restarted", output, right)


def fill_disk(folder, number, size, seed, kills):
    if os.environ.get(OWN_MOUNTS) != "1":
        # mounts of a namespace of its own go with the process, however that ends
        os.environ[OWN_MOUNTS] = "1"
        own = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvp(own[0], own)
    images, right, _ = reference(folder, number, size, seed)
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    stops = 0
    for megabytes in (1, 2, 3, 4, 6, 8, 12, 20, 200):
        subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(disk)], check=True)
        done = subprocess.run(
            command(images, disk / "out", "--workers", "2"), capture_output=True, text=True
        )
        if done.returncode == 0:
            break
        stops += 1
        last = done.stderr.strip().splitlines()[-1]
        print(f"{megabytes} MB: code {done.returncode}: {last[:110]}")
        assert "Traceback" not in done.stderr
    print(f"stopped {stops} times")
    return judge("disk full", disk / "out", right)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    faults = {"workers": kill_workers, "leader": kill_leader, "scheduler": restart_services,
              "disk": fill_disk}  # fmt: skip
    names = ("speed", "overhead", "cluster", *faults)
    parser.add_argument("what", choices=names)
    parser.add_argument("--fields", type=int, default=60)
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    shared = (given.output / given.what, given.fields, given.size, given.seed)
    if given.what in faults:
        sys.exit(not faults[given.what](*shared, given.kills))
    {"speed": speed, "overhead": overhead, "cluster": cluster}[given.what](*shared)


if __name__ == "__main__":
    main()
