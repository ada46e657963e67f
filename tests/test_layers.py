"""The order of the modules, read from their sources: imports point one way, heavy libraries and errnos live where they belong.

`ORDER` is the one place that says which module stands where; a new module must be given its place here. Each rule is a function
from modules to complaints, so that the tests at the end can show that it bites.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = "artifactmount"
FOLDER = Path(__file__).parent.parent / PACKAGE

# Low to high. A module may import from its own group and from those before it. "cache.*" stands for all modules of that package;
# the empty name is the package's own __init__.py.
ORDER: tuple[tuple[str, ...], ...] = (
    ("version",),
    ("errors", "memory", "worker", "workers"),
    ("private", "plain", "notify", "mount_options"),
    ("log_lines",),
    ("config", "mountpoint"),
    ("digest", "ranges", "sealed"),
    ("held", "pack", "acts", "rows"),
    ("crypto", "document"),
    ("folders", "reference"),
    ("listing",),
    ("reading", "writing", "lookahead"),
    ("run", "run_builder", "squash", "manifest", "merge", "union", "card"),
    ("state", "log", "fold", "names", "retention", "loss"),
    ("store",),
    ("store.folder", "store.s3", "store.memory"),
    ("store.kept",),
    ("kms",),
    ("sources",),
    ("sources.disk", "sources.s3", "sources.web"),
    ("sources.access",),
    ("steps",),
    ("cache", "cache.*"),
    ("journal",),
    ("artifact", "session", "catalog", "pins", "keys", "project"),
    ("launch",),
    ("fetch", "blocks", "settings"),
    ("ignore",),
    ("staging", "progress", "layer"),
    ("checkout",),
    ("assembly",),
    ("scan", "packer", "content", "changes", "ending"),
    ("proposal", "liveness", "garbage"),
    ("snapshot", "refer", "vendor", "describe", "target", "alias", "sizes", "delete", "history", "difference", "verify"),
    ("filling",),
    ("download",),
    ("parts", "gather"),
    ("compare", "prefetch"),
    ("status",),
    ("checkin",),
    ("policy", "protection"),
    ("doctor",),
    ("doctor.*",),
    ("tree", "pieces"),
    ("stream", "vectored"),
    ("reader", "event_loop"),
    ("namespace",),
    ("fuse",),
    ("metrics_port",),
    ("metrics",),
    ("metered",),
    ("daemon",),
    ("workspace",),
    ("api", "api.*"),
    ("entries",),
    ("", "wandb", "filesystem", "wandb_manifest", "import_wandb"),
    ("cli", "cli.*"),
    ("__main__",),
)

# Who may import a library. The AWS SDK's stubs are the SDK, as far as knowing it goes.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "trio": ("reader", "event_loop", "fuse", "daemon"),
    "pyfuse3": ("event_loop", "fuse", "metered", "daemon"),
    "prometheus_client": ("metrics",),
    "boto3": ("store.s3", "sources.s3"),
    "botocore": ("store.s3", "sources.s3", "kms"),
    "mypy_boto3_s3": ("store.s3", "sources.s3"),
    "types_boto3_s3": ("store.s3", "sources.s3"),
    "urllib3": ("sources.web",),
    "cryptography": ("crypto", "keys"),
    "fsspec": ("filesystem",),
    "pathspec": ("ignore",),
}

# What may be imported inside a function, and where: boto3 takes longer to import than most commands take to run, and a command
# of the command line loads only what it uses; so does who imports the package and not its Python API; cryptography is for encrypted
# projects only, pathspec for folders with an ignore file, and the Prometheus library for who asks for metrics. Of Python's own: OpenSSL,
# the mail package (for a date) and TOML are 8 of the 75 ms that it took to import what a snapshot of a folder needs. Everything else would
# be a cycle in hiding.
LAZY: tuple[tuple[str, str], ...] = (
    ("store.s3", "boto3*"),
    ("store.s3", "botocore*"),
    ("kms", "botocore*"),
    ("sources.s3", "boto3*"),
    ("sources.s3", "botocore*"),
    ("sources.web", "urllib3*"),
    ("sources.web", "urllib.request*"),
    ("progress", "tqdm*"),
    ("digest", "pyfastcdc*"),
    ("metrics", "prometheus_client*"),
    ("metrics", f"{PACKAGE}.metrics_port*"),
    ("ignore", "pathspec*"),
    ("crypto", "cryptography*"),
    ("keys", "cryptography*"),
    ("project", "hmac"),
    ("store.s3", "email*"),
    ("sources.web", "email*"),
    ("config", "tomllib"),
    ("", f"{PACKAGE}.api*"),
    ("", f"{PACKAGE}.errors*"),
    ("api.stored", f"{PACKAGE}.api.mounts*"),
    ("cli", f"{PACKAGE}*"),
    ("cli.*", f"{PACKAGE}*"),
)

TO_THREAD_IN = ("reader",)

# Beside errors.py, the modules that look at what the operating system answered.
ERRNO_IN = ("errors", "store.folder", "cache", "cache.*", "staging", "target")

BANNED = frozenset({"object", "node", "info", "meta", "data", "manager", "handler", "helper", "util", "common"})

# Methods of an interface that is not ours, and so called as it wants them.
FOREIGN = frozenset({("filesystem", "info")})


@dataclass(frozen=True, slots=True)
class Module:
    name: str  # below the package: "store.s3"; "" is the package itself
    is_package: bool
    tree: ast.Module

    @property
    def full(self) -> str:
        return f"{PACKAGE}.{self.name}" if self.name else PACKAGE


@dataclass(frozen=True, slots=True)
class Import:
    target: str  # absolute, with the imported name: "artifactmount.store.Listed"
    line: int
    lazy: bool

    @property
    def library(self) -> str:
        return self.target.split(".")[0]


def parse(name: str, text: str, is_package: bool = False) -> Module:
    return Module(name, is_package, ast.parse(text))


def read_package() -> list[Module]:
    modules = []
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        modules.append(parse(".".join(parts[:-1] if is_package else parts), path.read_text(), is_package))
    return modules


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def imports(module: Module) -> Iterator[Import]:
    """Every import of a module, those for type checkers too: what a module names, it knows."""
    inside = {
        id(inner)
        for outer in ast.walk(module.tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(module.tree):
        lazy = id(node) in inside
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parts = module.full.split(".")
                base = parts[: len(parts) - node.level + module.is_package]
                start = ".".join([*base, start] if start else base)
            yield from (Import(f"{start}.{alias.name}", node.lineno, lazy) for alias in node.names)


def own_target(target: str, known: set[str]) -> str:
    """The module of this package that an import reaches: the longest known name, or one in ORDER still to be written."""
    below = target.split(".")[1:]
    for length in range(len(below), 0, -1):
        if ".".join(below[:length]) in known:
            return ".".join(below[:length])
    written_later = [name for name in (".".join(below[:2]), ".".join(below[:1])) if name and rank(name) is not None]
    return written_later[0] if written_later else ""


def rank(name: str) -> int | None:
    """The number of the module's group; exact names win over patterns."""
    for exact in (True, False):
        for number, group in enumerate(ORDER):
            if name in group if exact else matches(name, group):
                return number
    return None


def edges(modules: list[Module]) -> Iterator[tuple[Module, str, Import]]:
    known = {module.name for module in modules}
    for module in modules:
        for found in imports(module):
            if found.library == PACKAGE:
                target = own_target(found.target, known)
                if target != module.name:
                    yield module, target, found


def unplaced(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if rank(module.name) is None:
            yield f"{module.full} has no place in ORDER (tests/test_layers.py)"


def upward(modules: list[Module]) -> Iterator[str]:
    for module, target, found in edges(modules):
        own, other = rank(module.name), rank(target)
        if own is not None and other is not None and other > own:
            yield f"{module.full}:{found.line} imports {PACKAGE}.{target}, which stands above it"


def cycles(modules: list[Module]) -> Iterator[str]:
    """Lazy imports count: a cycle broken by an import inside a function is still a cycle."""
    graph: dict[str, set[str]] = {module.name: set() for module in modules}
    for module, target, _ in edges(modules):
        if target in graph:
            graph[module.name].add(target)
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> Iterator[str]:
        if name in path:
            yield "a cycle: " + " -> ".join([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(graph[name]):
                yield from visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        yield from visit(name, [])


def hidden(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for found in imports(module):
            if found.lazy and not any(fnmatch(module.name, where) and fnmatch(found.target, what) for where, what in LAZY):
                yield f"{module.full}:{found.line} imports {found.target} inside a function"
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Name | ast.Attribute) or matches(module.name, ("cli", "cli.*")):
                continue
            if name_of(node) in {"import_module", "__import__"}:
                yield f"{module.full}:{node.lineno} imports by a computed name"


def name_of(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


def misplaced_libraries(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        for found in imports(module):
            if found.library in ONLY_IN and module.name not in ONLY_IN[found.library]:
                yield f"{module.full}:{found.line} imports {found.library}, which belongs to {', '.join(ONLY_IN[found.library])}"


def misplaced_threads(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.name in TO_THREAD_IN:
            continue
        for found in imports(module):
            if "to_thread" in found.target.split("."):
                yield f"{module.full}:{found.line} imports to_thread"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr == "to_thread":
                yield f"{module.full}:{node.lineno} hops to a thread"


def misplaced_errnos(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if matches(module.name, ERRNO_IN):
            continue
        for found in imports(module):
            if found.target.startswith("errno."):
                yield f"{module.full}:{found.line} imports {found.target}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and name_is(node.value, "errno") and re.fullmatch("E[A-Z0-9]+", node.attr):
                yield f"{module.full}:{node.lineno} spells errno.{node.attr}"


def name_is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def words(name: str) -> list[str]:
    """The words of a name in CamelCase or snake_case: HTTPDataStream -> http, data, stream; metadata is one word."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def vague_names(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        names = [(module.name, 1)]
        names += [
            (node.name, node.lineno)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        for name, line in names:
            for word in () if (module.name, name) in FOREIGN else words(name):
                if word in BANNED or word.removesuffix("s") in BANNED:
                    yield f"{module.full}:{line} is called {name}, and {word!r} says nothing"


Rule = Callable[[list[Module]], Iterator[str]]
RULES: tuple[Rule, ...] = (
    unplaced,
    upward,
    cycles,
    hidden,
    misplaced_libraries,
    misplaced_threads,
    misplaced_errnos,
    vague_names,
)


@pytest.fixture(scope="module")
def package() -> list[Module]:
    modules = read_package()
    assert "" in {module.name for module in modules}, "the package was not found"
    return modules


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Rule, package: list[Module]) -> None:
    assert list(rule(package)) == []


def test_no_name_stands_twice_in_the_order() -> None:
    names = [name for group in ORDER for name in group]
    assert sorted(names) == sorted(set(names))


BREACHES: list[tuple[Rule, dict[str, str]]] = [
    (unplaced, {"extras": ""}),
    (upward, {"pack": "from artifactmount.store import Store"}),
    (upward, {"pack": "from artifactmount import store"}),
    (upward, {"pack": "from .store import Store"}),
    (upward, {"pack": "import artifactmount.cache.segments"}),
    (upward, {"store": "from artifactmount.store.folder import FolderStore", "store.folder": ""}),
    (upward, {"store": "from .folder import FolderStore", "store.folder": ""}),
    (upward, {"errors": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from artifactmount.pack import PackId"}),
    (cycles, {"rows": "from artifactmount.run import Run", "run": "from artifactmount.rows import Kind"}),
    (cycles, {"rows": "def f():\n    from artifactmount import run", "run": "import artifactmount.rows"}),
    (hidden, {"pack": "def f():\n    import zstandard"}),
    (hidden, {"pack": "class A:\n    async def f(self):\n        from artifactmount.digest import cut"}),
    (hidden, {"store.s3": "def f():\n    import trio"}),
    (hidden, {"cli": "def f():\n    import trio"}),
    (hidden, {"pack": "import importlib\nimportlib.import_module('boto3')"}),
    (misplaced_libraries, {"tree": "import trio.lowlevel"}),
    (misplaced_libraries, {"reader": "from pyfuse3 import FUSEError"}),
    (misplaced_libraries, {"project": "from botocore.exceptions import ClientError"}),
    (misplaced_libraries, {"api.stored": "import fsspec"}),
    (misplaced_threads, {"fuse": "import trio\nasync def f():\n    await trio.to_thread.run_sync(print)"}),
    (misplaced_threads, {"snapshot": "from asyncio import to_thread"}),
    (misplaced_errnos, {"fuse": "import errno\nx = errno.EIO"}),
    (misplaced_errnos, {"tree": "from errno import ENOENT"}),
    (vague_names, {"pack": "class PackInfo: pass"}),
    (vague_names, {"pack": "def read_data(): pass"}),
    (vague_names, {"pack": "class A:\n    def list_objects(self): pass"}),
    (vague_names, {"cli.utils": ""}),
    (vague_names, {"filesystem": "def read_info(): pass"}),
    (vague_names, {"pack": "def info(): pass"}),
]


@pytest.mark.parametrize(("rule", "sources"), BREACHES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_breach_is_found(rule: Rule, sources: dict[str, str]) -> None:
    assert list(rule([parse(name, text, is_package=name in {"store", "cli"}) for name, text in sources.items()]))


def test_what_is_allowed_passes() -> None:
    sources = {
        "": "from artifactmount.version import __version__",
        "version": "__version__ = '1'",
        "errors": "import errno\nclass A(Exception):\n    errno = errno.EIO",
        "rows": "from artifactmount.errors import A",
        "run": "from artifactmount.rows import Kind\nfrom artifactmount.version import __version__",
        "log": "def describe_metadata(): pass\nclass Inode: pass",
        "store": "from ..errors import A",
        "store.s3": "from artifactmount.store import Store\ndef f():\n    import boto3\n    from botocore.config import Config",
        "reader": "import trio\nasync def f(): await trio.to_thread.run_sync(print)",
        "fuse": "import pyfuse3\nfrom artifactmount.errors import errno_of\ndef f(e): return errno_of(e) or e.errno",
        "cli": "def f():\n    from artifactmount.cli import mount",
        "cli.mount": "from artifactmount.daemon import serve",
    }
    modules = [parse(name, text, is_package=name in {"", "store", "cli"}) for name, text in sources.items()]
    assert [complaint for rule in RULES for complaint in rule(modules)] == []
