"""Tables and a picture of what was measured, printed, or written into artifactmount/docs/performance.md between its two marks.

    .venv/bin/python scripts/bench/report.py [--write] [--small] [--results FILE]

Of each row the newest run counts, and no other: figures of two runs are not compared. Shown are medians.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from measure import OURS, ROOT
from picture import Bar, draw
from table import RESULTS
from targets import TARGETS, Target

PAGE = ROOT / "artifactmount/docs/performance.md"
PICTURE = PAGE.with_suffix(".svg")
_MARKS = ("<!-- figures: scripts/bench/report.py --write -->", "<!-- end of figures -->")

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """All rounds of one contestant in one case."""

    values: tuple[float, ...]
    unit: str
    lines: tuple[Line, ...]
    counted: Line

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.values)

    def fact(self, *names: str) -> float | None:
        """The median over the rounds of a fact, or of the sum of several; None where no line has any."""
        known = [sum(line[name] for name in names if line.get(name) is not None) for line in self.lines]
        has = any(line.get(name) is not None for line in self.lines for name in names)
        return median(known) if known and has else None

    def asked(self) -> str:
        """What it was asked, and asked of its store, in the counted round."""
        parts = []
        for what, called in (("requests", "kernel"), ("store", "store")):
            of = self.counted.get(what) or {}
            if of:
                parts.append(
                    f"{called}: " + ", ".join(f"{name} {number:,}" for name, number in sorted(of.items(), key=lambda item: -item[1]))
                )
        return "; ".join(parts)


def newest(lines: Iterable[Line], small: bool) -> list[Line]:
    """Of each row the lines of its newest run."""
    chosen = [line for line in lines if line["small"] == small]
    runs = {row: max(line["run"] for line in chosen if line["row"] == row) for row in {line["row"] for line in chosen}}
    return [line for line in chosen if line["run"] == runs[line["row"]]]


def gathered(lines: list[Line]) -> dict[tuple[str, str, str], Found]:
    """By row, case and contestant."""
    keys = dict.fromkeys((line["row"], line["case"], line["who"]) for line in lines if "error" not in line)
    found: dict[tuple[str, str, str], Found] = {}
    for key in keys:
        of = [line for line in lines if (line["row"], line["case"], line["who"]) == key]
        timed = tuple(line for line in of if line["value"] is not None)
        counted = next((line for line in of if line["round"] < 0), {})
        if timed:
            found[key] = Found(tuple(line["value"] for line in timed), timed[0]["unit"], timed, counted)
    return found


def shown(value: float, unit: str) -> str:
    """A figure to three digits."""
    if unit == "B":
        value, unit = (value / 1e6, "MB") if abs(value) >= 1e6 else (value / 1024, "KiB")
    return f"{value:.3g} {unit}" if abs(value) < 1000 else f"{value:,.0f} {unit}"


def judged(target: Target, found: Mapping[tuple[str, str, str], Found]) -> tuple[list[str], float | None]:
    """A row of the table of targets, and the ratio where there is one."""
    ours, theirs = found.get((target.row, target.case, OURS)), found.get((target.row, target.peer_case or target.case, target.peer))
    ratio = None
    if ours is not None and (theirs is not None or not target.peer):
        ratio = ours.middle / theirs.middle if theirs is not None else ours.middle
    limit = "–"
    if target.limit is not None:
        limit = ("≥ " if target.at_least else "≤ ") + (f"{target.limit:g} ×" if target.peer else shown(target.limit, target.unit))
    met = "–"
    if ratio is not None and target.limit is not None:
        met = "yes" if (ratio >= target.limit if target.at_least else ratio <= target.limit) else "**no**"
    cells = [
        target.row,
        target.what,
        shown(ours.middle, ours.unit) if ours else "not measured",
        f"{target.peer} {shown(theirs.middle, theirs.unit)}" if theirs else f"{target.peer} not measured" if target.peer else "–",
        f"{ratio:.3g} ×" if ratio is not None and target.peer else "–",
        limit,
        met,
    ]
    return cells, ratio if target.peer else None


def details(found: Mapping[tuple[str, str, str], Found]) -> Iterable[list[str]]:
    """A row for each figure."""
    for (row, case, who), each in sorted(found.items(), key=lambda item: int(item[0][0])):
        cpu, server = each.fact("cpu", "daemon_cpu"), each.fact("server_cpu")
        memory = each.fact("peak") or each.fact("private") or each.fact("memory")
        yield [
            row,
            case,
            who,
            shown(each.middle, each.unit),
            f"{shown(min(each.values), each.unit)} – {shown(max(each.values), each.unit)}",
            str(len(each.values)),
            "–" if cpu is None else f"{cpu:.3g}" + (f" + {server:.3g}" if server is not None else ""),
            "–" if memory is None else f"{memory:.0f}",
            each.asked() or "–",
        ]


def table(head: str, rows: Iterable[list[str]]) -> str:
    """As Markdown."""
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.strip() for cell in line)} |\n" for line in lines)


def report(lines: list[Line]) -> tuple[str, str]:
    """The text, and the picture as SVG."""
    found = gathered(lines)
    judgements = [(target, *judged(target, found)) for target in TARGETS]
    parts = []
    if lines:
        machines = sorted(
            {f"{line['cores']} cores {line['cpu_model']}, {line['memory_gib']} GiB, Linux {line['kernel']}" for line in lines}
        )
        commits = ", ".join(sorted({line["commit"] for line in lines}))
        days = ", ".join(sorted({line["time"][:10] for line in lines}))
        versions = sorted({line["version"] for line in lines if line["version"]})
        parts.append(f"{'; '.join(machines)}; {days}; commit {commits}. {', '.join(versions)}.\n")
    parts.append(table("row|what|artifactmount|beside|ratio|promised|met", (cells for _, cells, _ in judgements)))
    if found:
        parts.append(table("row|case|who|median|best – worst|rounds|CPU s|MiB|asked", details(found)))
        parts.append(
            "CPU: of all processes of the command, and of the mount's daemon; behind the +, of the S3 server. MiB: of the largest process "
            "at its peak; of a mount, the daemon's private memory. Asked: in one more round, which is not timed.\n"
        )
    failed = dict.fromkeys(f"- row {line['row']}, {line['who']}: {' '.join(line['error'].split())}\n" for line in lines if "error" in line)
    if failed:
        parts.append("Not measured:\n\n" + "".join(failed))
    bars = [_bar(target, ratio) for target, _, ratio in judgements if ratio is not None]
    return "\n".join(parts), draw(bars)


def _bar(target: Target, ratio: float) -> Bar:
    """Shorter is better in all of them: of a throughput it is the time for the same bytes."""
    label, limit = f"{target.what} / {target.peer}", target.limit
    return Bar(label, 1 / ratio, limit and 1 / limit) if target.at_least else Bar(label, ratio, limit)


def main() -> int:
    """Print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}, and the picture beside it")
    parser.add_argument("--small", action="store_true", help="of trials; they are never written")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args()
    if options.write and options.small:
        parser.error("a trial says nothing of speed")
    kept = options.results.read_text().splitlines() if options.results.exists() else []
    text, svg = report(newest(map(json.loads, kept), options.small))
    if not options.write:
        print(text)
        return 0
    if svg:
        PICTURE.write_text(svg)
        text = f"![What ours takes, as a multiple of what the peer takes; the red line is what was promised]({PICTURE.name})\n\n{text}"
    start, end = map(re.escape, _MARKS)
    page = re.sub(f"(?<={start}\n).*?(?={end})", lambda _: f"\n{text}\n", PAGE.read_text(), flags=re.DOTALL)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
