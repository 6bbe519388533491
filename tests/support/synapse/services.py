"""Runs PostgreSQL and Redis on unix sockets in the directory that is the argument, until standard input
ends or one of the two does. Then it stops both and removes the directory."""

import glob
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading

children = []


def main(home):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        start_redis(home)
        start_postgres(home)
        os.wait()
    finally:
        for stop in [signal.SIGINT, signal.SIGTERM]:
            signal.signal(stop, signal.SIG_IGN)
        for child in children:
            # Of all signals, this one makes both end soon, whoever is connected.
            child.send_signal(signal.SIGINT)
        for child in children:
            child.wait()
        shutil.rmtree(home, ignore_errors=True)


def end_with_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def start_redis(home):
    server = shutil.which("redis-server") or sys.exit("there is no redis-server")
    socket = os.path.join(home, "redis.sock")
    start([server, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", home])


def start_postgres(home):
    programs = postgres_programs()
    sockets = os.path.join(home, "postgres")
    data = os.path.join(sockets, "data")
    os.mkdir(sockets, 0o700)
    user = {}
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        other = unprivileged_user()
        user = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
        os.chmod(home, 0o711)
        os.chown(sockets, other.pw_uid, other.pw_gid)
    initdb = start(
        [os.path.join(programs, "initdb"), "--pgdata", data, "--username", "synapse"]
        + ["--auth", "trust", "--locale", "C", "--encoding", "UTF8", "--no-sync"],
        **user,
    )
    if initdb.wait() != 0:
        sys.exit("initdb failed")
    settings = {
        "unix_socket_directories": sockets,
        "listen_addresses": "",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    start([os.path.join(programs, "postgres"), "-D", data, *options], **user)


def postgres_programs():
    """Debian keeps them off PATH."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    initdb = max(found, default=None) or shutil.which("initdb") or sys.exit("there is no initdb")
    return os.path.dirname(initdb)


def unprivileged_user():
    for name in ["postgres", "nobody"]:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    sys.exit("there is neither a user postgres nor a user nobody")


def start(command, **user):
    log = sys.stderr
    child = subprocess.Popen(
        command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **user
    )
    children.append(child)
    return child


main(sys.argv[1])
