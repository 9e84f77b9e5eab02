"""`python -m compress_export` is the command `compress-export`."""

from compress_export.cli.main import main

main()
