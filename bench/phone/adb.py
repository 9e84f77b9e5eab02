"""The real adb client as a subprocess: which phones there are, and commands, pushes and pulls on one of them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measurement import BenchError

LIST_SECONDS = 20.0
COMMAND_SECONDS = 30.0
# A phone on a slow cable takes 2 MB a second; half of that is a fault.
PUSH_SECONDS, PUSH_BYTES_PER_SECOND = 30.0, 1e6
STATES = {
    "unauthorized": "it has not allowed this computer: unlock it and press Allow in its dialog on USB debugging",
    "authorizing": "it is still asking for permission: unlock it and press Allow in its dialog on USB debugging",
    "offline": "adb has lost it: plug its cable in again, or run `adb reconnect offline`",
    "no permissions": "this user may not open its USB device: install android-sdk-platform-tools-common (Debian)",
    "recovery": "it is in recovery: start Android",
    "bootloader": "it is in its boot loader: start Android",
}
"""Cures for a phone that adb lists and cannot use."""


class PhoneLost(BenchError):
    """The phone went away in the middle: unplugged, offline, or its adb was restarted."""


@dataclass(frozen=True)
class Listed:
    """One line of `adb devices -l`; the phone can be used when `state` is "device"."""

    serial: str
    state: str
    model: str

    @property
    def ready(self) -> bool:
        return self.state == "device"

    @property
    def trouble(self) -> str:
        """The reason that it cannot be used, and the cure."""
        if self.state == "offline" and ":" in self.serial:
            return f"adb has lost it: {_again(self.serial)}"
        return STATES.get(self.state, f"its state is {self.state!r}: wait for it to start, or plug it in again")


@dataclass(frozen=True)
class Answer:
    """Exit status and output of a command on the phone."""

    status: int
    out: str
    err: str


def installed() -> bool:
    return shutil.which("adb") is not None


def listed() -> tuple[Listed, ...]:
    """Every phone that adb sees, usable or not, in the order of their serials. BenchError if there is no adb."""
    answer = _run(["devices", "-l"], LIST_SECONDS, "list its devices")
    if answer.status:
        raise BenchError(f"`adb devices` failed: {_last(answer.err or answer.out)}; try `adb kill-server`")
    # What is said about starting the server comes first.
    lines = answer.out.partition("List of devices attached")[2]
    phones = []
    for serial, state, rest in re.findall(r"^(\S+)[ \t]+(no permissions|\S+)(.*)$", lines, re.MULTILINE):
        model = re.search(r"\bmodel:(\S+)", rest)
        phones.append(Listed(serial, state, model[1].replace("_", " ") if model else ""))
    return tuple(sorted(phones, key=lambda phone: phone.serial))


def pick(serial: str | None = None) -> Listed:
    """The phone of that serial; else that of $ANDROID_SERIAL, else the only one.

    BenchError if there is none, if there are several to choose from, or if it cannot be used.
    """
    phones = listed()
    if not phones:
        raise BenchError(
            "no phone is connected: plug one in and allow USB debugging (Settings, Developer options), `adb connect` "
            "one on your network, or pass --device host"
        )
    chosen = single(phones, serial)
    if not chosen.ready:
        raise BenchError(f"phone {chosen.serial} is not ready ({chosen.state}): {chosen.trouble}")
    return chosen


def single(phones: Sequence[Listed], serial: str | None = None) -> Listed:
    """The phone of that serial or of $ANDROID_SERIAL; else the only usable one, else the only one."""
    wanted = serial or os.environ.get("ANDROID_SERIAL")
    names = ", ".join(f"{phone.serial} ({phone.model if phone.ready else phone.state})" for phone in phones)
    if wanted is not None:
        chosen = [phone for phone in phones if phone.serial == wanted]
    else:
        chosen = [phone for phone in phones if phone.ready] or list(phones)
    if not chosen:
        raise BenchError(f"there is no phone {wanted}; there are: {names}")
    if len(chosen) > 1:
        raise BenchError(f"{len(chosen)} phones are connected: {names}; pass --serial with one of these")
    return chosen[0]


@dataclass(frozen=True)
class Phone:
    """One phone. Every call names its serial, so that no other phone is ever touched."""

    serial: str

    def shell(self, command: str, seconds: float = COMMAND_SECONDS) -> Answer:
        """Runs a command line of the phone's shell to its end. PhoneLost if the phone goes away.

        adb's own exit status is 0 when the cable is pulled: only the last line, written by the phone, says the end.
        """
        words = ["-s", self.serial, "shell", f"{{ {command}\n}}\necho status=$?"]
        answer = _run(words, seconds, f"run `{_short(command)}`")
        body, mark, status = answer.out.rstrip().rpartition("status=")
        if not mark or not status.isdigit():
            self.check(f"`{_short(command)}`")
            raise BenchError(
                f"phone {self.serial} did not end `{_short(command)}`: {_last(answer.err) or 'no reason given'}"
            )
        return Answer(int(status), body, answer.err)

    def read(self, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """The output of a command. BenchError if it fails."""
        answer = self.shell(command, seconds)
        if answer.status:
            raise BenchError(
                f"`{_short(command)}` failed on phone {self.serial} with status {answer.status}: {_last(answer.err)}"
            )
        return answer.out

    def start(self, command: str, seconds: float, what: str) -> Answer:
        """Runs a command as it stands, for one that takes the shell's place by `exec`. BenchError after `seconds`."""
        return _run(["-s", self.serial, "shell", command], seconds, what)

    def push(self, local: Path, remote: str) -> None:
        """Copies a file to the phone; folders are made. PhoneLost, or BenchError with the phone's own words."""
        size = local.stat().st_size
        seconds = PUSH_SECONDS + size / PUSH_BYTES_PER_SECOND
        self._copy(["push", str(local), remote], seconds, f"push {local.name} ({size / 1e6:.1f} MB)")

    def pull(self, remote: str, local: Path) -> None:
        """Copies a file from the phone."""
        self._copy(["pull", remote, str(local)], PUSH_SECONDS, f"pull {remote}")

    def _copy(self, words: list[str], seconds: float, what: str) -> None:
        answer = _run(["-s", self.serial, *words], seconds, what)
        if answer.status == 0:
            return
        self.check(what)
        said = answer.err + answer.out
        reason = re.search(r"(?:.*remote |error: )([^\n]*)$", said, re.MULTILINE)
        cure = "; free some space on it" if "No space left" in said else ""
        raise BenchError(f"phone {self.serial} would not {what}: {reason[1] if reason else _last(said)}{cure}")

    def check(self, during: str) -> None:
        """PhoneLost if the phone is not there any more."""
        answer = _run(["-s", self.serial, "get-state"], LIST_SECONDS, "ask for the phone's state")
        if answer.out.strip() != "device":
            raise PhoneLost(
                f"phone {self.serial} went away during {during} ({_last(answer.err) or answer.out.strip()}); "
                f"{_again(self.serial)} and run the same command: what it holds already is not pushed again"
            )


def _again(serial: str) -> str:
    """The cure for a lost phone. Of one on the network adb says "already connected" until it is made to forget it."""
    if ":" in serial:
        return f"connect it again (`adb disconnect {serial}`, then `adb connect {serial}`)"
    return "plug it in again"


def quote(*words: str) -> str:
    """Words as one command line of the phone's shell."""
    return shlex.join(words)


def _run(words: list[str], seconds: float, what: str) -> Answer:
    program = shutil.which("adb")
    if program is None:
        raise BenchError(
            "a phone is measured through adb, and there is no such program: `apt-get install adb` (Debian), "
            "`brew install android-platform-tools` (macOS)"
        )
    try:
        # A session of its own: Ctrl-C reaches this process alone, which still has to clean up with adb.
        done = subprocess.run(
            [program, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(
            f"adb had {seconds:.0f} s to {what} and did not; look at the phone's screen and cable, then run the same "
            "command again"
        ) from None
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else ""


def _short(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
