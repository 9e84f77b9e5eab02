"""Faults of the phone, on request. A test sets the fields while the phone runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Faults:
    """None, False or 0 where nothing goes wrong.

    `offline`: connections are dropped and new ones not answered. `unauthorized`: nobody has pressed Allow.
    `unplug_after_bytes`: the cable is pulled when so many bytes of one push have come. `space_bytes`: room for so many
    bytes of each file. `bytes_per_second`: how fast pushes and pulls are. `answer_seconds`: how long each command
    waits before it begins. `unplug_after_seconds`, `kill_after_seconds` and `throttle_after_seconds` count from the
    start of a program that was pushed; a throttled one runs `throttle_share` of the time, and
    hangs with a share of 0.
    """

    offline: bool = False
    unauthorized: bool = False
    unplug_after_bytes: int | None = None
    space_bytes: int | None = None
    bytes_per_second: float | None = None
    answer_seconds: float = 0.0
    unplug_after_seconds: float | None = None
    kill_after_seconds: float | None = None
    throttle_after_seconds: float | None = None
    throttle_share: float = 0.4
