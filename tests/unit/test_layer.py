"""The upper directory of an overlay, without a mount: what it holds and leaves out, against the version that it lies over."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifactmount.layer import UpperLayer
from artifactmount.manifest import Table
from artifactmount.merge import merge
from artifactmount.scan import scan_layer, tracked_in
from tests.cli.trees import File, Folder, write
from tests.cli.trees import Tree as Files
from tests.unit.trees import DIRECTORY, Tree, run_between, sized

LOWER: Tree = {
    b"a.tmp": sized([b"old"]),
    b"d": DIRECTORY,
    b"d/e": DIRECTORY,
    b"d/e/f": sized([b"old"]),
    b"kept": sized([b"kept"]),
}


def table(tree: Tree) -> Table:
    return Table(merge(None, [run_between({}, tree)]))


def gone(upper: Path, lower: Tree, base: Tree) -> list[bytes]:
    """The paths that are of the lower version and not of what is seen in the overlay; nothing else may have changed."""
    layer, under = UpperLayer(str(upper), "view", files=True), table(lower)
    with layer:
        layer.lie_over("animals:v0", (under, []))
        found = list(scan_layer(layer, under, tracked_in(table(base)), lambda _: None).found())
        assert [each.path for each in found if each.listing is not None] == [b".artifactignore"]
        return [each.path for each in found if each.listing is None]


@pytest.mark.parametrize("whiteout", [False, True])
def test_what_is_ignored_hides_what_the_lower_version_has_there(tmp_path: Path, whiteout: bool) -> None:
    """It was removed, its removal became the base, and it was made again: ignored, and nothing of the lower version."""
    made: Files = {b"d": Folder(), b"d/.wh..wh..opq": File(b""), b"d/other": File(b"local"), b"a.tmp": File(b"local")}
    beside: Files = {b".wh.a.tmp": File(b""), b".wh.d": File(b"")} if whiteout else {}  # nothing says that there cannot be one
    upper = write(tmp_path / "upper", {b".artifactignore": File(b"*.tmp\nd\n")} | made | beside)
    base = {path: leaf for path, leaf in LOWER.items() if path == b"kept"}
    assert gone(upper, LOWER, base) == [b"a.tmp", b"d", b"d/e", b"d/e/f"]


def test_what_is_ignored_and_in_the_base_is_looked_at(tmp_path: Path) -> None:
    upper = write(tmp_path / "upper", {b".artifactignore": File(b"a.tmp\nd\n"), b"d": Folder(), b"d/.wh.e": File(b"")})
    assert gone(upper, LOWER, LOWER) == [b"d/e", b"d/e/f"]
