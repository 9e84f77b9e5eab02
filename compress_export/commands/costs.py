"""`compress-export costs`: the layer times that plans have measured."""

from __future__ import annotations

import click

from compress_export.voice import SPOKEN, tell


@click.command("costs", short_help="List or remove measured layer times.")
@SPOKEN
@click.option("--clear", is_flag=True, help="Remove them: the next plan measures anew.")
def costs(clear: bool) -> None:
    """List the layer times that plans have measured, with the device and runtime they belong to."""
    from compress_export import layer_times_cache

    rows = layer_times_cache.rows()
    text = layer_times_cache.removed() if clear else layer_times_cache.listed()
    tell({"removed": rows} if clear else rows, lambda: click.echo(text))
