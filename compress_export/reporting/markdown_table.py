"""Tables and lists in Markdown, with text from outside escaped."""

from __future__ import annotations

from collections.abc import Sequence

SPECIAL = {ord(character): f"&#{ord(character)};" for character in "\\|`<>*[]&"}


def escape(text: str) -> str:
    """Text from outside (names of files, layers and devices) as plain text inside Markdown."""
    return " ".join(text.translate(SPECIAL).split())


def bullets(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns of figures are right-aligned."""
    columns = zip(*rows, strict=True)
    rule = ["--:" if all(cell[:1].isdigit() for cell in column if cell) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
