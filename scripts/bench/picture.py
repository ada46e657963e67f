"""Ratios as bars on a logarithmic scale, as SVG. Knows nothing of what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_LEFT, _WIDTH, _ROW = 480, 480, 18
_DECADES = (-3, 1)


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio, and the one that was promised, if any was."""

    label: str
    ratio: float
    limit: float | None


def draw(bars: Sequence[Bar]) -> str:
    """A picture; nothing where there are no bars. A bar ends at its ratio; the thin line across it is what was promised."""
    if not bars:
        return ""
    height = _ROW * (len(bars) + 2)
    shapes = [f'<rect width="{_LEFT + _WIDTH + 60}" height="{height}" fill="#fff"/>']
    for power in range(_DECADES[0], _DECADES[1] + 1):
        x = _at(10.0**power)
        shapes.append(f'<path d="M{x} {_ROW}V{height - _ROW / 2}" stroke="{"#000" if power == 0 else "#ddd"}"/>')
        shapes.append(f'<text x="{x}" y="12" text-anchor="middle">{10.0**power:g} ×</text>')
    for number, bar in enumerate(bars):
        y, end = _ROW * (number + 1), _at(bar.ratio)
        shapes.append(f'<text x="{_LEFT - 6}" y="{y + 13}" text-anchor="end">{escape(bar.label.replace("`", ""))}</text>')
        shapes.append(f'<rect x="{_LEFT}" y="{y + 3}" width="{end - _LEFT:.1f}" height="{_ROW - 6}" fill="#4878a8"/>')
        shapes.append(f'<text x="{end + 4:.1f}" y="{y + 13}">{bar.ratio:.2g}</text>')
        if bar.limit is not None:
            shapes.append(f'<path d="M{_at(bar.limit)} {y}v{_ROW}" stroke="#c03028" stroke-width="2"/>')
    size = f'width="{_LEFT + _WIDTH + 60}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">\n' + "\n".join(shapes) + "\n</svg>\n"


def _at(ratio: float) -> float:
    low, high = _DECADES
    share = (math.log10(max(ratio, 10.0**low)) - low) / (high - low)
    return round(_LEFT + _WIDTH * min(max(share, 0.0), 1.0), 1)
