"""A tree as a dict, for the tests of pure modules: path -> (mode byte, size, mtime, digest, target, chunk digests)."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from artifactmount.digest import chunk_digest, content_digest
from artifactmount.pack import Place
from artifactmount.ranges import PackId
from artifactmount.rows import Change, Kind, mode_of, split_path
from artifactmount.run import Run
from artifactmount.run_builder import RunBuilder


@dataclass(frozen=True)
class Leaf:
    mode: int
    size: int = 0
    mtime: int = 0
    digest: bytes = bytes(32)
    target: bytes = b""
    chunks: tuple[bytes, ...] = ()

    @property
    def identity(self) -> tuple[int, int, bytes]:
        return self.mode, self.size, self.digest


Tree = dict[bytes, Leaf]
DIRECTORY = Leaf(mode_of(Kind.DIRECTORY))


def file(contents: list[bytes], mtime: int = 1, executable: bool = False) -> Leaf:
    digests = tuple(chunk_digest(part) for part in contents)
    return Leaf(mode_of(Kind.FILE, executable), sum(map(len, contents)), mtime, content_digest(digests), b"", digests)


def link(target: bytes) -> Leaf:
    return Leaf(mode_of(Kind.SYMLINK), len(target), 0, chunk_digest(target), target)


def place_of(digest: bytes) -> Place:
    """Any place will do: the sizes come from `SIZES`, which remembers what `file` was made of."""
    return Place(PackId(digest[0] % 3, digest[1] % 2), int.from_bytes(digest[:2], "little"), 7, SIZES[digest])


SIZES: dict[bytes, int] = {}


def sized(contents: list[bytes], mtime: int = 1, executable: bool = False) -> Leaf:
    SIZES.update((chunk_digest(part), len(part)) for part in contents)
    return file(contents, mtime, executable)


def order(path: bytes) -> tuple[bytes, bytes]:
    return split_path(path)


def run_between(old: Tree, new: Tree) -> Run:
    """The delta from `old` to `new`, as a run that was checked."""
    builder = RunBuilder()
    for path in sorted(old.keys() | new.keys(), key=order):
        key, name = split_path(path)
        before, after = old.get(path), new.get(path)
        if after is None:
            assert before is not None
            builder.add(key, name, Change.REMOVED, before.mode, before.size)
        elif before is None or before.identity != after.identity:
            change = Change.ADDED if before is None else Change.CHANGED
            builder.add(key, name, change, after.mode, after.size, after.mtime, after.digest, after.target, b"".join(after.chunks))
    data = builder.finish(place_of)
    return Run(data, chunk_digest(data))


names = st.sampled_from([b"a", b"b", b"a-b", b"a.b", b"\x01", b"\xff", b"cat.png", b"z z"])
leaves = st.one_of(
    st.lists(st.binary(min_size=1, max_size=3), max_size=3).map(sized),
    st.binary(min_size=1, max_size=3).filter(lambda b: b"\0" not in b).map(link),
    st.just(DIRECTORY),
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree whose parents are all there."""
    tree: Tree = {}
    for parts, leaf in draw(st.lists(st.tuples(st.lists(names, min_size=1, max_size=4), leaves), max_size=12)):
        for depth in range(1, len(parts)):
            parent = b"/".join(parts[:depth])
            if tree.get(parent, DIRECTORY) != DIRECTORY:
                break
            tree[parent] = DIRECTORY
        else:
            path = b"/".join(parts)
            if path not in tree:
                tree[path] = leaf
    return tree
