"""Key slots, and what a store can try with them, with project.json and with the history: everything is noticed, nothing is written."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from artifactmount.acts import Act, Open
from artifactmount.artifact import append, checkpoint_before
from artifactmount.cache import Cache
from artifactmount.document import PROJECT_KEY
from artifactmount.errors import (
    ArtifactError,
    CorruptError,
    DeniedError,
    LockedError,
    NeedsNewerError,
    NotFoundError,
    ProjectMismatchError,
    RefusedError,
    StoreError,
    UnreachableError,
)
from artifactmount.keys import (
    PREFIX,
    SLOT_LIMIT,
    KeyFile,
    Keyring,
    KmsKey,
    NewKey,
    Passphrase,
    Slot,
    add_slot,
    proven_slots,
    remove_slot,
    stored_slots,
)
from artifactmount.project import Project
from artifactmount.sealed import seal
from artifactmount.state import State
from artifactmount.steps import Steps, drive
from artifactmount.store.memory import MemoryStore
from artifactmount.verify import verify

QUICK = Passphrase("correct horse", 14)  # scrypt in 50 ms


class Place:
    """A store, and users who each have a home and see nothing of each other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, MemoryStore()
        self.file, self.aside = KeyFile(str(folder / "my.key")), str(folder / "aside")
        self.keyring = Keyring((self.file.path,), insists=True)

    @contextmanager
    def open(self, user: str = "ann", *, keyring: Keyring | None = None, protect: NewKey | None = None) -> Iterator[Project]:
        with closing(Cache(str(self.folder / user / "cache"))) as cache:
            state = str(self.folder / user / "state")
            keyring = self.keyring if keyring is None else keyring
            yield Project(self.store, cache, state, create=protect is not None, keyring=keyring, protect=protect)

    def stored(self) -> dict[str, bytes]:
        return {item.key: self.store.get(item.key) for item in self.store.list_keys("", limit=1 << 20)}

    def put(self, key: str, data: bytes) -> None:
        """What only the store's owner can do."""
        self.store.delete([key])
        assert self.store.create(key, data)

    def log(self, project: Project, count: int) -> State:
        state = project.refresh("animals")
        for _ in range(count):
            state = drive(self.store, append(project.artifact("animals"), state, _open, project.writer)).state
            project.remember("animals", state)
        return state


def _open(_: State) -> Steps[Act | None]:
    yield from ()
    return Open(bytes(16))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With an encrypted project, made by ann."""
    place = Place(tmp_path)
    with place.open(protect=place.file) as project:
        assert project.created and project.scheme is not None
    return place


# -- opening ---------------------------------------------------------------------------------------------------------------------------
def test_each_key_opens_the_same_project(place: Place) -> None:
    with place.open() as project:
        assert project.key is not None
        add_slot(place.store, project.key, QUICK, project.about("the horse"))
        raw = project.key.raw
    with place.open("bob", keyring=Keyring(passphrase="correct horse")) as project:
        assert project.key is not None and project.key.raw == raw
        slots, problems = stored_slots(place.store, project.id)
        assert {slot.facts(project.key)["label"] for slot in slots} == {"", "the horse"} and not problems
    with place.open("cia", keyring=Keyring(ask=lambda: "correct horse")) as project:
        assert project.key is not None and project.key.raw == raw


def test_a_passphrase_is_the_same_however_its_accents_are_typed(place: Place) -> None:
    with place.open() as project:
        assert project.key is not None
        add_slot(place.store, project.key, Passphrase("caf\u00e9", 14), project.about(""))
    with place.open("bob", keyring=Keyring(passphrase="cafe\u0301")):
        pass


def test_a_wrong_key_or_none_is_refused_and_nothing_is_written(place: Place, tmp_path: Path) -> None:
    before = place.stored()
    other = KeyFile(str(tmp_path / "other.key"))
    other.begin("")
    missing = str(tmp_path / "missing.key")
    for keyring, said in (
        (Keyring((other.path,)), "does not open it"),
        (Keyring(passphrase="wrong"), "does not open it"),
        (Keyring(ask=lambda: "wrong"), "--key-file"),  # there is no slot of a passphrase to ask for
        (Keyring((missing,)), "cannot read the key file"),
        (Keyring(), "--key-file"),
    ):
        with pytest.raises(LockedError, match=said) as caught, place.open("bob", keyring=keyring):
            pass
        assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
        assert not (tmp_path / "bob/state/pins").exists()  # what no key has proven is not remembered
    assert place.stored() == before and not os.path.exists(missing)


def test_a_key_file_is_its_owners_alone(place: Place, tmp_path: Path) -> None:
    assert os.stat(place.file.path).st_mode & 0o777 == 0o600
    os.chmod(place.file.path, 0o640)
    with pytest.raises(RefusedError, match="chmod 600"), place.open():
        pass
    (tmp_path / "text").write_text("no key\n")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(LockedError, match="no key file"), place.open(keyring=Keyring((str(tmp_path / "text"),))):
        pass


# -- adding and removing ---------------------------------------------------------------------------------------------------------------
def test_the_last_key_stays(place: Place, tmp_path: Path) -> None:
    with place.open() as project:
        assert project.key is not None
        (first,) = stored_slots(place.store, project.id)[0]
        with pytest.raises(RefusedError, match="last key"):
            remove_slot(place.store, project.key, first.id, place.aside)
        second = add_slot(place.store, project.key, KeyFile(str(tmp_path / "second.key")), project.about(""))
        with pytest.raises(NotFoundError):
            remove_slot(place.store, project.key, "0" * 16, place.aside)
        remove_slot(place.store, project.key, first.id, place.aside)
        assert [slot.id for slot in stored_slots(place.store, project.id)[0]] == [second]
    with pytest.raises(LockedError), place.open():
        pass
    with place.open(keyring=Keyring((str(tmp_path / "second.key"),))):
        pass


@pytest.mark.parametrize("damaged", [False, True])
def test_a_forged_slot_counts_as_no_key(place: Place, damaged: bool) -> None:
    """Whoever may create keys in the store, and has none of the project's, must not get the last real one removed."""
    with place.open() as project:
        assert project.key is not None
        (real,) = stored_slots(place.store, project.id)[0]
        forged = Slot("f" * 16, "file", bytes(32), {}, b"x" * 48, b"y" * 90, project.id)
        place.put(PREFIX + forged.id, forged.encode()[:-5] if damaged else forged.encode())
        proven, problems = proven_slots(place.store, project.key)
        assert [slot.id for slot, _ in proven] == [real.id] and len(problems) == 1 and forged.id in str(problems[0])
        with pytest.raises(RefusedError, match="last key"):
            remove_slot(place.store, project.key, real.id, place.aside)
        remove_slot(place.store, project.key, forged.id, place.aside)
        assert place.stored().keys() == {PREFIX + real.id, PROJECT_KEY}


def test_two_who_remove_each_others_last_key_both_keep_one(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.open() as project:
        assert project.key is not None
        (first,) = stored_slots(place.store, project.id)[0]
        second = add_slot(place.store, project.key, KeyFile(str(tmp_path / "second.key")), project.about(""))
        delete = place.store.delete
        monkeypatch.setattr(place.store, "delete", lambda keys: delete([*keys, PREFIX + second]))  # somebody at the same moment
        with pytest.raises(RefusedError, match="last key"):
            remove_slot(place.store, project.key, first.id, place.aside)
        assert [slot.id for slot in stored_slots(place.store, project.id)[0]] == [first.id]


@pytest.mark.parametrize("failure", [DeniedError("denied"), KeyboardInterrupt()])
def test_a_key_that_cannot_be_put_back_is_kept(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """The race of above, and then the store lets nobody create, or the process is ended."""

    def fails(key: str, data: bytes) -> bool:
        raise failure

    with place.open() as project:
        assert project.key is not None
        (first,) = stored_slots(place.store, project.id)[0]
        second = add_slot(place.store, project.key, KeyFile(str(tmp_path / "second.key")), project.about(""))
        delete = place.store.delete
        with monkeypatch.context() as patch:
            patch.setattr(place.store, "delete", lambda keys: delete([*keys, PREFIX + second]))
            patch.setattr(place.store, "create", fails)
            with pytest.raises((StoreError, KeyboardInterrupt)) as caught:
                remove_slot(place.store, project.key, first.id, place.aside)
        (copy,) = Path(place.aside).iterdir()
        assert isinstance(failure, KeyboardInterrupt) or str(copy) in str(caught.value)
    assert place.stored().keys() == {PROJECT_KEY} and copy.stat().st_mode & 0o777 == 0o600
    place.put(PREFIX + first.id, copy.read_bytes())
    with place.open():
        pass


def test_a_key_that_may_not_be_deleted_leaves_no_copy(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(keys: Sequence[str]) -> None:
        raise DeniedError("denied")

    with place.open() as project:
        assert project.key is not None
        slot_id = add_slot(place.store, project.key, place.file, project.about(""))
        with monkeypatch.context() as patch:
            patch.setattr(place.store, "delete", fails)
            with pytest.raises(DeniedError):
                remove_slot(place.store, project.key, slot_id, place.aside)
        assert not os.listdir(place.aside)
        remove_slot(place.store, project.key, slot_id, place.aside)
        assert not os.listdir(place.aside)


def test_there_are_not_more_slots_than_one_may_have_to_try(place: Place) -> None:
    with place.open() as project:
        assert project.key is not None
        for _ in range(SLOT_LIMIT - 1):
            add_slot(place.store, project.key, place.file, project.about(""))
        with pytest.raises(RefusedError, match=str(SLOT_LIMIT)):
            add_slot(place.store, project.key, place.file, project.about(""))


# -- what a store can try --------------------------------------------------------------------------------------------------------------
def _flipped(data: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


def test_every_flipped_bit_of_project_json_is_noticed(place: Place) -> None:
    with closing(Cache(str(place.folder / "cache"))) as cache:
        for damaged in _flipped(place.store.get(PROJECT_KEY)):
            place.put(PROJECT_KEY, damaged)
            with pytest.raises(ArtifactError) as caught:
                Project(place.store, cache, str(place.folder / "new"), keyring=place.keyring)
            assert caught.value.exit_code in (4, 6)


def test_every_flipped_bit_of_a_key_slot_is_noticed(place: Place) -> None:
    with place.open() as project:
        assert project.key_problems() == []
        (slot,) = stored_slots(place.store, project.id)[0]
        stored = slot.encode()
        for damaged in _flipped(stored):
            place.put(PREFIX + slot.id, damaged)
            assert project.key_problems()
    with pytest.raises(CorruptError, match="damaged"), place.open():
        pass


@pytest.mark.parametrize("failure", [UnreachableError("away"), DeniedError("denied")])
def test_a_store_that_does_not_answer_is_not_called_corrupt(place: Place, monkeypatch: pytest.MonkeyPatch, failure: ArtifactError) -> None:
    get = place.store.get

    def fails(key: str, start: int = 0, stop: int | None = None) -> bytes:
        if key.startswith(PREFIX):
            raise failure
        return get(key, start, stop)

    monkeypatch.setattr(place.store, "get", fails)
    with pytest.raises(type(failure)), place.open():
        pass


def test_a_slot_of_a_newer_format_asks_for_a_newer_program(place: Place, tmp_path: Path) -> None:
    with place.open() as project:
        assert project.key is not None
        (slot,) = stored_slots(place.store, project.id)[0]
        fields = {name: value for name, value in json.loads(slot.encode()).items() if name != "check"}
        place.put(PREFIX + slot.id, seal({**fields, "format": 2}))
        with pytest.raises(NeedsNewerError, match="newer artifactmount"), place.open():
            pass
        add_slot(place.store, project.key, KeyFile(str(tmp_path / "second.key")), project.about(""))
    with place.open(keyring=Keyring((str(tmp_path / "second.key"),))):  # it is nothing to who has another key
        pass


def test_slots_are_read_side_by_side(place: Place, tmp_path: Path) -> None:
    """Else every command over a project of 64 keys waits for 64 requests before its own."""
    with place.open() as project:
        assert project.key is not None
        for _ in range(3):
            add_slot(place.store, project.key, place.file, project.about(""))
    get, all_at_once = place.store.get, threading.Barrier(4)

    def waits(key: str, start: int = 0, stop: int | None = None) -> bytes:
        if key.startswith(PREFIX):
            all_at_once.wait(30)
        return get(key, start, stop)

    place.store.get = waits  # type: ignore[method-assign]
    with place.open():
        pass


def test_nothing_in_a_key_slot_can_be_changed_by_who_has_no_key(place: Place) -> None:
    """The checksum is no obstacle to an enemy; the project's key is."""
    with place.open() as project:
        assert project.key is not None
        add_slot(place.store, project.key, QUICK, project.about("x"))
        for slot in stored_slots(place.store, project.id)[0]:
            fields = {name: value for name, value in json.loads(slot.encode()).items() if name != "check"}
            for name in ("kind", "salt", "wrapped", "about", "parameters"):
                value = fields[name]
                other = {**value, "log_n": 15} if isinstance(value, dict) else value[:-1] + ("0" if value[-1] != "0" else "1")
                place.put(PREFIX + slot.id, seal({**fields, name: other}))
                assert project.key_problems(), name
            place.put(PREFIX + slot.id, slot.encode())
        assert project.key_problems() == []


def test_every_field_of_project_json_is_proven_by_the_key(place: Place) -> None:
    document = place.store.get(PROJECT_KEY)
    fields = {name: value for name, value in json.loads(document).items() if name != "check"}
    for name, value in (("created", "2020-01-01T00:00:00Z"), ("extra", 1), ("encryption", {**fields["encryption"], "mac": "0" * 64})):
        place.put(PROJECT_KEY, seal({**fields, name: value}))
        with pytest.raises(CorruptError, match="has not the project's key"), place.open("new"):
            pass


def _forge(place: Place, kind: str, count: int) -> None:
    """Slots that nobody has a key for, and that come before every real one."""
    with place.open() as project:
        for number in range(count):
            forged = Slot(f"{number:016x}", kind, bytes(32), {}, b"x" * 48, b"y" * 90, project.id)
            assert place.store.create(PREFIX + forged.id, forged.encode())


def test_forged_slots_do_not_keep_a_key_file_out(place: Place, tmp_path: Path) -> None:
    """Nor do they keep another key from being added."""
    _forge(place, "file", SLOT_LIMIT)
    with place.open() as project:
        assert project.key is not None
        add_slot(place.store, project.key, KeyFile(str(tmp_path / "second.key")), project.about(""))
    with place.open("bob", keyring=Keyring((str(tmp_path / "second.key"),))):
        pass


def test_what_is_not_tried_is_said(place: Place, tmp_path: Path) -> None:
    """Whoever has the right key is not told that it does not open the project."""
    _forge(place, "passphrase", SLOT_LIMIT + 3)
    with pytest.raises(CorruptError, match="3 of the kind passphrase were not tried"), place.open("bob", keyring=Keyring(passphrase="x")):
        pass
    wrong = str(tmp_path / "wrong.key")
    KeyFile(wrong).begin("")
    for number in range(1000):
        place.store.create(f"{PREFIX}0-{number}", b"")
    with pytest.raises(CorruptError) as caught, place.open("bob", keyring=Keyring((wrong,))):
        pass
    assert "more below keys/ than" in str(caught.value)


def test_a_store_cannot_choose_what_a_passphrase_costs(place: Place) -> None:
    with place.open() as project:
        assert project.key is not None
        slot_id = add_slot(place.store, project.key, QUICK, project.about(""))
        slot = Slot.decode(place.store.get(PREFIX + slot_id), slot_id)
    for name, value in (("log_n", 30), ("log_n", 1), ("log_n", True), ("r", 1 << 20), ("p", 1 << 20), ("kdf", "md5"), ("more", 1)):
        costly = replace(slot, parameters={**slot.parameters, name: value})
        with pytest.raises(CorruptError):
            QUICK.secret(costly.parameters, slot.project_id)
        place.put(PREFIX + slot_id, costly.encode())
        with pytest.raises(LockedError), place.open("bob", keyring=Keyring(passphrase=QUICK.text)):
            pass


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:kms:us-east-1:666666666666:alias/1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws:kms:us-east-1:666666666666:key/other/1234abcd-12ab-34cd-56ef-1234567890ab",
        "alias/1234abcd-12ab-34cd-56ef-1234567890ab",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
    ],
)
@pytest.mark.parametrize("key_id", ["1234abcd-12ab-34cd-56ef-1234567890ab", ""])
def test_what_a_slot_calls_a_kms_key_is_a_key_itself(arn: str, key_id: str) -> None:
    """An enemy's alias may be called like somebody's key. KMS is not even asked."""
    with pytest.raises(CorruptError):
        KmsKey(key_id).secret({"key": arn, "ciphertext": "00"}, "0" * 32)


def test_a_plain_project_in_its_place_is_refused(place: Place) -> None:
    """By who has seen it (the pin), with a key or without; and by who comes new, and brings a key."""
    fields = json.loads(place.store.get(PROJECT_KEY))
    place.put(PROJECT_KEY, seal({name: value for name, value in fields.items() if name != "check"} | {"encryption": None}))
    for user, keyring in (("ann", place.keyring), ("ann", Keyring()), ("new", place.keyring)):
        with pytest.raises(RefusedError) as caught, place.open(user, keyring=keyring):
            pass
        assert caught.value.exit_code == 4 and isinstance(caught.value, ProjectMismatchError) == (user == "ann")
    with place.open("new", keyring=Keyring()):  # who knows nothing and has no key can read and write there what is not encrypted
        pass


def test_a_key_is_never_ignored(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with closing(Cache(str(tmp_path / "c"))) as cache:
        with pytest.raises(RefusedError, match="init --encrypt"):
            Project(place.store, cache, str(tmp_path / "s"), create=True, keyring=place.keyring)
        assert place.stored() == {}
        Project(place.store, cache, str(tmp_path / "s"), create=True)
        with pytest.raises(RefusedError, match="not encrypted"):
            Project(place.store, cache, str(tmp_path / "s"), keyring=place.keyring)
        with pytest.raises(RefusedError, match="not encrypted"):
            Project(place.store, cache, str(tmp_path / "s"), create=True, protect=place.file)
    assert list(place.stored()) == [PROJECT_KEY]


def test_an_older_head_is_noticed(place: Place) -> None:
    """Pins: whoever has seen entry 4 does not accept a history that ends at entry 2, however well it is encrypted."""
    with place.open() as project:
        place.log(project, 3)
        older = place.stored()
        place.log(project, 2)
    for key in place.stored().keys() - older.keys():
        place.store.delete([key])
    for forgetful in (False, True):  # with what the cache knows, and without it
        if forgetful:
            (place.folder / "ann/cache").rename(place.folder / "gone")
        with place.open() as project, pytest.raises(ProjectMismatchError, match=r"not the one|does not continue"):
            project.refresh("animals")


def test_another_history_is_noticed_also_where_the_pinned_entry_is_in_its_place(place: Place) -> None:
    """The store answers for the one slot that ann has pinned from her history, and for all others from another, which has a checkpoint."""
    with place.open() as project:
        place.log(project, 60)
        common = place.stored()
        seen = place.log(project, 16).seq
        slot = project.artifact("animals").log_key(seen)
    pinned = place.store.get(slot)
    for key in place.stored().keys() - common.keys():
        place.store.delete([key])
    with place.open("bob") as project:
        assert place.log(project, 140).seq > seen + 64
    place.put(slot, pinned)
    (place.folder / "ann/cache").rename(place.folder / "gone")
    with place.open() as project, pytest.raises(ProjectMismatchError, match=f"entry {seen}"):
        project.refresh("animals")


def test_checkpoints_are_used_by_who_comes_new(place: Place) -> None:
    with place.open() as project:
        state = place.log(project, 70)
    with place.open("bob") as project:
        artifact = project.artifact("animals")
        before = drive(place.store, checkpoint_before(artifact, 64))
        assert before is not None and before.seq == 63
        assert project.refresh("animals") == state
        damaged = bytearray(place.store.get(artifact.checkpoint_key(63)))
        damaged[50] ^= 1
        place.put(artifact.checkpoint_key(63), bytes(damaged))
        assert drive(place.store, checkpoint_before(artifact, 64)) is None  # it costs time only
        assert verify(project, None).problems == [f"{artifact.checkpoint_key(63)}: not the log up to entry 63"]
    with place.open("cia") as project:
        assert project.refresh("animals") == state


def test_a_crash_in_the_midst_of_init_leaves_a_place_that_can_be_used(tmp_path: Path) -> None:
    place = Place(tmp_path)
    create = place.store.create

    def fails(key: str, data: bytes) -> bool:
        if key == PROJECT_KEY:
            raise KeyboardInterrupt
        return create(key, data)

    place.store.create = fails  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), place.open(protect=place.file):
        pass
    place.store.create = create  # type: ignore[method-assign]
    assert [key[:5] for key in place.stored()] == [PREFIX]
    with place.open(protect=place.file) as project:
        assert project.created and len(stored_slots(place.store, project.id)[0]) == 1
    with place.open() as project:
        assert project.key_problems() == []


def test_two_who_make_the_same_project_at_once_make_one(tmp_path: Path) -> None:
    place = Place(tmp_path)
    create = place.store.create

    def later(key: str, data: bytes) -> bool:
        if key == PROJECT_KEY:
            place.store.create = create  # type: ignore[method-assign]
            with place.open("bob", protect=place.file) as project:
                assert project.created
        return create(key, data)

    place.store.create = later  # type: ignore[method-assign]
    with place.open("ann", protect=place.file) as project:
        assert not project.created and project.key is not None
        assert len([key for key in place.stored() if key.startswith(PREFIX)]) == 1


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_project_whose_creation_is_answered_as_existing_is_ours(tmp_path: Path, encrypted: bool) -> None:
    """What lies between may send the request twice, and pass on the second answer: the project is there, and so must its only slot be."""
    place = Place(tmp_path)
    create = place.store.create
    place.store.create = lambda key, data: create(key, data) and key != PROJECT_KEY  # type: ignore[method-assign]
    with closing(Cache(str(tmp_path / "c"))) as cache:
        project = Project(place.store, cache, str(tmp_path / "s"), create=True, protect=place.file if encrypted else None)
        assert project.created and (project.key is not None) == encrypted
    if encrypted:
        with place.open("bob") as project:
            assert project.key_problems() == []


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_pin_that_cannot_be_read_is_a_warning_and_the_project_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encrypted: bool
) -> None:
    place = Place(tmp_path)
    with closing(Cache(str(tmp_path / "c"))) as cache:
        made = Project(place.store, cache, str(tmp_path / "s"), create=True, protect=place.file if encrypted else None)
        pin = Path(made.pins.path) / "project"
        pin.unlink()
        pin.mkdir()
        project = Project(place.store, cache, str(tmp_path / "s"), keyring=place.keyring if encrypted else Keyring())
        assert (project.key is not None) == encrypted and project.refresh("animals").seq == -1
    assert [record.getMessage().split(" in ")[0] for record in caplog.records] == ["what was seen of the project cannot be remembered"]
