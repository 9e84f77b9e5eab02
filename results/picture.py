"""Draws the closing table of a run as docs/closing-table.svg: `python results/picture.py RUN_DIRECTORY`."""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from compress_export.reporting.gather import gather
from compress_export.reporting.terminal import show
from compress_export.run_directory import RunDirectory

if __name__ == "__main__":
    console = Console(record=True, width=100, file=io.StringIO())
    show(gather(RunDirectory(Path(sys.argv[1]))), console)
    drawing = console.export_svg(title="compress-export alexnet --data digits --target android")
    # A page must not fetch fonts from elsewhere; the viewer's own monospace font serves.
    drawing = re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL)
    Path("docs/closing-table.svg").write_text(drawing, encoding="utf-8")
