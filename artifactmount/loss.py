"""What the loss of a pack means, for whoever has to do something about it: which versions it takes along, and what is left to do. Pure."""

from __future__ import annotations

from artifactmount.ranges import PackId
from artifactmount.state import State

_LISTED = 10


def describe_loss(name: str, state: State, pack: PackId, key: str) -> str:
    """One line on a pack of an artifact that is live in `state`, and whose key is not in the store."""
    back, more = "put that key back from a backup or the bucket's old versions", f"`artifactmount verify {name}` lists all that is wrong"
    # A range can name a hundred million packs, so it is asked and never walked through.
    names = {pack} | {old for old, new in state.moved.items() if new == pack}
    using = [n for n, version in state.versions.items() if any(each in version.packs for each in names)]
    owner = next((n for n, version in state.versions.items() if pack in version.metadata.packs), None)
    if owner is None:
        of = f"content that {_listed(using)} stored" if using else "content"
        return f"{name}: {of} is lost: {key} is not in the store; {back}; {more}"
    unread = [n for n in state.versions if owner in state.chain(n)]
    rest = [n for n in state.versions if n not in unread]
    save = f"download what still reads ({_listed(rest)}), then " if rest else ""
    return (
        f"{name}: the metadata of v{owner} is lost: {key} is not in the store, and {_listed(unread)} cannot be read without it; "
        f"{back}; or {save}begin anew after `artifactmount delete {name} --all`; {more}"
    )


def _listed(numbers: list[int]) -> str:
    some = ", ".join(f"v{n}" for n in numbers[:_LISTED])
    return some if len(numbers) <= _LISTED else f"{some} … ({len(numbers)})"
