"""Ceph's S3 as a program of its own: prints its port, serves, and ends when its parent does. Run by servers.py.

A whole cluster of one machine: a monitor, one OSD on a sparse file, and radosgw, on 127.0.0.1 and below one temporary folder, which goes in
the end. Anybody may run it who has Debian's packages (scripts/environment.sh). The daemons end with this process, also when it is killed.

    python ceph_server.py ACCESS_KEY SECRET_KEY
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from tests.store.parent import wait_for_end_of

_SECONDS = 120  # for each step; the longest takes 10 on two idle cores
_PAUSE = 0.1
#: Below what the kernel gives to whoever asks for any port, so that nobody gets one of these between the look at it and its use.
_PORTS = range(20000, 32768)
_CONFIG = """
[global]
fsid = {cluster}
mon_initial_members = a
mon_host = v2:127.0.0.1:{monitor}
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
# Who reaches the ports of this machine may do everything anyway; and without `crc` radosgw still asks for a secret.
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
ms_client_mode = crc
ms_cluster_mode = crc
ms_service_mode = crc
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 500
# It waits a second for more changes before it makes one; each of the eight pools is three.
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
# A disk that is nearly full is no reason to stop: what is stored here is small.
mon_data_avail_crit = 1
mon_data = {folder}/mon
run_dir = {folder}
log_file = {folder}/$name.log
pid_file =
admin_socket =
crash_dir = {folder}
[osd]
osd_data = {folder}/osd
osd_objectstore = bluestore
osd_memory_target = 939524096
bluestore_block_size = 10737418240
[client.rgw.a]
# Without tcp_nodelay each small answer takes 48 ms.
rgw_frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
rgw_data = {folder}/rgw
rgw_thread_pool_size = 64
rgw_dns_name = 127.0.0.1
rgw_crypt_require_ssl = false
"""


class Cluster:
    """What is started below one folder. `close` ends it, by the ids of what was started."""

    def __init__(self, folder: Path) -> None:
        self.gateway, self._monitor = random.sample([port for port in random.sample(_PORTS, 64) if _is_free(port)], 2)
        self._folder, self._cluster = folder, str(uuid4())
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        self._config = folder / "ceph.conf"
        self._config.write_text(_CONFIG.format(folder=folder, cluster=self._cluster, monitor=self._monitor, gateway=self.gateway))

    def start(self, access_key: str, secret_key: str) -> None:
        """Raises RuntimeError, with what the program that failed said."""
        self._start_monitor()
        self._start_storage()
        # It waits until the storage is there, and makes the first pools.
        user = ("user", "create", "--uid=tester", "--display-name=tester", f"--access-key={access_key}", f"--secret={secret_key}")
        self._run("radosgw-admin", "-n", "client.rgw.a", *user)
        self._start_daemon("radosgw", "-n", "client.rgw.a")
        self._await(lambda: _listens(self.gateway))

    def _start_monitor(self) -> None:
        keys, addresses = self._folder / "mon.keyring", self._folder / "monmap"
        self._run("ceph-authtool", "--create-keyring", keys, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{self._monitor}]", "--fsid", self._cluster, addresses)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", addresses, "--keyring", keys)
        self._start_daemon("ceph-mon", "-i", "a")

    def _start_storage(self) -> None:
        identity = str(uuid4())
        number = self._run("ceph", "osd", "new", identity).strip()
        self._run("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", identity)
        self._start_daemon("ceph-osd", "-i", number)

    def _run(self, program: str, *arguments: str | Path) -> str:
        command = [program, "-c", self._config, *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL)
        if ran.returncode:
            raise RuntimeError(f"{program} failed ({ran.returncode}): {ran.stderr[-2000:]}")
        return ran.stdout

    def _start_daemon(self, program: str, *arguments: str) -> None:
        # setpriv: however this process ends, the daemon does, too.
        command: list[str | Path] = ["setpriv", "--pdeathsig", "KILL", program, "-c", self._config, "--foreground", *arguments]
        with (self._folder / f"{program}.out").open("wb") as out:
            daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        self._daemons.append((program, daemon))

    def _await(self, done: Callable[[], bool]) -> None:
        for _ in range(int(_SECONDS / _PAUSE)):
            if done():
                return
            for program, daemon in self._daemons:
                try:
                    daemon.wait(_PAUSE / len(self._daemons))
                except subprocess.TimeoutExpired:
                    continue
                said = (self._folder / f"{program}.out").read_text(errors="replace")
                raise RuntimeError(f"{program} ended ({daemon.returncode}): {said[-2000:]}")
        raise RuntimeError(f"radosgw does not listen after {_SECONDS} s")

    def close(self) -> None:
        """End the daemons, the last one first."""
        for _, daemon in reversed(self._daemons):
            daemon.kill()  # not asked to end, which takes seconds: nothing of it is kept
            daemon.wait()


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Serve until the parent ends."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the folder goes, too
    with tempfile.TemporaryDirectory(prefix="artifactmount-ceph-") as folder, closing(Cluster(Path(folder))) as cluster:
        cluster.start(*sys.argv[1:])
        print(cluster.gateway, flush=True)
        wait_for_end_of(parent)


if __name__ == "__main__":
    main()
