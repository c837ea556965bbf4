"""A Dask scheduler and its workers as processes of their own, to be killed and started again."""

import socket
import subprocess
import sys


class DaskServices:
    """A scheduler on a port of this machine, and workers of one thread each.

    Parameters
    ----------
    workers : int
    """

    def __init__(self, workers):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{one.getsockname()[1]}"
        self.scheduler = None
        self.workers = [None] * workers
        self.restart()

    def restart(self):
        """Kill whatever runs, and start all of it."""
        self.stop()
        self.scheduler = _started("dask_scheduler", "--host", self.address, "--no-dashboard")
        for place in range(len(self.workers)):
            self.start_worker(place)

    def start_worker(self, place):
        """Kill a worker, if it runs, and start it."""
        if self.workers[place] is not None:
            self.workers[place].kill()
            self.workers[place].wait()
        self.workers[place] = _started(
            "dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--death-timeout", "60",
        )  # fmt: skip

    def stop(self):
        """Kill all of it."""
        for process in (self.scheduler, *self.workers):
            if process is not None:
                process.kill()
                process.wait()


def _started(name, *arguments):
    code = f"from distributed.cli.{name} import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
