#!/usr/bin/env python3
"""Runs a command on a machine that stalls: stops all of its processes at once, again and again.

    stall.py [--for SECONDS] [--every SECONDS] [--seed NUMBER] COMMAND [ARGUMENT...]

A virtual machine that shares its processors stands still for a second now and then. No test may fail by that. This stops
every process of the command's session (SIGSTOP), the Envoys and browsers that the tests start among them, and lets them
go on (SIGCONT) after 1.5 seconds. Between two stops the command runs for 5 seconds on average, between half and one and a
half times of that. The exit status is the command's.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--for", dest="length", type=float, default=1.5, help="how long each stall lasts, in seconds")
    parser.add_argument("--every", type=float, default=5, help="seconds between two stalls, on average")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"stall.py: {options.length} s after each {options.every} s on average, seed {seed}", file=sys.stderr)
    chance = random.Random(seed)
    child = subprocess.Popen(options.command, start_new_session=True)
    # The command ends with this program. A shell may have told it to ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    stalls = 0
    try:
        while not ends_within(child, options.every * chance.uniform(0.5, 1.5)):
            stopped = stop_all(child.pid)
            time.sleep(options.length)
            send(stopped, signal.SIGCONT)
            stalls += 1
    finally:
        if child.poll() is None:
            send(of_session(child.pid), signal.SIGKILL)
    print(f"stall.py: {stalls} stalls", file=sys.stderr)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def ends_within(child, seconds):
    try:
        child.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False


def stop_all(session):
    """Stops the processes of a session, also those that begin meanwhile. Returns them."""
    stopped = set()
    while new := of_session(session) - stopped:
        send(new, signal.SIGSTOP)
        stopped |= new
    return stopped


def of_session(session):
    processes = set()
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name of a process may have spaces and parentheses: its session is the fourth field after the last one.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            processes.add(int(folder.name))
    return processes


def send(processes, number):
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    sys.exit(main())
