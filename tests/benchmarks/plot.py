"""Latency against load, as an SVG that stands alone and follows the reader's light or dark mode."""

import math
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 84, 64, 56
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 } .small { font-size: 12px; fill: #57606a }
.grid { stroke: #d0d7de; stroke-width: 1 } .line { fill: none; stroke-width: 2.5; stroke-linejoin: round }
.p50 { stroke: #0969da } .p99 { stroke: #bc4c00 } .dot-p50 { fill: #0969da } .dot-p99 { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d }
  .p50 { stroke: #4493f8 } .p99 { stroke: #f0883e } .dot-p50 { fill: #4493f8 } .dot-p99 { fill: #f0883e }
}
"""


def points(results: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """(per cent of the full throughput, events a second, p50, p99), by load; nothing when `load` was not run."""
    found = [
        (float(of["share_percent"]), of["events_per_second"], of["xadd_ms"]["p50"], of["xadd_ms"]["p99"])
        for of in results.get("load", {}).get("loads", [])
    ]
    if found and "idle" in results:
        idle = results["idle"]["xadd_ms"]
        found.insert(0, (0.0, 0.0, idle["p50"], idle["p99"]))
    return found


def ticks(most: float) -> list[float]:
    """1, 2, 5, 10, … up to the first one that holds `most` milliseconds."""
    made = [1.0]
    while made[-1] < most:
        made.append(made[-1] * (2.5 if str(made[-1]).startswith("2") else 2))
    return made


def svg(results: dict[str, Any], machine: str) -> str:
    """The plot of `load`, with the idle latency at its left when that was measured. Milliseconds on a logarithmic
    scale."""
    measured = points(results)
    scale = ticks(max(p99 for *_, p99 in measured))
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    top = max(math.log10(scale[-1]), 0.1)

    def x(share: float) -> float:
        return round(LEFT + share / 80 * across, 1)

    def y(ms: float) -> float:
        return round(TOP + up * (1 - math.log10(max(ms, 1)) / top), 1)

    parts = [
        f'<text class="title" x="{LEFT}" y="26">Latency against load</text>',
        f'<text class="small" x="{LEFT}" y="46">XADD → bytes at an SSE client, ms; {escape(machine)}</text>',
    ]
    for ms in scale:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(ms)}" y2="{y(ms)}"/>')
        parts.append(f'<text class="small" x="{LEFT - 8}" y="{y(ms) + 4}" text-anchor="end">{ms:g}</text>')
    for share, rate, _, _ in measured:
        below, label = TOP + up, "idle" if not share else f"{share:g} %"
        parts.append(f'<text x="{x(share)}" y="{below + 20}" text-anchor="middle">{label}</text>')
        if share:
            parts.append(
                f'<text class="small" x="{x(share)}" y="{below + 38}" text-anchor="middle">{rate:,.0f}/s</text>'
            )
    last = measured[-1]
    for name, place in (("p50", 2), ("p99", 3)):
        drawn = [(x(point[0]), y(point[place])) for point in measured]
        path = " ".join(f"{across},{down}" for across, down in drawn)
        parts.append(f'<polyline class="line {name}" points="{path}"/>')
        parts += [f'<circle class="dot-{name}" cx="{cx}" cy="{cy}" r="4"/>' for cx, cy in drawn]
        across_end, down_end = drawn[-1]
        parts.append(f'<text x="{across_end + 10}" y="{down_end + 4}">{name} {last[place]:.0f} ms</text>')
    summary = "; ".join(f"{share:g} %: p50 {p50:.1f}, p99 {p99:.1f} ms" for share, _, p50, p99 in measured)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img">\n<title>Latency against load. {summary}</title>\n<style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
