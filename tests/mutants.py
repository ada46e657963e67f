"""The rules that everything rests on, each with an edit that switches it off and a test that fails then.

`scripts/check_mutants.py` makes the edits in a copy and runs the tests; `tests/test_mutants.py` sees to it that each edit still fits the
source and stands in docs/testing.md. The first twenty are the rules of the protocol; where the fold derives what a client once had to
say, the derivation is what is switched off.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent


class MisfitError(Exception):
    """An edit no longer fits the source: the source changed, and the edit has to follow it."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule, and the edit of one file of the package (`old` -> `new`, exact, and found once) that switches it off.

    `tests`: pytest's ids of tests that fail then, each by itself.
    """

    name: str
    rule: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def path(self) -> str:
        """The file, from the top of the repository."""
        return f"artifactmount/{self.file}"

    def edit(self, source: str) -> str:
        """The source with the rule switched off. Raises MisfitError unless the old text is there once, and what comes of it is Python."""
        count = source.count(self.old)
        if count != 1:
            raise MisfitError(f"{self.name}: its text is {count} times in {self.path}, not once; write the edit anew")
        edited = source.replace(self.old, self.new)
        try:
            compile(edited, self.path, "exec")
        except SyntaxError as error:
            raise MisfitError(f"{self.name}: after it {self.path} is no Python: {error}; write the edit anew") from error
        return edited


def _lines(levels: int, *lines: str) -> str:
    """Lines of source, indented by so many levels."""
    return indent("\n".join(lines), levels * "    ")


_DELETE = "tests/model/test_delete.py::"
_RULES = "tests/model/test_rules.py::"
_LOG = "tests/unit/test_log.py::"
_HISTORY = "tests/unit/test_history.py::"
_POWER = "tests/test_powerloss.py::"
_COPY = "tests/cli/test_staging.py::test_a_copy_of_an_old_version_goes_out_from_it"

PROTOCOL = (
    Mutant(
        "liveness-by-digest",
        "a chunk is live where a live run names it; a copy elsewhere does not count",
        "liveness.py",
        "if d not in after.get(pack, {})}",
        "if all(d not in live for live in after.values())}",
        (_RULES + "test_a_copy_elsewhere_keeps_no_chunk_alive",),
    ),
    Mutant(
        "place-by-digest",
        "a place found before is looked up again; that its digest is live elsewhere does not count",
        "proposal.py",
        "elsewhere = {digest: self._places.find(digest) for",
        "first, find = self.__dict__.setdefault('first', {}), self._places.find\n"
        "            elsewhere = {digest: first.setdefault(digest, find(digest)) if find(digest) else None for",
        (_RULES + "test_a_place_that_went_is_not_used_because_its_content_lives_elsewhere",),
    ),
    Mutant(
        "rehinted-squash",
        "places are copied as they are; `moved` leads on from them",
        "liveness.py",
        "runs[n] = _squash_all(waiting)",
        _lines(
            3,
            "run = _squash_all(waiting)",
            "now = [state.resolve(pack) for pack in run.packs]",
            "ids = [*(pack.session.to_bytes(8, 'little') for pack in now), *(pack.number.to_bytes(4, 'little') for pack in now)]",
            "runs[n] = _as_run(bytes(run.buffer)[: -12 * len(now) or None] + b''.join(ids))",
        ).lstrip(),
        (_RULES + "test_a_pack_that_moved_twice",),
    ),
    Mutant(
        "chains-of-moves",
        "`moved` leads to where the chunks are now, in one step",
        "fold.py",
        "self.moved = {old: forward.get(new, new) for old, new in self.moved.items()} | forward",
        "self.moved = self.moved | forward",
        (_LOG + "test_deleting_the_older_version_moves_what_is_needed", _RULES + "test_a_pack_that_moved_twice"),
    ),
    Mutant(
        "no-revalidation",
        "every place is looked up again on the state that the commit follows",
        "proposal.py",
        _lines(
            2,
            "self._places = yield Local(lambda: self._catalog.places(state))",
            "delta = builder.finish((yield from self._place_all(builder)))",
            "full",
        ),
        _lines(2, "delta = builder.finish((yield from self._place_all(builder)))", "full"),
        (_DELETE + "test_a_deletion_at_every_step_of_a_snapshot_that_uses_its_chunks[0]",),
    ),
    Mutant(
        "unknown-is-failure",
        "after an unknown outcome nothing is cleaned up",
        "session.py",
        _lines(1, "except (OutcomeUnknownError, KeyboardInterrupt):", "    raise"),
        _lines(
            1,
            "except (OutcomeUnknownError, KeyboardInterrupt):",
            "    if work.session.id is not None:",
            "        yield Delete(tuple((yield from session_keys(artifact, work.session.id))))",
            "    raise",
        ),
        (_DELETE + "test_a_store_that_fails_at_every_call[1-12]",),
    ),
    Mutant(
        "sweep-before-close",
        "`gc` closes a session before it deletes anything of it",
        "garbage.py",
        "appended = yield from append(artifact, state, _closing(session, _waiting(listed, session)), writer)",
        "yield Delete(tuple(item.key for item in (yield ListKeys(artifact.session_prefix(session)))))\n"
        "            appended = yield from append(artifact, state, _closing(session, _waiting(listed, session)), writer)",
        (_RULES + "test_gc_at_every_step_of_a_snapshot",),
    ),
    Mutant(
        "no-fence",
        "the fold refuses the commit of a session that is not open",
        "fold.py",
        '_expect(act.session is None or old.is_working(act.session), f"session {act.session} is not open, or is a part")',
        "pass",
        (_LOG + "test_refused[commit of a session that is not open]",),
    ),
    Mutant(
        "delete-before-commit",
        "nothing is deleted before the commit that makes it garbage",
        "delete.py",
        _lines(2, "self._deleted = self._told(state, plan)", "return Commit("),
        _lines(
            2,
            "self._deleted = self._told(state, plan)",
            "from artifactmount.steps import Delete",
            "yield Delete(tuple(self._artifact.pack_key(pack) for pack in plan.dead))",
            "return Commit(",
        ),
        ("tests/model/test_walks.py::test_two_deleters",),
    ),
    Mutant(
        "old-plan",
        "after a lost slot all of a deletion is decided again",
        "delete.py",
        "plan: Plan = yield Local(lambda: self._plan(state, gone))",
        "plan = self.__dict__.setdefault('plan', None) or (yield Local(lambda: self._plan(state, gone)))\n        self.plan = plan",
        (_DELETE + "test_another_client_at_every_step_of_a_deletion[adds what comes back]",),
    ),
    Mutant(
        "sessions-left-open",
        "`delete --all` closes every session",
        "fold.py",
        "trash=trash, open=frozenset(), type=None,",
        "trash=trash, type=None,",
        (_LOG + "test_deleting_the_artifact", _RULES + "test_the_artifact_goes_at_every_step_of_a_snapshot"),
    ),
    Mutant(
        "sweep-everything",
        "`delete --all` sweeps what is garbage, not all of `data/`",
        "delete.py",
        "lambda key: (pack := artifact.pack_of(key)) is not None and state.is_garbage(pack)",
        "lambda key: artifact.pack_of(key) is not None",
        (_RULES + "test_a_snapshot_at_every_step_of_the_artifact_s_deletion",),
    ),
    Mutant(
        "packs-left",
        "`delete --all` makes all packs trash",
        "fold.py",
        "versions={}, aliases={}, moved={}, packs=empty, trash=trash",
        "versions={}, aliases={}, moved={}, trash=old.trash",
        (_LOG + "test_deleting_the_artifact", _RULES + "test_a_snapshot_at_every_step_of_the_artifact_s_deletion"),
    ),
    Mutant(
        "base-unchecked",
        "every live version's base is the live version below it, or the commit is refused",
        "fold.py",
        _lines(2, "self._check_bases()", "if self._put:"),
        _lines(2, "if self._put:"),
        (_LOG + "test_refused[a base that is not the highest below]", _LOG + "test_refused[leaves a base that went]"),
    ),
    Mutant(
        "moves-forgotten",
        "a move stays while a live run names the old pack (derived; once said by an op, `unmove`)",
        "fold.py",
        "for old, new in self.moved.items() if old in named}",
        "for old, new in self.moved.items() if old in named and new in self._keep}",
        (_RULES + "test_a_pack_that_moved_twice",),
    ),
    Mutant(
        "exists-is-mine",
        "R1: *exists* on a data key is success only if the stored bytes are equal",
        "artifact.py",
        "same: bool = (yield Get(key, len(data) + 1)) == data",
        "same = True",
        (_RULES + "test_a_number_that_holds_other_bytes_is_not_used",),
    ),
    Mutant(
        "reader-does-not-refresh",
        "a reader that misses a pack reads the head and tries again",
        "fetch.py",
        "newer = self._project.refresh(self._artifact.name)",
        "newer = state",
        (
            "tests/unit/test_fetch.py::test_a_reader_that_knows_an_older_state_reads_on",
            "tests/model/test_schedules.py::test_a_deletion_at_every_step_of_a_reader[those below it]",
        ),
    ),
    Mutant(
        "own-trash-only",
        "a deletion returns when all trash is gone, also what others left",
        "delete.py",
        _lines(
            2,
            "after = (yield from append(self._artifact, state, self._make, self._writer)).state",
            "self.session.state = after",
        ),
        _lines(
            2,
            "others = []",
            "make = lambda state: others.append(state.trash) or self._make(state)",
            "after = (yield from append(self._artifact, state, make, self._writer)).state",
            "after = replace(after, trash=after.trash - others[-1])",
            "self.session.state = after",
        ),
        (_DELETE + "test_own_trash_only",),
    ),
    Mutant(
        "own-leftovers-stay",
        "whoever ends a session deletes what it uploaded and the entry did not keep",
        "session.py",
        "if leftovers and self.id is not None",
        "if False and self.id is not None",
        (_DELETE + "test_copies_left_in_ones_own_session_after_a_lost_slot",),
    ),
    Mutant(
        "pack-kept-in-part",
        "a pack is kept whole or not at all",
        "proposal.py",
        "self._packer.forget_partly_used(used)",
        "pass",
        (_DELETE + "test_a_pack_kept_in_part",),
    ),
)

CHECKS = (
    Mutant(
        "delta-of-another-base",
        "a snapshot's delta is made against the base of the state that its commit follows",
        "snapshot.py",
        "if state.highest == self._base_number:",
        "if True:",
        ("tests/model/test_repository.py::test_another_client_at_every_step[another version-adds]",),
    ),
    Mutant(
        "no-nonce",
        "an entry has a nonce, so that equal acts of one actor at one time are two",
        "artifact.py",
        "return os.urandom(16)",
        "return bytes(16)",
        (_RULES + "test_two_processes_of_one_user_at_one_time_open_two_sessions",),
    ),
    Mutant(
        "later-sessions-are-garbage",
        "R4: a key of a session behind the state that is known is no garbage",
        "state.py",
        "return pack.session <= self.seq and pack.session not in self.open",
        "return pack.session not in self.open",
        (_RULES + "test_a_snapshot_at_every_step_of_gc",),
    ),
    Mutant(
        "any-entry-is-mine",
        "what is found in the slot is compared, byte by byte, with what was sent",
        "artifact.py",
        "return slot",
        "return data",
        ("tests/model/test_walks.py::test_two_deleters",),
    ),
    Mutant(
        "prev-unchecked",
        "an entry follows the one whose digest it carries",
        "artifact.py",
        "if entry.prev != state.digest:",
        "if False:",
        (_HISTORY + "test_an_entry_of_another_history_is_not_followed",),
    ),
    Mutant(
        "history-not-proven",
        "a state from the cache is used only while its last entry is in the log",
        "artifact.py",
        "if last is None or entry_digest(last) != state.digest:",
        "if False:",
        ("tests/unit/test_mountpoint.py::test_a_log_that_was_cut_is_refused_also_behind_a_warm_cache",),
    ),
    Mutant(
        "pin-not-compared",
        "a history that does not go on from what this machine saw is refused",
        "project.py",
        "self.pins.get(name) if first else None",
        "None",
        ("tests/unit/test_mountpoint.py::test_a_history_that_went_back_is_refused",),
    ),
    Mutant(
        "pinned-slot-alone",
        "that the pinned entry leads to the head is proven by every entry between",
        "artifact.py",
        "else artifact.decode_entry(data, at).prev) != digest",
        "else digest) != digest",
        ("tests/unit/test_keys.py::test_another_history_is_noticed_also_where_the_pinned_entry_is_in_its_place",),
    ),
    Mutant(
        "log-with-a-hole",
        "before a first write, a look for entries behind the slot that seems free",
        "artifact.py",
        "if later is None or later == state.seq + 1:",
        "if True:",
        ("tests/cli/test_looking.py::test_a_lost_entry_is_no_end_of_the_log[1]",),
    ),
    Mutant(
        "project-document-unproven",
        "project.json of an encrypted project is proven by its key",
        "project.py",
        "if not hmac.compare_digest(key.mac(identity.proven), identity.mac):",
        "if False:",
        ("tests/unit/test_keys.py::test_every_field_of_project_json_is_proven_by_the_key",),
    ),
    Mutant(
        "key-slots-unproven",
        "only slots that the project's key proves count, when one is removed",
        "keys.py",
        "proven.append((slot, slot.facts(key)))",
        "proven.append((slot, {}))",
        ("tests/unit/test_keys.py::test_a_forged_slot_counts_as_no_key",),
    ),
    Mutant(
        "seal-unchecked",
        "a log entry's own checksum",
        "sealed.py",
        "whole = seal(rest) == data",
        "whole = True",
        (_LOG + "test_every_flipped_bit_of_an_entry_is_noticed",),
    ),
    Mutant(
        "checkpoint-unproven",
        "a checkpoint is used only if the entry behind it carries its digest",
        "artifact.py",
        "if entry.checkpoint != blake3(checkpoint).digest():",
        "if False:",
        (_HISTORY + "test_a_checkpoint_that_its_entry_does_not_prove_is_not_used",),
    ),
    Mutant(
        "chunk-unchecked",
        "the digest of a chunk, whenever one is opened",
        "pack.py",
        "if len(content) != plain or name(content) != digest:",
        "if len(content) != plain:",
        (
            "tests/unit/test_pack.py::test_another_content_is_not_the_chunk",
            "tests/fuse/test_tree.py::test_damage_is_an_error_for_whoever_reads_it_and_for_nobody_else",
        ),
    ),
    Mutant(
        "table-of-contents-unchecked",
        "the digest of a pack's table of contents",
        "pack.py",
        "or blake3(view[:end]).digest() != view[end : end + DIGEST_LENGTH]:",
        "or False:",
        ("tests/unit/test_pack.py::test_every_flipped_bit_is_noticed",),
    ),
    Mutant(
        "stored-bytes-unchecked",
        "the digest of a pack's stored bytes",
        "pack.py",
        "if blake3(view[start:]).digest() != view[start - 2 * DIGEST_LENGTH : start - DIGEST_LENGTH]:",
        "if False:",
        ("tests/unit/test_pack.py::test_every_flipped_bit_is_noticed",),
    ),
    Mutant(
        "run-unchecked",
        "the digest of a version's run, read from the store",
        "catalog.py",
        "if len(columns) != wanted or blake3(delta).digest() != metadata.run or (",
        "if len(columns) != wanted or (",
        ("tests/unit/test_distrust.py::test_the_run_of_another_version_is_not_believed",),
    ),
    Mutant(
        "cached-run-unchecked",
        "the digest of a run that comes out of the cache",
        "catalog.py",
        "return Run(view, digest, check=False) if found == digest else None",
        "return Run(view, digest, check=False)",
        ("tests/unit/test_distrust.py::test_a_damaged_run_in_the_cache_is_neither_believed_nor_stored_again",),
    ),
    Mutant(
        "cached-chunk-unchecked",
        "the digest of a chunk that comes out of the cache",
        "cache/segments.py",
        "and len(content) == length and name(content) == digest:",
        "and len(content) == length:",
        ("tests/unit/test_cache.py::test_a_damaged_segment_is_a_miss_and_is_filled_again[flipped]",),
    ),
    Mutant(
        "cached-place-unchecked",
        "the checksum of a place that comes out of the cache",
        "cache/places.py",
        "or value[_PLACE.size :] != _check(key, value[: _PLACE.size]):",
        "or False:",
        ("tests/unit/test_distrust.py::test_a_damaged_place_in_the_cache_is_none",),
    ),
    Mutant(
        "dead-run-s-places",
        "a place in the index counts for whoever knows that its run lives",
        "cache/places.py",
        "if run in self._live else None",
        "if run else None",
        ("tests/unit/test_cache.py::test_places_count_for_who_knows_their_run",),
    ),
    Mutant(
        "journal-of-a-closed-session",
        "a journal counts only while its session is open",
        "session.py",
        "if not state.is_working(self.journal.session):",
        "if self.journal.session is None:",
        ("tests/unit/test_journal.py::test_a_closed_session_is_not_gone_on_with",),
    ),
    Mutant(
        "content-not-synced",
        "in a folder: the bytes are durable before they get their name",
        "store/folder.py",
        "view = view[os.write(descriptor, view) :]\n    os.fsync(descriptor)",
        "view = view[os.write(descriptor, view) :]",
        (_POWER + "test_what_was_created_survives_a_power_cut",),
    ),
    Mutant(
        "name-before-content",
        "in a folder: a file has its name only when all of it is there",
        "store/folder.py",
        _lines(4, "_write(descriptor, data)", "return self._link(temporary, path)"),
        _lines(4, "linked = self._link(temporary, path)", "_write(descriptor, data)", "return linked"),
        (_POWER + "test_what_was_created_survives_a_power_cut",),
    ),
    Mutant(
        "name-not-synced",
        "in a folder: the name is durable when `create` returns",
        "store/folder.py",
        _lines(3, "try:", "    self._sync(folder)", "except OSError as error:"),
        _lines(3, "try:", "    pass", "except OSError as error:"),
        (_POWER + "test_what_was_created_survives_a_power_cut",),
    ),
    Mutant(
        "found-name-not-synced",
        "in a folder: a name that is found there is durable, too, when `create` says so",
        "store/folder.py",
        _lines(4, "self._sync(os.path.dirname(path))", "return False"),
        _lines(4, "return False"),
        (_POWER + "test_a_key_that_exists_is_as_durable_as_one_that_was_created",),
    ),
    Mutant(
        "folder-not-synced",
        "in a folder: so are the folders above it",
        "store/folder.py",
        _lines(3, "above = os.path.dirname(above)", "_sync_folder(above)"),
        _lines(3, "above = os.path.dirname(above)"),
        (_POWER + "test_what_was_created_survives_a_power_cut",),
    ),
    Mutant(
        "found-folder-not-synced",
        "in a folder: also those that were there, whoever made them",
        "store/folder.py",
        "    self._make_folders(folder)\n",
        "    if os.path.isdir(folder):\n                self._durable.add(folder)\n            self._make_folders(folder)\n",
        (_POWER + "test_a_key_survives_in_a_folder_that_another_process_had_just_made",),
    ),
    Mutant(
        "rename-for-link",
        "in a folder: the name is given by `link`, which replaces nothing",
        "store/folder.py",
        "os.link(temporary, path, follow_symlinks=False)",
        "os.rename(temporary, path)",
        ("tests/store/test_folder.py::test_of_two_creators_that_both_saw_no_file_one_loses",),
    ),
)

_PARTS, _FOLD = "tests/model/test_parts.py::", "tests/unit/test_parts.py::"

PARTS = (
    Mutant(
        "part-committed",
        "the session of a part is no longer its writer's: no commit ends it as its own",
        "fold.py",
        "act.session is None or old.is_working(act.session)",
        "act.session is None or act.session in old.open",
        (_FOLD + "test_a_part_is_not_committed",),
    ),
    Mutant(
        "journal-of-a-part",
        "a journal does not go on with a session that became a part",
        "session.py",
        "if not state.is_working(self.journal.session):",
        "if self.journal.session not in state.open:",
        (_FOLD + "test_a_session_that_became_a_part_is_nobody_s_to_go_on_with",),
    ),
    Mutant(
        "writer-of-a-part",
        "a writer whose session became a part, by an entry that was late, begins anew",
        "session.py",
        "if self.id is not None and not state.is_working(self.id):",
        "if self.id is not None and self.id not in state.open:",
        (_FOLD + "test_a_session_that_became_a_part_is_nobody_s_to_go_on_with",),
    ),
    Mutant(
        "packs-of-a-lost-part",
        "a commit keeps packs of the parts that it ends only while their sessions are open",
        "fold.py",
        "mine = {act.session} | (ended & old.open)",
        "mine = {act.session} | ended",
        (_FOLD + "test_no_version_without_a_part_that_is_lost",),
    ),
    Mutant(
        "some-of-the-parts",
        "a version is made of all parts of its id",
        "fold.py",
        "ended == there and ended <= self._old.open",
        "True",
        (_FOLD + "test_no_version_without_a_part_that_is_lost",),
    ),
    Mutant(
        "equal-part-twice",
        "an equal part is not taken twice",
        "fold.py",
        "_expect(equal.isdisjoint(old.open), ",
        "_expect(True, ",
        (_FOLD + "test_an_equal_part_is_not_taken_twice",),
    ),
    Mutant(
        "lost-part-unseen",
        "`finish` refuses while a part is lost, and says which",
        "gather.py",
        "lost = [part for part in parts if part.session not in state.open]",
        "lost = list[StatePart]()",
        (_PARTS + "test_gc_closes_parts_when_their_id_was_idle_and_forgets_them_later",),
    ),
    Mutant(
        "first-row-wins",
        "two parts with other content at one path make no version",
        "union.py",
        "if _content(runs[index], row) != _content(runs[other], at):",
        "if False:",
        (_FOLD + "test_a_conflict_says_where_and_who", _PARTS + "test_two_that_differ_at_one_path"),
    ),
    Mutant(
        "part-pack-kept-in-part",
        "a pack of a part, too, is kept whole or not at all",
        "gather.py",
        "whole = {pack for pack, offsets in left.items() if not offsets}",
        "whole = set(left)",
        (_PARTS + "test_what_parts_share_and_count_on",),
    ),
    Mutant(
        "place-by-the-word-of-a-part",
        "what a part counted on in others' packs is looked up again on the state that the commit follows",
        "gather.py",
        "return [place if place.pack in whole else kept.get(digest)",
        "return [place if place.pack in whole or place.pack not in left else kept.get(digest)",
        (_PARTS + "test_what_a_part_counts_on_is_deleted",),
    ),
    Mutant(
        "parts-leave-leftovers",
        "whoever ends the sessions of parts deletes what of them the entry did not keep",
        "gather.py",
        "yield from _sweep(self._artifact, state, sorted(self.sessions))",
        "pass",
        (_PARTS + "test_what_parts_share_and_count_on",),
    ),
    Mutant(
        "first-part-not-awaited",
        "`gc` closes parts when nothing was stored for their id",
        "garbage.py",
        "return sorted([*(sessions for sessions in parts if sessions), *([session] for session in state.open - taken)])",
        "return sorted([session] for session in state.open | taken)",
        (_PARTS + "test_gc_closes_parts_when_their_id_was_idle_and_forgets_them_later",),
    ),
    Mutant(
        "part-closed-on-an-older-look",
        "`gc` closes no session that became a part, and no part whose id another came to, after it looked",
        "garbage.py",
        "return Close(session) if session in state.open and _waiting(state, session) == listed else None",
        "return Close(session) if session in state.open else None",
        (_PARTS + "test_gc_closes_no_part_that_was_acknowledged_a_moment_ago",),
    ),
    Mutant(
        "part-of-a-spent-id",
        "a part whose id is a version already is in it, or is refused",
        "proposal.py",
        "self._within = end is not None and end.n is not None\n        if end is not None and end.n is not None:",
        "self._within = end is not None and end.n is not None\n        if False:",
        (_PARTS + "test_a_part_that_comes_after_the_finish",),
    ),
    Mutant(
        "word-unsaid",
        "an entry that has to do with parts says so to older programs",
        "acts.py",
        "return (PARTS_WORD,) if parts else ()",
        "return () if parts else ()",
        (_FOLD + "test_older_programs_stop_and_states_without_parts_are_what_they_were",),
    ),
)

STAGING = (
    Mutant(
        "ignored-shows-the-lower",
        "what is ignored in an overlay hides what the version that it lies over has there",
        "layer.py",
        "hidden.append(name)\n\n    def _entries",
        "pass\n\n    def _entries",
        ("tests/unit/test_layer.py::test_what_is_ignored_hides_what_the_lower_version_has_there[False]",),
    ),
    Mutant(
        "base-is-ignored",
        "what the base has is not ignored",
        "staging.py",
        "self._sift(key, found, tracked(key), rules, outside=outside)",
        "self._sift(key, found, (), rules, outside=outside)",
        ("tests/unit/test_layer.py::test_what_is_ignored_and_in_the_base_is_looked_at", _COPY),
    ),
    Mutant(
        "copy-of-the-latest",
        "a checkout that is a copy goes out from its base, not from the latest",
        "snapshot.py",
        "number = basis.base(state)",
        "number = state.latest",
        (_COPY,),
    ),
)

MUTANTS = (*PROTOCOL, *CHECKS, *PARTS, *STAGING)
