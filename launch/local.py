"""Run a `vdu` stage as several processes on this machine, each with its own CPU devices.

    python launch/local.py --processes=2 --devices=4 -- vdu train --config=… --workdir=…

To try out on one machine what will run on many. All processes show their errors, the first its
results and progress. If one fails, the others are given a minute to notice, and ended.
Ctrl-C and SIGTERM are passed on: the stage saves and ends.

Exit code: that of the first process that failed (128 + n for signal n), or 0.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

PATIENCE = 60.0  # seconds from the first failure to the end of all


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(command: list[str], processes: int, devices: int) -> list[subprocess.Popen]:
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    flags = [f"--coordinator=localhost:{free_port()}", f"--processes={processes}"]
    # A terminal's Ctrl-C goes to its whole group: passed on to them, too, it would come twice.
    return [
        subprocess.Popen([*command, *flags, f"--process={index}"], env=env, process_group=0)
        for index in range(processes)
    ]


def wait(running: list[subprocess.Popen]) -> int:
    """The exit code of all."""
    first, deadline = 0, float("inf")
    while any(process.poll() is None for process in running):
        time.sleep(0.1)
        for index, process in enumerate(running):
            if process.poll() and not first:
                first, deadline = process.returncode, time.monotonic() + PATIENCE
                if first < 0:
                    name = signal.Signals(-first).name
                    print(f"local.py: process {index} was ended by {name}", file=sys.stderr)
        if time.monotonic() > deadline:
            for process in running:
                process.kill()
    first = first or next((p.returncode for p in running if p.returncode), 0)
    return 128 - first if first < 0 else first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each process")
    parser.add_argument("command", nargs="+", help="after --: vdu STAGE …")
    given = parser.parse_args()
    if given.processes < 1 or given.devices < 1:
        parser.error("--processes and --devices must be at least 1")
    running = start(given.command, given.processes, given.devices)
    for signum in (signal.SIGTERM, signal.SIGINT):

        def pass_on(signum, frame):
            for process in running:
                process.send_signal(signum)

        signal.signal(signum, pass_on)
    return wait(running)


if __name__ == "__main__":
    sys.exit(main())
