#!/usr/bin/env python3
"""Draws what a terminal showed as an SVG: `terminal_svg.py < session > terminal.svg`.

Reads text with the escape sequences of colours (SGR), one line a line; knows bold, dim and the eight colours. Nothing of
it runs in a browser: the picture is text in a box.
"""

import re
import sys
from html import escape

COLUMN, ROW, EDGE = 8.0, 19, 16
INK, PAPER = "#d8dee4", "#1c2128"
COLOURS = ["#484f58", "#ff7b72", "#57c26b", "#d9a73a", "#6cb6ff", "#d2a8ff", "#56d4dd", "#f0f6fc"]


def runs(line):
    """The line's pieces, each with its style."""
    bold, dim, colour = False, False, INK
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if not piece.startswith("\x1b"):
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]", "", piece)
            if text:
                yield text, bold, dim, colour
            continue
        for code in (int(code or 0) for code in piece[2:-1].split(";")):
            if code == 0:
                bold, dim, colour = False, False, INK
            elif code in (1, 2):
                bold, dim = bold or code == 1, dim or code == 2
            elif code == 22:
                bold, dim = False, False
            elif code == 39:
                colour = INK
            elif 30 <= code <= 37 or 90 <= code <= 97:
                colour = COLOURS[code % 10]


def drawn(session):
    lines = [list(runs(line)) for line in session.expandtabs().rstrip().splitlines()]
    columns = max([sum(len(text) for text, *_ in line) for line in lines] or [0])
    width, height = 2 * EDGE + columns * COLUMN, 2 * EDGE + len(lines) * ROW
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height}" '
           f'viewBox="0 0 {width:g} {height}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13">')
    yield f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>'
    for row, line in enumerate(lines):
        column = 0
        for text, bold, dim, colour in line:
            # each piece is as long as its columns, whatever the font
            style = (' font-weight="bold"' if bold else "") + (' opacity="0.6"' if dim else "")
            yield (f'<text x="{EDGE + column * COLUMN:g}" y="{EDGE + (row + 0.75) * ROW:g}" fill="{colour}"{style} '
                   f'textLength="{len(text) * COLUMN:g}" xml:space="preserve">{escape(text)}</text>')
            column += len(text)
    yield "</svg>"


print("\n".join(drawn(sys.stdin.read())))
