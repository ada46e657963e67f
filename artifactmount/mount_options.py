"""What mount(8) hands to its helper, understood: words of mount(8) and fstab(5), and our own. Pure; mounts nothing.

    SOURCE MOUNTPOINT [-sfnv] [-o OPTION,…] [-t fuse.artifactmount]

Unknown options are refused by name, as a misspelled one must not switch off what it was to switch on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from artifactmount.errors import UsageError

#: For mount(8), systemd and others, or true of every mount of ours (it is always read-only, nosuid, nodev). `rw` comes from mount(8), `dev`
#: and `suid` from mount.fuse3, without anybody's asking for them; as a CD is, a version is mounted read-only then.
_OURS_ANYWAY = frozenset({"ro", "rw", "nosuid", "nodev", "dev", "suid", "exec", "default_permissions"})
_OF_MOUNT = frozenset({"defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "nouser", "owner", "group"})
_OF_DISKS = frozenset({"sync", "async", "dirsync", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"})
_OF_DISKS |= frozenset({"strictatime", "nostrictatime", "lazytime", "nolazytime"})
_WITHOUT_MEANING = _OURS_ANYWAY | _OF_MOUNT | _OF_DISKS
_PREFIXES_WITHOUT_MEANING = ("x-", "X-", "comment=", "user=")
_NUMBER = re.compile(r"\d{1,10}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST_ID = (1 << 32) - 2  # the one above means "no change" to chown(2)
_OCTAL = re.compile(r"0?[0-7]{1,3}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be mounted where. The empty text and None: not said."""

    source: str
    mountpoint: str
    allow_other: bool = False
    noexec: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    cache: str = ""
    cache_size: str = ""
    key_file: str = ""
    profile: str = ""
    env_file: str = ""
    log_format: str = "text"
    metrics: str = ""
    fake: bool = field(default=False, kw_only=True)  # -f: look whether it could be understood, and mount nothing


_FLAGS = ("allow_other", "noexec")
_NUMBERS = ("uid", "gid", "umask")
_TEXTS = ("cache", "cache-size", "key-file", "profile", "env-file", "log-format", "metrics")
#: Every option of our own.
OPTIONS = (*_FLAGS, *_NUMBERS, *_TEXTS)


def parse_arguments(arguments: Sequence[str]) -> Wanted:
    """What mount(8), mount.fuse3 or somebody by hand asks for. Raises UsageError."""
    places: list[str] = []
    options: list[str] = []
    switches = set[str]()
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-o", "-t", "-N"):
            value = next(rest, None)
            if value is None:
                raise UsageError(f"{argument} takes a value")
            if argument == "-o":
                options += _split(value)
            elif argument == "-N" or value not in ("fuse.artifactmount", "artifactmount"):
                raise UsageError(f"{argument} {value} is not for this program")
        elif re.fullmatch("-[sfnv]+", argument):
            switches.update(argument[1:])
        elif argument.startswith("-"):
            raise UsageError(f"no such option: {argument}")
        else:
            places.append(argument)
    if len(places) != 2:
        raise UsageError("a source and a mountpoint are needed: s3://bucket/prefix /mnt")
    if "" in places:
        raise UsageError("the source or the mountpoint is empty")
    return _wanted(places[0], places[1], options, sloppy="s" in switches, fake="f" in switches)


def _split(options: str) -> list[str]:
    """At commas; a comma of a value has a backslash before it, or stands in double quotes, as mount(8) has it."""
    found = re.findall(r'(?:[^,"\\]|\\.|"[^"]*"|["\\])+', options)
    return [re.sub(r'\\([,\\"])|"([^"]*)"', lambda match: match[1] or match[2] or "", option) for option in found]


def _wanted(source: str, mountpoint: str, options: Sequence[str], *, sloppy: bool, fake: bool) -> Wanted:
    flags: dict[str, bool] = {}
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if option in _WITHOUT_MEANING or option.startswith(_PREFIXES_WITHOUT_MEANING):
            continue
        if option in _FLAGS:
            flags[name] = True
        elif name in _TEXTS and value:
            texts[name.replace("-", "_")] = value
        elif name in _NUMBERS and equals:
            numbers[name] = _number(name, value)
        elif option == "remount":
            raise UsageError("a mount cannot be changed: umount it, and mount it again")
        elif name in _NUMBERS + _TEXTS:
            raise UsageError(f"the option {name} takes a value: {name}=…")
        elif not sloppy:
            raise UsageError(f"unknown mount option: {option!r}; docs/machines.md lists those that are known")
    if texts.get("log_format", "text") not in ("text", "json"):
        raise UsageError(f"log-format is text or json, not {texts['log_format']!r}")
    return Wanted(source, mountpoint, **flags, **texts, **numbers, fake=fake)  # type: ignore[arg-type]


def _number(name: str, value: str) -> int:
    if name == "umask":
        return umask_of(value)
    if not _NUMBER.fullmatch(value) or int(value) > _LARGEST_ID:
        raise UsageError(f"{name} is a number, not {value!r}; `id` shows yours")
    return int(value)


def umask_of(text: str) -> int:
    """The bits of an octal number such as 027. Raises UsageError."""
    if not _OCTAL.fullmatch(text):
        raise UsageError(f"not a umask: {text!r}; write an octal number such as 022 or 077")
    return int(text, 8)


def parse_environment(text: str) -> dict[str, str]:
    """The variables of a file of NAME=VALUE lines, as systemd's EnvironmentFile= has them: blank lines and # comments are skipped, a value
    may stand in quotes, and nothing in it is expanded. Raises UsageError."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _VARIABLE.fullmatch(name):
            raise UsageError(f"line {number} is not NAME=VALUE")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[name] = value
    return found
