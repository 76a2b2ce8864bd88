"""A curve as a small inline SVG: no plotting library, nothing to load."""

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 320, 170
LEFT, BOTTOM, TOP = 48, 24, 24


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place."""
    result, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        result.append(total / min(i + 1, window))
    return result


def curve_svg(title: str, points: Sequence[tuple[float, float]], unit: str, window: int = 1) -> str:
    """(x, y) points -> an <svg> with axes and a line; above a window of 1 the running mean over the raw line.

    Points that are not finite (a loss that diverged) are left out.
    """
    finite = [point for point in points if math.isfinite(point[1])] or [(0.0, 0.0)]
    xs, ys = [p[0] for p in finite], [p[1] for p in finite]
    low, high = min(0.0, min(ys)), max(ys) or 1.0

    def place(x: float, y: float) -> str:
        px = LEFT + (x - xs[0]) / max(xs[-1] - xs[0], 1) * (WIDTH - LEFT - 10)
        py = HEIGHT - BOTTOM - (y - low) / (high - low or 1.0) * (HEIGHT - BOTTOM - TOP)
        return f"{px:.1f},{py:.1f}"

    def line(values: Sequence[float], style: str) -> str:
        step = max(1, len(values) // 400)
        path = " ".join(place(x, y) for x, y in list(zip(xs, values, strict=True))[::step])
        return f'<polyline points="{path}" fill="none" {style}/>'

    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{place(xs[0], y).split(",")[1]}" text-anchor="end" dy="4">{_tick(y)}</text>'
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{place(0, y).split(",")[1]}" y2="{place(0, y).split(",")[1]}" '
        'stroke="#e3e8ef"/>'
        for y in (low, (low + high) / 2, high)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" font-size="11" font-family="system-ui" role="img">'
        f'<text x="{LEFT}" y="14" font-weight="600">{html.escape(title)}: {html.escape(unit)}</text>{ticks}'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{xs[-1] + 1:,.0f} steps</text>'
        + (line(ys, 'stroke="#a9c1e8" stroke-width="1"') if window > 1 else "")
        + line(smooth(ys, window), 'stroke="#1f5fbf" stroke-width="2"')
        + "</svg>"
    )


def _tick(value: float) -> str:
    """At most six characters, so that it stays left of the axis."""
    return f"{value:.1e}".replace("e-0", "e-") if 0 < abs(value) < 0.01 else f"{value:.3g}"
