"""Run a `vdu` stage as several processes on this machine, each with its own CPU devices.

    python launch/local.py --processes=2 --devices=4 -- vdu train --config=… --workdir=…

Use it to try a multi-host run on one machine. Every process prints its errors; only the first one
prints results and progress. If a process fails, the others have a minute to notice before they are
killed. Ctrl-C and SIGTERM are passed on, so the stage saves its state and ends.

Exit code: that of the first process that failed (128 + n for signal n), or 0.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

PATIENCE = 60.0  # seconds between the first failure and the killing of the other processes


def free_port() -> int:
    """Return a TCP port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(command: list[str], processes: int, devices: int) -> list[subprocess.Popen]:
    """Start the processes of a stage.

    Args:
      command: the `vdu` command line.
      processes: number of processes.
      devices: CPU devices of each process.
    """
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    flags = [f"--coordinator=localhost:{free_port()}", f"--processes={processes}"]
    # A terminal sends Ctrl-C to its whole process group. Each process gets a group of its own, as
    # it would otherwise receive the signal twice: from the terminal and from this script.
    return [
        subprocess.Popen([*command, *flags, f"--process={index}"], env=env, process_group=0)
        for index in range(processes)
    ]


def wait(running: list[subprocess.Popen]) -> int:
    """Wait for all processes and return the exit code of this script."""
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
    parser.add_argument("--processes", type=int, default=2, help="number of processes")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each process")
    parser.add_argument("command", nargs="+", help="the command to run, after --: vdu STAGE …")
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
