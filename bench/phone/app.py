"""Two places for a phone's files: inside the installed app, and its code without an app, started by `app_process`."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.measurement import BenchError, Device, Measurement, NotMeasured, Schedule, from_line
from bench.phone.adb import COMMAND_SECONDS, Phone, quote
from bench.phone.places import OUTPUTS, PhoneFile, Session, death
from bench.phone.storage import HOME, KEPT, Parcel, kept
from bench.runner import bundle as bundles
from bench.runner.bundle import AppBundle, Build, open_app_bundle
from bench.runner.protocol import RunnerAnswer, mask_of
from exporters.artifact import Artifact
from exporters.formats import FORMATS

SCHEMA = 1


@dataclass(frozen=True)
class AppPlan:
    """One file to measure, once. Places are relative to the plan's folder; `cores` is a mask, None is not pinned."""

    artifact: Artifact
    file: str
    images: tuple[str, ...]
    cores: str | None
    reference: str | None
    outputs: str | None
    schedule: Schedule
    device: Device
    session: str
    turn: int
    measured_at: str

    def to_json(self) -> str:
        """The plan as the app reads it."""
        own = self.artifact
        fields = {
            "schema": SCHEMA,
            "name": own.path.name,
            "file": self.file,
            "images": self.images,
            "network": own.network,
            "format": own.format,
            "sha256": own.sha256,
            "bytes": own.bytes,
            "cores": self.cores,
            "golden": self.reference,
            "answers": self.outputs,
            "session": self.session,
            "turn": self.turn,
            "input_shape": own.input,
            "runtime": FORMATS[own.format].runtime,
            "measured_at": self.measured_at,
            "schedule": asdict(self.schedule),
            "device": asdict(self.device),
        }
        return json.dumps(fields, indent=1) + "\n"


def read_answer(text: str, name: str) -> RunnerAnswer:
    """The answer in the row that the process left. BenchError with the app's words if it measured nothing, or if this
    is no row."""
    try:
        fields = json.loads(text)
        if "error" in fields:
            raise BenchError(f"{name} was not measured: {fields['error']}")
    except (ValueError, TypeError) as error:
        said = " ".join(text.split())[:200] or "nothing"
        raise BenchError(f"{name} was not measured: the app did not leave a row, but {said}") from error
    row = from_line(text, f"the app's answer for {name}")
    if isinstance(row, NotMeasured):
        raise BenchError(f"{name} was not measured: {row.reason}")
    if not isinstance(row, Measurement):
        raise BenchError(f"{name} was not measured: the app left a row of {type(row).__name__}; install it anew")
    return RunnerAnswer(
        engine=row.runtime,
        engine_version=row.runtime_version,
        model_bytes=row.bytes,
        threads=row.threads,
        cores="" if row.pinned_cores is None else mask_of(row.pinned_cores),
        load_ms=row.load_ms,
        first_ms=row.first_ms,
        samples_ms=row.samples_ms,
        output_shape=(),
        outputs=None,
        memory=row.memory,
        core_before=None,
        core_after=None,
        mhz_before=row.mhz_before,
        mhz_after=row.mhz_after,
        preemptions=row.preemptions,
    )


ACTIVITY = "compressexport.app.RunActivity"
MAIN = "compressexport.core.Main"
INSTALL_SECONDS = 300.0
COPY_BYTES_PER_SECOND = 1e7
OWN, OWN_OUTPUTS = "files/bench", "answers.raw"
"""The folder in the app's own storage: a copy of the store's `files` and `images`, the plan and the row."""


@dataclass(frozen=True)
class InApp:
    """The place inside the installed app: a process as the phone schedules apps, with the runtimes that apps ship."""

    bundle: AppBundle
    process: str = "app"
    note: str = "run inside an app"
    wants_reference: bool = True

    @staticmethod
    def open(path: Path | None = None) -> InApp:
        """The apps of the bundle at `path`. BenchError if there is no whole one."""
        return InApp(open_app_bundle(path or bundles.APP_ROOT))

    @property
    def formats(self) -> AbstractSet[str]:
        return {form for build in self.bundle.apks.values() for form in build.engines}

    def foreign(self, form: str) -> str:
        return _no_engine(form)

    def parcels(self, formats: AbstractSet[str]) -> list[Parcel]:
        """The apps that have engines for these formats."""
        names = sorted({self._app(form).file for form in formats})
        return kept(self.bundle.path, {name: self.bundle.files[name] for name in names})

    def prepare(self, phone: Phone, formats: AbstractSet[str]) -> None:
        """Installs the apps that are not installed in this very build, and removes what a measurement that was cut
        short left in them: half a file, or the outputs of other images. BenchError with Android's own words."""
        for app in {self._app(form).file: self._app(form) for form in sorted(formats)}.values():
            mark = f"{HOME}/{KEPT}{app.file}.installed"
            sha256 = self.bundle.files[app.file].sha256
            found = phone.read(f"pm path {app.package}; cat {mark} 2>/dev/null; true")
            if "package:" not in found or sha256 not in found:
                installed = phone.shell(f"pm install -r -t {HOME}/{KEPT}{app.file} 2>&1", INSTALL_SECONDS)
                if "Success" not in installed.out:
                    raise BenchError(
                        f"phone {phone.serial} would not install {app.file}: "
                        f"{' '.join(installed.out.split()) or 'no reason'}; `adb -s {phone.serial} uninstall "
                        f"{app.package}` removes an older one of another key"
                    )
                phone.read(f"echo {sha256} >{mark}")
            _empty(phone, app)

    def run(self, session: Session, file: PhoneFile, turn: int, schedule: Schedule) -> RunnerAnswer:
        """Starts the app anew for this file, waits for its row, and brings its outputs to the store.

        BenchError if the app ends without a row, or takes too long. PhoneLost if the phone goes away.
        """
        phone, package = session.phone, self._app(file.artifact.format).package
        inside, name = f"run-as {package}", f"{file.name} on phone {session.phone.serial}"
        _send_plan(session, file, turn, schedule, OWN_OUTPUTS)
        phone.read(f"am force-stop {package}; {inside} mkdir -p {OWN}/files {OWN}/images")
        wanted = (file.place, f"{file.place}.reference", *file.images)
        seconds = COMMAND_SECONDS + file.artifact.bytes / COPY_BYTES_PER_SECOND
        # The store's files are copied to the app's own storage, unless an earlier turn has.
        copied = "\n".join(
            f"{inside} test -s {target} || cat {source} | {inside} sh -c {quote(f'cat >{target}')} || exit 1"
            for target, source in ((quote(f"{OWN}/{own}"), quote(f"{HOME}/{own}")) for own in wanted)
        )
        phone.read(f"{copied}\n{inside} rm -f {OWN}/result.json", seconds)
        phone.read(f"cat {HOME}/plan.json | {inside} sh -c {quote(f'cat >{OWN}/plan.json')}")
        started = phone.shell(f"am start -W -n {package}/{ACTIVITY} --es plan {OWN}/plan.json 2>&1")
        if started.status or "Error" in started.out:
            raise BenchError(f"phone {phone.serial} would not start the app: {' '.join(started.out.split())}")
        limit = schedule.process_seconds
        # The row once it is there; nothing if the process ends without one, or the time is up. One look a second, in
        # the phone's own shell: adb would wake more of it.
        wait = (
            f"n=0; while [ $n -lt {limit:.0f} ] && pidof {package} >/dev/null && "
            f"! {inside} test -e {OWN}/result.json; do sleep 1; n=$((n+1)); done; "
            f"{inside} cat {OWN}/result.json 2>/dev/null; true"
        )
        row = phone.read(wait, limit + COMMAND_SECONDS)
        if not row.strip():
            raise BenchError(f"{name} was not measured: {_ended(phone, package)}")
        answer = read_answer(row, name)
        phone.read(f"mkdir -p {HOME}/answers && {inside} cat {OWN}/{OWN_OUTPUTS} >{HOME}/{OUTPUTS}", seconds)
        return answer

    def clear(self, phone: Phone) -> None:
        """Ends the apps and removes their copies; the apps stay for the next time."""
        for app in self.bundle.apks.values():
            _empty(phone, app)

    def _app(self, form: str) -> Build:
        app = self.bundle.apk(form)
        if app is None:
            raise BenchError(_no_engine(form))
        return app


@dataclass(frozen=True)
class AppProcess:
    """The place of the app's code and runtimes without an installed app: Android's `app_process`, from the shell."""

    bundle: AppBundle
    process: str = "app_process"
    note: str = "run by the adb shell with the app's code and runtimes (app_process)"
    wants_reference: bool = True

    @staticmethod
    def open(path: Path | None = None) -> AppProcess:
        """The lane of the bundle at `path`. BenchError if there is no whole one."""
        return AppProcess(open_app_bundle(path or bundles.APP_ROOT))

    @property
    def formats(self) -> AbstractSet[str]:
        return self.bundle.lane.engines.keys()

    def foreign(self, form: str) -> str:
        return _no_engine(form)

    def parcels(self, formats: AbstractSet[str]) -> list[Parcel]:
        """The dexed code and the runtimes' libraries."""
        del formats
        own = {name: file for name, file in self.bundle.files.items() if name.startswith(f"{self.bundle.lane.file}/")}
        return kept(self.bundle.path, own)

    def prepare(self, phone: Phone, formats: AbstractSet[str]) -> None:
        """Nothing: what was pushed can be run."""

    def run(self, session: Session, file: PhoneFile, turn: int, schedule: Schedule) -> RunnerAnswer:
        """Runs the file once more in a process of its own. BenchError if it ends without a row."""
        phone, lane = session.phone, f"{HOME}/{KEPT}{self.bundle.lane.file}"
        name = f"{file.name} on phone {phone.serial}"
        _send_plan(session, file, turn, schedule, OUTPUTS)
        words = [f"-Djava.library.path={lane}", "/system/bin", MAIN, "plan.json", "answers/result.json"]
        line = f"export CLASSPATH={lane}/core.jar LD_LIBRARY_PATH={lane} && exec app_process {quote(*words)}"
        phone.read(f"cd {HOME} && mkdir -p answers && rm -f answers/result.json")
        ended = phone.start(f"cd {HOME} && echo $$ >pid && {line}", schedule.process_seconds, f"run {name}")
        phone.check(f"the run of {file.name}")
        row = phone.read(f"cat {HOME}/answers/result.json 2>/dev/null; true")
        if not row.strip():
            raise BenchError(f"{name} was not measured: {death(ended)}")
        return read_answer(row, name)

    def clear(self, phone: Phone) -> None:
        """Nothing: everything lies in the store."""


def _empty(phone: Phone, app: Build) -> None:
    """Ends the app and removes its copies, if it is installed."""
    phone.read(f"am force-stop {app.package}; run-as {app.package} rm -rf {OWN} 2>/dev/null; true")


def _send_plan(session: Session, file: PhoneFile, turn: int, schedule: Schedule, outputs: str) -> None:
    """Writes the plan for one process to the store; its outputs go to `outputs`, beside the plan that it reads."""
    mask = None if file.cores is None else mask_of(file.cores)
    where = (file.place, file.images, mask, f"{file.place}.reference", outputs)
    plan = AppPlan(file.artifact, *where, schedule, session.device, session.name, turn, session.measured_at)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        local = Path(folder) / "plan.json"
        local.write_text(plan.to_json(), encoding="utf-8")
        session.phone.push(local, f"{HOME}/plan.json")


def _ended(phone: Phone, package: str) -> str:
    """A sentence on the app that left no row: still at work, killed, or crashed with words in the log."""
    if phone.read(f"pidof {package}; true").strip():
        return "the app is still at work; raise the limit with --cap, or measure a smaller file"
    log = phone.read("logcat -d -t 200 -b crash,main 2>/dev/null; true")
    said = re.findall(r"(?:FATAL|AndroidRuntime|lowmemorykiller|libc\s*: Fatal)[^\n]*", log)
    words = f"the log's last word is {said[-1].strip()!r}" if said else "the log says nothing of it"
    return f"the app ended without a row ({words}); Android does that when memory runs out: close apps"


def _no_engine(form: str) -> str:
    return (
        f"this build of the app has no engine for {FORMATS[form].title} files; docs/android.md says which builds have "
        "which"
    )
