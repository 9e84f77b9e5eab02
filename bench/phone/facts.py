"""Facts of a phone and how warm it is: model, chip, Android, clusters of cores, battery, thermal status.

Unknown is None, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.measurement import BenchError, Device
from bench.phone.adb import Phone

ABI = "arm64-v8a"
LEAST_SDK = 24  # Android 7 is the first whose adbd tells exit status and streams apart
CPU = "/sys/devices/system/cpu"
NAMES = {0: (), 1: ("big",), 2: ("little", "big"), 3: ("little", "middle", "big")}
QUESTIONS = {
    "properties": "getprop",
    "clocks": f'grep -H "" {CPU}/cpu[0-9]*/cpufreq/cpuinfo_max_freq',
    "present": f"cat {CPU}/present",
    "memory": "grep MemTotal /proc/meminfo",
    "page": "getconf PAGE_SIZE",
    "kernel": "uname -r",
}


@dataclass(frozen=True)
class Cluster:
    """Cores of one top frequency. `name` is big, middle or little; several middle ones share the name."""

    name: str
    mhz: float
    cores: tuple[int, ...]


@dataclass(frozen=True)
class Warmth:
    """Temperature of the phone. `status` is Android's thermal status, 0 (none) to 6 (shutdown), from Android 10 on."""

    status: int | None
    battery_celsius: float | None
    battery_percent: int | None


@dataclass(frozen=True)
class Facts:
    """Facts that do not change while the phone is measured."""

    serial: str
    model: str
    soc: str
    android: str
    sdk: int
    abis: tuple[str, ...]
    cores: int
    clusters: tuple[Cluster, ...]
    memory_kb: int | None
    page_bytes: int | None
    kernel: str

    @property
    def device(self) -> Device:
        """The phone as a measurement names it."""
        groups = " + ".join(f"{len(cluster.cores)}x{cluster.mhz:.0f} MHz" for cluster in self.clusters)
        return Device(
            kind="phone",
            name=self.model,
            cpu=f"{self.soc}, {groups}" if groups else self.soc,
            cores=self.cores,
            os=f"Android {self.android} (SDK {self.sdk}), Linux {self.kernel}",
            memory_kb=self.memory_kb,
            serial=self.serial,
            page_bytes=self.page_bytes,
        )


def read_facts(phone: Phone) -> Facts:
    """The phone's facts, read once. BenchError if nothing here can run on it."""
    # What the shell may not read on one phone or another is an empty answer, not an error.
    commands = "\n".join(f"echo '== {name}'; {command} 2>/dev/null" for name, command in QUESTIONS.items())
    output = phone.read(f"{commands}\ntrue")
    answers = dict(re.findall(r"^== (\w+)\r?\n(.*?)(?=^== |\Z)", output, re.MULTILINE | re.DOTALL))
    properties = dict(re.findall(r"^\[(.*?)\]: \[(.*?)\]\r?$", answers.get("properties", ""), re.MULTILINE))
    clocks = {int(core): int(khz) for core, khz in re.findall(r"/cpu(\d+)/\S+?:(\d+)", answers.get("clocks", ""))}
    memory, page = re.search(r"(\d+) kB", answers.get("memory", "")), answers.get("page", "").strip()
    facts = Facts(
        serial=phone.serial,
        model=" ".join(filter(None, (properties.get("ro.product.manufacturer"), properties.get("ro.product.model")))),
        soc=properties.get("ro.soc.model") or properties.get("ro.board.platform") or "unknown chip",
        android=properties.get("ro.build.version.release", "unknown"),
        sdk=int(properties.get("ro.build.version.sdk", "0")),
        abis=tuple(filter(None, properties.get("ro.product.cpu.abilist", "").split(","))),
        cores=_count(answers.get("present", "")) or len(clocks) or 1,
        clusters=group(clocks),
        memory_kb=int(memory[1]) if memory else None,
        page_bytes=int(page) if page.isdigit() else None,
        kernel=answers.get("kernel", "").strip(),
    )
    if facts.sdk < LEAST_SDK:
        raise BenchError(
            f"phone {facts.serial} runs Android {facts.android} (SDK {facts.sdk}); its adb needs SDK {LEAST_SDK} "
            "(Android 7) or later; take a newer phone"
        )
    if ABI not in facts.abis:
        raise BenchError(
            f"phone {facts.serial} ({facts.model}) runs {', '.join(facts.abis) or 'unknown'} programs only; the runner "
            f"is a 64-bit one and needs {ABI}; take another phone, or pass --device host"
        )
    return facts


def group(khz: dict[int, int]) -> tuple[Cluster, ...]:
    """Clusters from each core's top frequency, slowest first."""
    clocks = sorted(set(khz.values()))
    names = NAMES.get(len(clocks), ("little", *["middle"] * (len(clocks) - 2), "big"))
    return tuple(
        Cluster(name, clock / 1000, tuple(sorted(core for core, top in khz.items() if top == clock)))
        for name, clock in zip(names, clocks, strict=True)
    )


def pick_cores(facts: Facts, wanted: str | None, threads: int) -> tuple[int, ...] | None:
    """The cores that `wanted` means: big, middle, little, or a hexadecimal mask such as f0. None: not pinned.

    Without a wish the fastest clusters that have a core for each thread; None only where the phone does not tell its
    clusters. BenchError for a cluster or a core that is not there, or fewer cores than threads.
    """
    if wanted is None:
        fastest: tuple[int, ...] = ()
        for cluster in reversed(facts.clusters):
            fastest = tuple(sorted((*fastest, *cluster.cores)))
            if len(fastest) >= threads:
                return fastest
        if facts.clusters:
            raise BenchError(f"one core for each thread: phone {facts.serial} has {facts.cores} cores; lower --threads")
        return None
    if wanted in NAMES[3]:
        cores = tuple(sorted(core for cluster in facts.clusters if cluster.name == wanted for core in cluster.cores))
        if not cores:
            groups = "; ".join(f"{each.name}: {', '.join(map(str, each.cores))}" for each in facts.clusters)
            raise BenchError(
                f"phone {facts.serial} has no {wanted} cores ({groups or 'it does not tell its clusters'}); pass "
                "another name or a hexadecimal mask such as f0"
            )
    else:
        mask = int(wanted, 16) if re.fullmatch(r"(0[xX])?[0-9a-fA-F]+", wanted) else 0
        cores = tuple(core for core in range(mask.bit_length()) if mask >> core & 1)
        if not cores or cores[-1] >= facts.cores:
            raise BenchError(
                f"--cores takes big, middle, little or a hexadecimal mask of cores 0 to {facts.cores - 1} of phone "
                f"{facts.serial}, not {wanted!r}"
            )
    if len(cores) < threads:
        listed = ", ".join(map(str, cores))
        raise BenchError(
            f"one core for each thread: {threads} threads, but --cores {wanted} is {len(cores)} on phone "
            f"{facts.serial} ({listed}); lower --threads, or name more cores by a mask"
        )
    return cores


def _count(present: str) -> int:
    """ "0-7" and "0-3,6" as numbers of cores."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", present)
    return sum(int(last or first) - int(first) + 1 for first, last in spans)


def read_warmth(phone: Phone) -> Warmth:
    """The phone's temperature now."""
    text = phone.read("dumpsys battery 2>/dev/null; dumpsys thermalservice 2>/dev/null; true")
    status = re.search(r"^Thermal Status: (\d+)", text, re.MULTILINE)
    tenths = re.search(r"^\s*temperature: (-?\d+)", text, re.MULTILINE)
    level = re.search(r"^\s*level: (\d+)", text, re.MULTILINE)
    return Warmth(
        status=int(status[1]) if status else None,
        battery_celsius=int(tenths[1]) / 10 if tenths else None,
        battery_percent=int(level[1]) if level else None,
    )
