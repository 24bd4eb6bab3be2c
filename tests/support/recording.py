"""A recording of commands as an SVG whose lines appear when the commands printed them."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, LINE, MARGIN = 9.0, 21, 18
# Seconds that the animation takes at most; a longer run is shown faster.
LONGEST = 12.0
STYLE = (
    "text{font:15px ui-monospace,Menlo,Consolas,monospace;fill:#d8dee9;white-space:pre}"
    ".c{fill:#a3be8c;font-weight:bold}.l{animation:a .01s both}@keyframes a{from{opacity:0}to{opacity:1}}"
)


@dataclass(frozen=True)
class Line:
    """One line on the screen, ``seconds`` after the start."""

    seconds: float
    text: str
    is_command: bool = False


def record(commands: Iterable[tuple[str, Sequence[str]]], environment: Mapping[str, str], folder: Path) -> list[Line]:
    """Run commands, each with the text to show for it; each must end with 0."""
    start, lines = time.monotonic(), []
    for shown, argv in commands:
        lines.append(Line(time.monotonic() - start, f"$ {shown}", is_command=True))
        with subprocess.Popen(
            argv, env={**environment}, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child:
            assert child.stdout
            lines += [Line(time.monotonic() - start, text.rstrip("\n")) for text in child.stdout]
        assert child.returncode == 0, lines
    return lines


def render(lines: Sequence[Line]) -> str:
    """Return the recording as an SVG; a viewer without animations shows all lines."""
    speed = min(1.0, LONGEST / max(line.seconds for line in lines))
    width = 2 * MARGIN + max(len(line.text) for line in lines) * WIDTH
    height = 2 * MARGIN + len(lines) * LINE
    texts = [
        f'<text class="l{" c" if line.is_command else ""}" x="{MARGIN}" y="{MARGIN + LINE * number - 6}"'
        f' style="animation-delay:{line.seconds * speed:.2f}s">{escape(line.text)}</text>'
        for number, line in enumerate(lines, 1)
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">',
        f"<style>{STYLE}</style>",
        '<rect width="100%" height="100%" rx="8" fill="#2e3440"/>',
        *texts,
        "</svg>",
        "",
    ])  # fmt: skip


def words(svg: str) -> list[str]:
    """Return the lines of a recording without figures, which differ from run to run."""
    return [re.sub(r"[\d.:]+(m\d+(?=s))?", "0", text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
