"""The simulated ARM CPU: what is missing is named; counts are right, repeat exactly, and see what a cache misses."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from bench_files import IMAGES, SIZE, onnx_file

from bench.measurement import Allocations, BenchError, Counts, Traffic
from bench.runner.bundle import Bundle, Program, open_bundle
from bench.runner.protocol import RunnerAnswer
from bench.simulator import build as builder
from bench.simulator import emulator as emulators
from bench.simulator.build import CLOCK, PARTS, PLUGIN, build, main
from bench.simulator.cores import Cache, read_cores, write_root
from bench.simulator.emulator import Emulator, Machine, Trace, command, find, trace

TINY = Path(__file__).parents[1] / "files" / "tiny.pte"
CORES = read_cores()
SHAPE = f"1x3x{SIZE}x{SIZE}"


def test_a_guest_is_shown_the_core_that_it_runs_on(tmp_path: Path) -> None:
    write_root(CORES["cortex-a53"], tmp_path)
    told = (tmp_path / "proc/cpuinfo").read_text()
    assert "CPU part\t: 0xd03\n" in told
    assert " asimd " in told
    assert "asimddp" not in told
    assert (tmp_path / "sys/devices/system/cpu/present").read_text() == "0\n"
    assert "Vm" not in (tmp_path / "proc/self/status").read_text()
    assert (tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text() == "1200000\n"


@pytest.mark.parametrize("core", CORES.values(), ids=list(CORES))
def test_caches_are_whole_numbers_of_sets(core: object) -> None:
    for cache in (core.l1, core.l2):  # type: ignore[attr-defined]  # a Core
        assert cache.bytes % (core.line * cache.ways) == 0  # type: ignore[attr-defined]  # a Core


def test_counts_subtract_and_sum() -> None:
    late, early = Counts(10, 20, 30, 40, 50, 600, 700), Counts(1, 2, 3, 4, 5, 6, 7)
    assert late - early == Counts(9, 18, 27, 36, 45, 594, 693)
    assert early.instructions == 15
    assert Traffic(64, 9, 5, 2).memory_bytes == 64 * 7
    assert Allocations(start=100, peak=350, mapped_peak=9).model_peak == 250


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_missing_emulator_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="runs in QEMU, and qemu-aarch64 is missing: apt-get install qemu-user"):
        find()


@pytest.mark.parametrize(
    ("said", "text"),
    [("qemu-aarch64 version 5.2.0", "is version 5.2.0: apt-get install"), ("hello", "is one of no known version")],
)
def test_an_emulator_that_is_too_old_is_refused(
    said: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, "qemu-aarch64", f"echo '{said}'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(BenchError) as error:
        find()
    assert "needs QEMU 7.2 or later" in str(error.value)
    assert text in str(error.value)


@pytest.mark.slow
def test_a_counter_that_is_not_built_or_not_ours_names_the_command(
    runner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner.exists()  # its compilers are there
    script(tmp_path, "qemu-aarch64", "echo 'qemu-aarch64 version 7.2.22'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(BenchError, match="counter is not built; build it with `make runner`"):
        find(tmp_path / "none")
    assert find(build(tmp_path / "own")).version == "7.2.22"
    (tmp_path / "own" / "count.so").write_bytes(b"another")
    with pytest.raises(BenchError, match=r"counter in .* is not built from these sources; build it with `make runner`"):
        find(tmp_path / "own")


def test_the_simulator_needs_compilers_and_sources_that_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "count.c"
    broken.write_text("no C")
    parts = {PLUGIN: replace(PARTS[PLUGIN], source=broken), CLOCK: replace(PARTS[CLOCK], compiler="gcc")}
    monkeypatch.setattr(builder, "PARTS", parts)
    with pytest.raises(BenchError, match=r"the simulator's count.c does not compile:\n.*count.c"):
        build(tmp_path / "out")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main() == 1
    assert capsys.readouterr().err == (
        "simulator: the simulator's count.c is compiled with gcc, and it is missing: apt-get install g++\n"
    )


def machine_of(folder: Path) -> Machine:
    bundle = Bundle(folder, "aarch64", "", "", {"pte": Program("run_pte", "executorch", "1.5.1")}, {})
    return Machine(Emulator("/usr/bin/qemu-aarch64", "7.2.22", folder), bundle, CORES["cortex-a76"])


def test_nothing_in_the_command_depends_on_the_place() -> None:
    words = command(machine_of(Path("/x")), "pte", 4, SHAPE)
    assert words[:3] == ["setarch", "-R", "taskset"]
    text = " ".join(words)
    assert (
        "-cpu cortex-a76 -seed 0 -L root -plugin ./count.so,out=counts,l1=65536:4,l2=524288:8,line=64,from=2," in text
    )
    assert "--library-path bundle/lib --preload ./clock.so bundle/run_pte" in text
    assert f"--model model --input image0 --input image1 --input image2 --input image3 --shape {SHAPE}" in text
    assert text.endswith("--warmup-runs 0 --warmup-seconds 0 --min-runs 0 --min-seconds 0")
    assert "from=1" in " ".join(command(machine_of(Path("/x")), "pte", 1, SHAPE))
    assert command(machine_of(Path("/x")), "pte", 1, SHAPE)[-3] == "2"
    assert "-plugin" not in command(machine_of(Path("/x")), "pte", 4, SHAPE, "plain")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("exec sleep 60", "a.pte was not simulated: it may take 0.5 s, and took longer; take a smaller network"),
        ("echo out of luck >&2; kill -11 $$", "killed by SIGSEGV; its last line was 'out of luck'"),
        ("exit 3", "ended with exit status 3; it said nothing; look whether `make runner`"),
        ("""echo '{"error": "no such layer"}'""", "a.pte was not measured: no such layer"),
    ],
)
def test_a_program_that_fails_is_told_in_a_sentence(
    body: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, "guest", body)
    monkeypatch.setattr(emulators, "command", lambda *_arguments: [str(tmp_path / "guest")])
    with pytest.raises(BenchError) as error:
        trace(machine_of(tmp_path), "pte", Path("a.pte"), [], SHAPE, 0.5)
    assert text in str(error.value)


def test_counts_of_several_threads_are_refused() -> None:
    mark = {"threads": 2, **dict.fromkeys(("vector", "load", "store", "branch", "other"), 0)}
    lines = "\n".join(json.dumps({"phase": phase, **mark}) for phase in (1, 2, 3, 4, 5))
    answer: RunnerAnswer = None  # type: ignore[assignment]  # the marks are looked at first
    with pytest.raises(BenchError, match="the runner started 2 threads, and counts are exact for one only; look at"):
        emulators._trace(answer, lines, CORES["cortex-a76"])


# What follows builds and runs real programs.

PROGRAM = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#define MARK(phase) prctl(0x43450000 + (phase), 0, 0, 0, 0)
/* Every line of the buffer once: 2 loads of 16 bytes, 1 vector, 1 store of 16 bytes and 4 others in each turn. */
static void walk(char *at, long lines)
{
    __asm__ volatile("mov x9, %0\n mov x10, %1\n"
                     "1: ldp q0, q1, [x9]\n fadd v0.4s, v0.4s, v1.4s\n str q0, [x9, #32]\n add x9, x9, #64\n"
                     "subs x10, x10, #1\n b.ne 1b\n" : : "r"(at), "r"(lines) : "x9", "x10", "v0", "v1", "memory", "cc");
}
int main(void)
{
    long lines = 4096;
    char *buffer = mmap(0, 64 * lines, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(buffer, 0, 64 * lines);
    MARK(1);
    char *more = mmap(0, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(more, 8 << 20);
    MARK(2);
    MARK(3);
    for (int turn = 0; turn < 2; turn++) {
        MARK(4);
        walk(buffer, lines);
        MARK(5);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def walker(runner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of known counts: 4096 turns of six instructions over 256 kB, twice."""
    assert runner.exists()
    folder = tmp_path_factory.mktemp("walker")
    (folder / "walk.c").write_text(PROGRAM)
    words = ["aarch64-linux-gnu-gcc", "-O1", "-static", "-o", str(folder / "walk"), str(folder / "walk.c")]
    subprocess.run(words, check=True)
    return folder / "walk"


def walk(walker: Path, folder: Path, l1: Cache, l2: Cache) -> list[dict[str, int]]:
    caches = f"l1={l1.bytes}:{l1.ways},l2={l2.bytes}:{l2.ways},line=64,from=1,most=1000000000"
    plugin = f"{find().plugin},out={folder / 'counts'},{caches}"
    subprocess.run(["setarch", "-R", "qemu-aarch64", "-plugin", plugin, str(walker)], check=True)
    return [json.loads(line) for line in (folder / "counts").read_text().splitlines()]


@pytest.mark.slow
def test_instructions_and_bytes_of_a_known_loop_are_counted(walker: Path, tmp_path: Path) -> None:
    marks = walk(walker, tmp_path, Cache(32768, 4), Cache(524288, 16))
    assert [mark["phase"] for mark in marks] == [1, 2, 3, 4, 5, 4, 5]
    begin, end = marks[-2], marks[-1]
    spent = {name: end[name] - begin[name] for name in begin}
    # The calls around the loop add a few instructions; the loop has 4096 turns.
    assert (spent["vector"], spent["load"] // 4096, spent["store"] // 4096) == (4096, 1, 1)
    assert spent["branch"] - 4096 < 20
    assert spent["other"] - 2 * 4096 < 60
    assert spent["load_bytes"] - 32 * 4096 < 400
    assert spent["store_bytes"] - 16 * 4096 < 400
    assert all(mark["threads"] == 1 for mark in marks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("l1", "l2", "first", "second", "written"),
    [
        (32768, 524288, 4096, 4096, 0),  # the second level holds all 256 kB: the second walk does not leave it
        (524288, 1048576, 4096, 0, 0),  # the first level holds them
        (32768, 131072, 4096, 4096, 4096),  # neither does: every line comes and goes again
    ],
)
def test_the_caches_miss_what_does_not_fit(
    walker: Path, tmp_path: Path, l1: int, l2: int, first: int, second: int, written: int
) -> None:
    marks = walk(walker, tmp_path, Cache(l1, 4), Cache(l2, 16))
    cold, warm = marks[4], marks[6]
    assert cold["l1_misses"] == pytest.approx(first, abs=40)
    assert warm["l1_misses"] - marks[5]["l1_misses"] == pytest.approx(second, abs=40)
    in_memory = warm["l2_misses"] - marks[5]["l2_misses"]
    assert in_memory == pytest.approx(4096 if written else 0, abs=40)
    assert warm["l2_written_back"] - marks[5]["l2_written_back"] == pytest.approx(written, abs=40)


@pytest.mark.slow
def test_memory_that_was_given_back_is_in_the_peak_alone(walker: Path, tmp_path: Path) -> None:
    start, loaded = walk(walker, tmp_path, Cache(32768, 4), Cache(524288, 16))[:2]
    assert loaded["anonymous"] == start["anonymous"]
    assert loaded["anonymous_peak"] - start["anonymous"] == 8 << 20


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / str(place) for place in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        path.write_bytes(image.tobytes())
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_counts_repeat_exactly(runner: Path, images: list[Path], core: str, tmp_path: Path) -> None:
    machine = Machine(find(), open_bundle("aarch64", runner), CORES[core])
    elsewhere = tmp_path / "a place with a much longer name" / "model.pte"
    elsewhere.parent.mkdir()
    shutil.copy(TINY, elsewhere)
    one, two = (trace(machine, "pte", path, images, SHAPE, 60) for path in (TINY, elsewhere))
    assert replace(one, answer=two.answer) == two
    assert one.run.vector > 4 * 3 * 9 * 14 * 14 / 4  # each computes four multiplications at most
    assert one.traffic is not None
    assert one.traffic.l2_misses <= one.traffic.l1_misses


@pytest.mark.slow
def test_the_programs_clock_is_not_the_machines(runner: Path, images: list[Path]) -> None:
    machine = Machine(find(), open_bundle("aarch64", runner), CORES["cortex-a76"])
    one, two = (trace(machine, "pte", TINY, images, SHAPE, 60).answer for _ in range(2))
    # A microsecond for every look at the clock, whatever the machine is doing.
    assert (one.load_ms, one.first_ms) == (two.load_ms, two.first_ms)
    assert one.first_ms < 0.1


@pytest.mark.slow
def test_the_program_does_not_see_the_emulators_memory(runner: Path, images: list[Path]) -> None:
    machine = Machine(find(), open_bundle("aarch64", runner), CORES["cortex-a76"])
    memory = trace(machine, "pte", TINY, images, SHAPE, 60).answer.memory
    assert (memory.start.resident, memory.end.peak, memory.end.proportional) == (None, None, None)


@pytest.mark.slow
def test_a_run_that_is_too_long_is_not_looked_at(
    runner: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(find(), open_bundle("aarch64", runner), CORES["cortex-a76"])
    whole: Trace = trace(machine, "pte", TINY, images, SHAPE, 60)
    monkeypatch.setattr(emulators, "MOST_INSTRUCTIONS", 1000)
    quick = trace(machine, "pte", TINY, images, SHAPE, 60)
    assert quick.traffic is None
    assert quick.run == whole.run


@pytest.mark.slow
def test_four_times_the_channels_are_many_times_the_vectors(runner: Path, images: list[Path], tmp_path: Path) -> None:
    machine = Machine(find(), open_bundle("aarch64", runner), CORES["cortex-a76"])
    narrow, wide = (onnx_file(tmp_path / f"{width}.onnx", width) for width in (16, 64))
    counts = [trace(machine, "onnx", each.path, images, SHAPE, 60).run for each in (narrow, wide)]
    assert counts[1].vector > 6 * counts[0].vector
