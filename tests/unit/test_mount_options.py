"""What mount(8) hands over, understood or refused by name."""

from __future__ import annotations

import pytest

from artifactmount.errors import UsageError
from artifactmount.mount_options import OPTIONS, Wanted, parse_arguments, parse_environment

PLACES = ("s3://bucket/team", "/mnt")


def test_what_mount_and_fstab_say_is_taken_without_a_word() -> None:
    options = "ro,nosuid,nodev,dev,suid,exec,noauto,user,user=ann,users,_netdev,nofail,x-systemd.automount,comment=mine,noatime,defaults"
    given = parse_arguments([*PLACES, "-n", "-v", "-o", options, "-t", "fuse.artifactmount"])
    assert given == Wanted(*PLACES)
    assert parse_arguments(PLACES) == Wanted(*PLACES)
    assert parse_arguments([*PLACES, "-o", "rw"]) == Wanted(*PLACES)  # what mount(8) says when nobody says anything
    assert parse_arguments([*PLACES, "-f"]).fake


def test_our_own_options() -> None:
    first = "allow_other,noexec,uid=1000,gid=0,umask=027,cache=/var/cache/a,cache-size=20G"
    second = "key-file=/etc/k,profile=team,env-file=/etc/e,log-format=json,metrics=9464"
    given = parse_arguments(["-o", first, *PLACES, "-o", second])
    assert given == Wanted(
        *PLACES, True, True, 1000, 0, 0o27, "/var/cache/a", "20G", "/etc/k", "team", "/etc/e", log_format="json", metrics="9464"
    )
    assert {option.partition("=")[0] for option in f"{first},{second}".split(",")} == set(OPTIONS)


def test_commas_in_values_are_escaped_or_quoted() -> None:
    assert parse_arguments([*PLACES, "-o", r"cache=/a\,b,ro"]).cache == "/a,b"
    assert parse_arguments([*PLACES, "-o", 'ro,cache="/a,b"']).cache == "/a,b"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([*PLACES, "-o", "ro,alow_other"], "'alow_other'"),
        ([*PLACES, "-o", "ro,cache_size=1G"], "'cache_size=1G'"),
        ([*PLACES, "-o", "allow_other=1"], "'allow_other=1'"),
        ([*PLACES, "-o", "ro,remount"], "umount it"),
        ([*PLACES, "-o", "ro,cache="], "cache takes a value"),
        ([*PLACES, "-o", "ro,uid"], "uid takes a value"),
        ([*PLACES, "-o", "ro,uid=ann"], "uid is a number"),
        ([*PLACES, "-o", "ro,gid=4294967295"], "gid is a number"),
        ([*PLACES, "-o", "ro,umask=9"], "umask"),
        ([*PLACES, "-o", "ro,log-format=xml"], "log-format"),
        ([*PLACES, "-o"], "-o takes a value"),
        ([*PLACES, "-t", "ext4"], "-t ext4"),
        ([*PLACES, "-N", "/proc/1/ns/mnt"], "-N"),
        ([*PLACES, "--foreground"], "--foreground"),
        (["/mnt"], "a source and a mountpoint"),
        ([*PLACES, "ro"], "a source and a mountpoint"),
        (["", "/mnt"], "empty"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(arguments: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named.replace("(", r"\(")):
        parse_arguments(arguments)


def test_mount_s_leaves_out_what_is_unknown_and_nothing_else() -> None:
    assert parse_arguments([*PLACES, "-s", "-o", "ro,vers=3,allow_other"]) == Wanted(*PLACES, True)
    with pytest.raises(UsageError):
        parse_arguments([*PLACES, "-s", "-o", "remount"])


def test_a_file_of_variables() -> None:
    text = "# who\nAWS_PROFILE=team\n\n; or\nA=\"b c\"\nB='$x'\n C = d = e \nEMPTY=\n"
    assert parse_environment(text) == {"AWS_PROFILE": "team", "A": "b c", "B": "$x", "C": "d = e", "EMPTY": ""}
    for line in ("export A=b", "nothing", "=x", "1A=b"):
        with pytest.raises(UsageError, match="line 2"):
            parse_environment(f"A=b\n{line}\n")
