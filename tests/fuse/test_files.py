"""What programs find in a mount: names, kinds, attributes and bytes, compared with the folder that the version was made from."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path

import pytest

from tests.fuse.conftest import LONG, MEBI, NEWLINE, NOT_UTF8, Gallery
from tests.fuse.mounts import Project, mounted, tree_of

pytestmark = pytest.mark.needs_fuse

STRANGE = "strange/v0"


def test_the_seed_example_is_listed(gallery: Gallery) -> None:
    top = gallery.mount.path
    assert sorted(os.listdir(top)) == ["animals", "crowd", "strange"]
    assert sorted(os.listdir(top / "animals")) == ["best", "latest", "v0", "v1"]
    assert os.listdir(top / "animals/v0") == ["cat.png", "dog.png"]
    assert os.listdir(top / "animals/latest") == ["cat.png", "dog.png", "rat.png"]
    assert os.readlink(top / "animals/latest") == os.readlink(top / "animals/best") == "v1"
    assert [path.stat().st_size for path in sorted((top / "animals/v1").iterdir())] == [2_000_000, 1_000_000, 3_000_000]
    for number in (0, 1):
        for path in gallery.seed[number].iterdir():
            assert (top / f"animals/v{number}" / path.name).read_bytes() == path.read_bytes()


def test_every_name_kind_link_and_content_is_what_it_was(gallery: Gallery) -> None:
    found = tree_of(gallery.mount / STRANGE)
    assert found == tree_of(gallery.strange)
    assert {os.fsencode(name) for name in (NEWLINE, NOT_UTF8, LONG, "-rf", " space ", "hollow/hollower")} <= found.keys()


def test_listing_twice_gives_the_same_inodes_as_stat(gallery: Gallery) -> None:
    with os.scandir(gallery.mount / STRANGE) as entries:
        listed = {entry.name: entry.inode() for entry in entries}
    assert len(set(listed.values())) == len(listed)
    assert listed == {name: os.lstat(gallery.mount / STRANGE / name).st_ino for name in listed}


# -- attributes ----------------------------------------------------------------------------------------------------------------------
def test_files_keep_size_time_and_executable_bit(gallery: Gallery) -> None:
    for original in gallery.strange.rglob("*"):
        if original.is_symlink() or original.is_dir():
            continue
        kept, now = original.stat(), (gallery.mount / STRANGE / str(original.relative_to(gallery.strange))).stat()
        assert now.st_mode == stat.S_IFREG | (0o555 if kept.st_mode & 0o100 else 0o444), original
        assert (now.st_size, now.st_mtime_ns) == (kept.st_size, kept.st_mtime_ns), original
        assert (now.st_nlink, now.st_blksize, now.st_uid, now.st_gid) == (1, 4096, os.getuid(), os.getgid())
        assert now.st_blocks == (kept.st_size + 511) // 512


def test_a_folder_asks_for_listings_in_one_request(gallery: Gallery) -> None:
    for name in (".", "animals", "animals/v0", "strange/v0/sub", "strange/v0/hollow/hollower"):
        status = (gallery.mount / name).stat()
        assert (status.st_mode, status.st_nlink, status.st_blksize) == (stat.S_IFDIR | 0o555, 2, MEBI), name
    version, below = (gallery.mount / STRANGE).stat(), (gallery.mount / STRANGE / "sub").stat()
    assert version.st_mtime_ns == below.st_mtime_ns > gallery.strange.stat().st_ctime_ns - 10**9


def test_links_lead_where_they_led(gallery: Gallery) -> None:
    top = gallery.mount / STRANGE
    assert stat.S_ISLNK((top / "dangling").lstat().st_mode) and (top / "dangling").lstat().st_size == len("no/where")
    assert os.readlink(top / "absolute") == "/etc/hostname"
    assert (top / "inside").read_bytes() == b"x" == (top / "links/to a folder/deeper/x").read_bytes()
    with pytest.raises(FileNotFoundError):
        (top / "dangling").stat()
    with pytest.raises(OSError, match="symbolic links") as caught:
        (top / "loop").stat()
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="symbolic links"):
        os.open(top / "inside", os.O_RDONLY | os.O_NOFOLLOW)


def test_an_unchanged_file_is_one_inode_in_both_versions(gallery: Gallery) -> None:
    animals = gallery.mount / "animals"
    found = subprocess.run(["find", animals, "-samefile", animals / "v0/cat.png"], capture_output=True, text=True, check=True)
    assert sorted(found.stdout.split()) == [str(animals / "v0/cat.png"), str(animals / "v1/cat.png")]
    assert not os.path.samefile(animals / "v0", animals / "v1")
    assert os.path.samefile(animals / "v1", animals / "latest")


def test_extended_attributes_tell_digest_version_and_what_is_cached(gallery: Gallery) -> None:
    animals, prefix = gallery.mount / "animals", "user.artifactmount."
    of_folder = {name: os.getxattr(animals / "v1", name).decode() for name in os.listxattr(animals / "v1")}
    assert of_folder.keys() == {prefix + "artifact", prefix + "version", prefix + "digest"}
    assert (of_folder[prefix + "artifact"], of_folder[prefix + "version"]) == ("animals", "v1")
    assert of_folder[prefix + "digest"] in gallery.mount.project.do("show", "animals:v1", "--json")
    of_file = {name: os.getxattr(animals / "v1/cat.png", name).decode() for name in os.listxattr(animals / "v1/cat.png")}
    assert of_file.keys() == {prefix + "artifact", prefix + "written", prefix + "digest", prefix + "cached"}
    assert (of_file[prefix + "written"], of_file[prefix + "cached"]) == ("v0", "yes")
    assert os.getxattr(animals / "v1/rat.png", prefix + "written") == b"v1"
    assert os.getxattr(animals / "v0/cat.png", prefix + "digest").decode() == of_file[prefix + "digest"]
    assert os.listxattr(animals) == os.listxattr(gallery.mount.path) == os.listxattr(animals / "latest", follow_symlinks=False) == []
    for name in ("user.other", prefix + "nothing", "security.selinux", "system.posix_acl_access"):
        with pytest.raises(OSError, match=r"No data available|not supported") as caught:
            os.getxattr(animals / "v1/cat.png", name)
        assert caught.value.errno in (errno.ENODATA, errno.EOPNOTSUPP)


def test_getfattr_dumps_them(gallery: Gallery) -> None:
    dumped = subprocess.run(
        ["getfattr", "-d", "--absolute-names", gallery.mount / "animals/v0/dog.png"], capture_output=True, text=True, check=True
    )
    assert 'user.artifactmount.artifact="animals"' in dumped.stdout and 'user.artifactmount.cached="yes"' in dumped.stdout


def test_the_size_of_the_file_system_is_the_cache_budget(gallery: Gallery) -> None:
    status = os.statvfs(gallery.mount.path)
    assert status.f_blocks * status.f_frsize == 10 << 30
    assert status.f_namemax == 255 and status.f_flag & os.ST_RDONLY and status.f_flag & os.ST_NOSUID


# -- names ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "target"),
    [("animals:v0", "animals/v0"), ("animals:latest", "animals/latest"), ("animals:best", "animals/best")],
)
def test_a_name_with_a_version_is_found_and_not_listed(gallery: Gallery, name: str, target: str) -> None:
    assert os.readlink(gallery.mount / name) == target
    assert (gallery.mount / name / "cat.png").stat().st_size == 2_000_000
    assert not any(":" in listed for listed in os.listdir(gallery.mount.path))


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "Animals",
        ".hidden",
        "a b",
        "animals:",
        "animals:v2",
        "animals:v00",
        "animals:nothing",
        "nothing:latest",
        "animals:v0:v0",
        ":v0",
        "x" * 255,
        os.fsdecode(b"\xff"),
        "animals/v2",
        "animals/v00",
        "animals/v-0",
        "animals/v",
        "animals/nothing",
        os.fsdecode(b"animals/v\xd9\xa1"),  # a digit, but not 0-9
        "animals/v99999999999999999999",
        "animals/v0/rat.png",
        "animals/v0/CAT.PNG",
        "animals/v0/" + "x" * 255,
        "strange/v0/sub/deeper/x ",
    ],
)
def test_what_is_not_there_is_not_found_however_often_one_asks(gallery: Gallery, path: str) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            os.lstat(gallery.mount / path)


def test_a_file_is_no_folder_and_a_folder_no_file(gallery: Gallery) -> None:
    with pytest.raises(NotADirectoryError):
        os.lstat(gallery.mount / "animals/v0/cat.png/below")
    with pytest.raises(NotADirectoryError):
        os.listdir(gallery.mount / "animals/v0/cat.png")
    with pytest.raises(IsADirectoryError):
        (gallery.mount / "animals/v0").read_bytes()
    with pytest.raises(OSError, match="Invalid argument"):
        os.readlink(gallery.mount / "animals/v0/cat.png")


# -- nothing can be changed ----------------------------------------------------------------------------------------------------------
CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda top: os.open(top / "new", os.O_WRONLY | os.O_CREAT),
    "write": lambda top: os.open(top / "cat.png", os.O_WRONLY),
    "append": lambda top: os.open(top / "cat.png", os.O_RDWR | os.O_APPEND),
    "open_truncated": lambda top: os.open(top / "cat.png", os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda top: os.truncate(top / "cat.png", 0),
    "unlink": lambda top: os.unlink(top / "cat.png"),
    "rmdir": os.rmdir,
    "mkdir": lambda top: os.mkdir(top / "new"),
    "rename": lambda top: os.rename(top / "cat.png", top / "new"),
    "rename_over": lambda top: os.rename(top / "cat.png", top / "dog.png"),
    "link": lambda top: os.link(top / "cat.png", top / "new"),
    "symlink": lambda top: os.symlink("cat.png", top / "new"),
    "mknod": lambda top: os.mkfifo(top / "new"),
    "chmod": lambda top: os.chmod(top / "cat.png", 0o644),
    "chown": lambda top: os.chown(top / "cat.png", os.getuid(), os.getgid()),
    "utime": lambda top: os.utime(top / "cat.png"),
    "setxattr": lambda top: os.setxattr(top / "cat.png", "user.mine", b"1"),
    "removexattr": lambda top: os.removexattr(top / "cat.png", "user.artifactmount.digest"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_can_be_changed(gallery: Gallery, change: Callable[[Path], object]) -> None:
    with pytest.raises(OSError, match="Read-only") as caught:
        change(gallery.mount / "animals/v0")
    assert caught.value.errno == errno.EROFS


@pytest.mark.parametrize("folder", [".", "animals"])
def test_nothing_can_be_made_above_the_versions(gallery: Gallery, folder: str) -> None:
    with pytest.raises(OSError, match="Read-only"):
        os.mkdir(gallery.mount / folder / "new")
    with pytest.raises(OSError, match="Read-only"):
        os.open(gallery.mount / folder / "new", os.O_WRONLY | os.O_CREAT)


# -- bytes ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["large", "text", "sparse"])
def test_bytes_at_random_places_are_those_of_the_original(gallery: Gallery, name: str) -> None:
    numbers = random.Random(3)
    with _opened(gallery.strange / name) as original, _opened(gallery.mount / STRANGE / name) as mount:
        size = os.fstat(original).st_size
        for _ in range(200):
            at, length = numbers.randrange(size + 10), numbers.choice((0, 1, 4095, 4097, 131_073, 3 * MEBI))
            assert os.pread(mount, length, at) == os.pread(original, length, at)
        for at in (size - 1, size, size + 1, 1 << 40):
            assert os.pread(mount, 100, at) == os.pread(original, 100, at)


@pytest.mark.parametrize("name", ["large", "text", "sparse"])
def test_a_whole_file_is_the_original(gallery: Gallery, name: str) -> None:
    assert _digest(gallery.mount / STRANGE / name) == _digest(gallery.strange / name)


def test_reads_past_the_page_cache_are_right_too(gallery: Gallery) -> None:
    original = (gallery.strange / "large").read_bytes()
    with _opened(gallery.mount / STRANGE / "large") as mount:
        for at in range(0, len(original), MEBI + 4096):
            os.posix_fadvise(mount, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(mount, 5000, at) == original[at : at + 5000]


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    digest = blake2b()
    with path.open("rb", buffering=0) as file:
        while block := file.read(MEBI):
            digest.update(block)
    return digest.hexdigest()


# -- large folders and deep ones -----------------------------------------------------------------------------------------------------
def test_ten_thousand_names_in_order(gallery: Gallery) -> None:
    assert os.listdir(gallery.mount / "crowd/v0") == [f"{number:05d}" for number in range(10_000)]
    shown = subprocess.run(["ls", gallery.mount / "crowd/v0"], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [f"{number:05d}" for number in range(10_000)]


def test_a_listing_given_up_and_begun_again_is_whole(gallery: Gallery) -> None:
    for limit in (0, 1, 7, 6000):
        with os.scandir(gallery.mount / "crowd/v0") as entries:
            seen = [entry.name for entry, _ in zip(entries, range(limit), strict=False)]
        assert seen == [f"{number:05d}" for number in range(limit)]


@pytest.mark.parametrize("folder", ["crowd/v0", "strange/v0", "animals", "."])
def test_a_listing_goes_on_from_every_place_it_was_at(gallery: Gallery, folder: str) -> None:
    """What telldir and seekdir do, with a buffer that holds a few names."""
    with _opened(gallery.mount / folder) as descriptor:
        whole = list(_entries(descriptor, 2048))
        assert sorted(os.fsdecode(name) for name, _ in whole if name not in (b".", b"..")) == sorted(os.listdir(gallery.mount / folder))
        for index in {0, 1, len(whole) // 2, len(whole) - 1}:
            os.lseek(descriptor, whole[index][1], os.SEEK_SET)
            assert [name for name, _ in _entries(descriptor, 512)] == [name for name, _ in whole[index + 1 :]]
        os.lseek(descriptor, 0, os.SEEK_SET)
        assert list(_entries(descriptor, 65536)) == whole


def _entries(descriptor: int, size: int) -> Iterator[tuple[bytes, int]]:
    """(name, position after it) by getdents64(2)."""
    libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(size)
    while (length := libc.getdents64(descriptor, buffer, size)) > 0:
        at = 0
        while at < length:
            _, after, record, _ = struct.unpack_from("<QqHB", buffer, at)
            yield ctypes.string_at(ctypes.byref(buffer, at + 19)), after
            at += record
    assert length == 0, os.strerror(ctypes.get_errno())


def test_a_path_of_four_thousand_bytes(project: Project) -> None:
    names = [f"{level:x}" * (255 if level < 15 else 150) for level in range(16)]
    assert 3900 < len("/".join([*names, "file"])) < 4096
    staging = project.root / "staging"
    staging.mkdir()
    with closing(_Walker(staging)) as walker:
        for name in names:
            os.mkdir(name, dir_fd=walker.descriptor)
            walker.enter(name)
        walker.write("file", b"at the bottom")
    project.snapshot(staging, "deep")
    with mounted(project) as mount, closing(_Walker(mount / "deep/v0")) as walker:
        for name in names:
            assert os.listdir(walker.descriptor) == [name]
            walker.enter(name)
        assert walker.read("file") == b"at the bottom"


class _Walker:
    """A way down into folders too deep for one path."""

    def __init__(self, top: Path) -> None:
        self.descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)

    def enter(self, name: str) -> None:
        """One folder further."""
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.descriptor)
        os.close(self.descriptor)
        self.descriptor = below

    def write(self, name: str, content: bytes) -> None:
        """Make a file here."""
        with open(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=self.descriptor), "wb") as file:
            file.write(content)

    def read(self, name: str) -> bytes:
        """A file here."""
        with open(os.open(name, os.O_RDONLY, dir_fd=self.descriptor), "rb") as file:
            return file.read()

    def close(self) -> None:
        """Let go."""
        os.close(self.descriptor)


def test_an_empty_folder_is_a_version(project: Project) -> None:
    (project.root / "staging").mkdir()
    project.snapshot(project.root / "staging", "nothing")
    with mounted(project) as mount:
        assert os.listdir(mount / "nothing/latest") == []
        with pytest.raises(FileNotFoundError):
            (mount / "nothing/latest/x").stat()
