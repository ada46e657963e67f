"""The formulas of docs/scale.md, counted: what the real commands ask of a store is what the formulas say, at several sizes."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from artifactmount.acts import Act, Purge
from artifactmount.artifact import Artifact, Writer, append, head
from artifactmount.delete import delete_versions
from artifactmount.download import download
from artifactmount.garbage import collect
from artifactmount.names import parse
from artifactmount.ranges import PackRanges
from artifactmount.snapshot import Options, Result, take
from artifactmount.state import State
from artifactmount.steps import Steps, drive
from tests.scale import formulas
from tests.scale.counted import CountedS3Store, CountedStore, Machine, Requests
from tests.store.servers import Server

NAME = "animals"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine beside an empty store."""
    return Machine(tmp_path / "machine", CountedStore())


def fill(folder: Path, files: int, size: int, salt: str = "") -> None:
    """Files of random bytes, 100 a folder: they do not get smaller in a pack."""
    for number in range(files):
        place = folder / f"{number // 100:05d}"
        if not number % 100:
            place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:07d}").write_bytes(random.Random(f"{salt}{number}").randbytes(size))


def snapshot(machine: Machine, folder: Path) -> tuple[Result, Requests]:
    """What a snapshot by a process of its own gives and asks."""
    with machine.command() as project:
        return take(project, str(folder), NAME, Options()), machine.store.take()


@pytest.mark.parametrize(("files", "size"), [(10, 1000), (1_000, 20_000), (2_000, 100)])
def test_snapshots(machine: Machine, tmp_path: Path, files: int, size: int) -> None:
    folder = tmp_path / "staging"
    fill(folder, files, size)
    packs = formulas.content_packs(files, size)
    _, asked = snapshot(machine, folder)
    assert asked.without_bytes() == formulas.MAKING + formulas.first_snapshot(packs)
    assert files * size < asked.up < files * (size + formulas.CHUNK + formulas.ROW) + 4000

    _, asked = snapshot(machine, folder)
    assert asked.without_bytes() == formulas.unchanged()
    assert asked.up == 0 and asked.down < 2000

    changed = files // 10
    fill(folder, changed, size, "changed")
    _, asked = snapshot(machine, folder)
    assert asked.without_bytes() == formulas.snapshot(formulas.content_packs(changed, size))
    assert changed * size < asked.up < changed * (size + formulas.CHUNK + formulas.ROW) + 4000


def test_finding_the_head() -> None:
    """What a machine that knows nothing asks, and one that was away: the whole of a log is never read by the former."""
    store, artifact, writer = CountedStore(), Artifact("project", NAME), Writer("a", "t")

    def nothing(_: State) -> Steps[Act | None]:
        yield from ()
        return Purge(PackRanges())

    states = [artifact.empty()]
    for _ in range(330):
        states.append(drive(store, append(artifact, states[-1], nothing, writer)).state)
    values = store.values()
    for entries in (0, 1, 2, 16, 17, 18, 63, 64, 65, 66, 80, 81, 128, 129, 200, 330):
        shorter = CountedStore()
        for key, (content, _) in sorted(values.items()):
            if int(key[-16:]) < entries:
                shorter.create(key, content)
        shorter.take()
        assert drive(shorter, head(artifact)) == states[entries]
        assert shorter.take().get == formulas.from_nothing(entries), entries
        for behind in (0, 1, 16, 17, 100):
            if behind < entries:
                assert drive(shorter, head(artifact, states[entries - behind], prove=True)) == states[entries]
                assert shorter.take().get == formulas.news(behind)


def test_many_versions(machine: Machine, tmp_path: Path) -> None:
    """A version sends what it changes, however many there are before it, but for each 64th entry; a chain is never longer than 64."""
    folder = tmp_path / "staging"
    folder.mkdir()
    sent: list[Requests] = []
    with machine.command() as project:
        for versions in range(1, 68):
            (folder / "file").write_bytes(random.Random(versions).randbytes(100))
            take(project, str(folder), NAME, Options())
            sent.append(machine.store.take())
            if versions in (1, 10, 64, 65, 67):
                with Machine(tmp_path / str(versions), machine.store).command() as theirs:
                    catalog, state, links = theirs.catalog(NAME), theirs.refresh(NAME), formulas.chain(versions)
                    catalog.newest(state)
                    assert machine.store.take().without_bytes() == formulas.open_version(state.seq + 1, links)
                    catalog.places(state)
                    assert machine.store.take().get == versions - links
    proven = {2 * versions // 64: requests.up for versions, requests in enumerate(sent) if requests.put == 5}
    assert list(proven) == [1, 2]
    usual = [requests.up for requests in sent[1:] if requests.put == 4]
    assert max(usual) - min(usual) < 100
    for number, up in proven.items():
        assert up - usual[0] == pytest.approx(formulas.checkpoint(32 * number), rel=0.15)


@pytest.mark.parametrize(("files", "size"), [(600, 30_000), (1_500, 100)])
def test_download(machine: Machine, tmp_path: Path, files: int, size: int) -> None:
    fill(tmp_path / "staging", files, size)
    snapshot(machine, tmp_path / "staging")
    other = Machine(tmp_path / "other", machine.store)
    with other.command() as project:
        download(project, parse(NAME), str(tmp_path / "copy"))
    asked = machine.store.take()
    expected = formulas.open_version(2, 1) + Requests(get=formulas.stretches(files, size))
    assert asked.without_bytes() == expected
    assert files * size < asked.down < files * (size + formulas.CHUNK + formulas.ROW) + 4000


def test_deletion(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "staging"
    fill(folder, 300, 10_000)
    snapshot(machine, folder)
    for number in range(4):
        (folder / "00000" / f"{number:07d}").write_bytes(b"%d" % number)
        snapshot(machine, folder)

    def delete(number: int) -> Requests:
        with machine.command() as project:
            delete_versions(project, NAME, [number])
        return machine.store.take().without_bytes()

    assert delete(4) == formulas.delete(sessions=1, trash=2)
    assert delete(2) == formulas.delete(sessions=2, trash=3, replaced=1)
    assert delete(0) == formulas.delete(sessions=2, trash=3, rewritten=1, new=1, replaced=1)


def test_collection(machine: Machine, tmp_path: Path) -> None:
    fill(tmp_path / "staging", 3, 10)
    snapshot(machine, tmp_path / "staging")
    for number in range(2_500):
        machine.store.create(f"artifacts/{NAME}/data/{0:016d}/{number + 2:08d}", b"")
    for garbage in (3, 0):
        with machine.command() as project:
            collect(project, NAME, 0)
        assert machine.store.take().without_bytes() == formulas.collect(2_502 if garbage else 2, garbage)


def test_a_real_server_is_asked_what_is_counted(tmp_path: Path, s3_environment: Server) -> None:
    """A call of the store is a request, and no library adds any."""
    stores: tuple[CountedStore | CountedS3Store, ...] = (CountedStore(), CountedS3Store(s3_environment.make_bucket()))
    told: list[list[Requests]] = []
    for name, store in zip(("memory", "s3"), stores, strict=True):
        machine, folder, asked = Machine(tmp_path / name, store), tmp_path / f"{name} staging", list[Requests]()
        fill(folder, 30, 10_000)
        asked.append(snapshot(machine, folder)[1])
        (folder / "00000/0000001").write_bytes(b"changed")
        asked += [snapshot(machine, folder)[1] for _ in range(2)]
        for act in (partial(delete_versions, numbers=[0]), partial(collect, grace=0)):
            with machine.command() as project:
                act(project, NAME)
            asked.append(store.take())
        with Machine(tmp_path / f"{name} reader", store).command() as project:
            download(project, parse(NAME), str(tmp_path / f"{name} copy"))
        asked.append(store.take())
        told.append([requests.without_bytes() for requests in asked])
        store.close()
    assert told[0] == told[1]
