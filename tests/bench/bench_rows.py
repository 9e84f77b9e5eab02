"""A measurement and a simulated row to change fields of, for tests that need no run."""

from bench.measurement import (
    Allocations,
    Block,
    Counts,
    Device,
    Measurement,
    Memory,
    MemoryPhases,
    Schedule,
    Simulated,
    Traffic,
)
from exporters.artifact import Parity

DEVICE = Device("host", "desk", "AMD EPYC", 2, "Linux 6.18 x86_64", 24_000_000)


def measurement() -> Measurement:
    memory = MemoryPhases(
        start=Memory(100_000, 100_000, 60_000, 40_000, 95_000),
        loaded=Memory(390_000, 350_000, 310_000, 40_000, 345_000),
        first=Memory(390_000, 355_000, 315_000, 40_000, 350_000),
        end=Memory(391_000, 356_000, 316_000, 40_000, 351_000),
    )
    return Measurement(
        network="alexnet",
        format="onnx",
        sha256="ab" * 32,
        bytes=244_400_000,
        device=DEVICE,
        runtime="ONNX Runtime",
        runtime_version="1.31.0",
        schedule=Schedule(cores=(1,)),
        threads=1,
        pinned_cores=(1,),
        input_shape=(1, 3, 224, 224),
        images=8,
        load_ms=120.5,
        first_ms=31.25,
        blocks=(Block(0, (12.5, 12.25)), Block(3, (12.75,))),
        memory=memory,
        session="s",
        measured_at="2026-11-20T09:41:00+00:00",
        mhz_before=2400.0,
        preemptions=3,
        load_average=0.25,
        note="a note",
    )


def simulated() -> Simulated:
    return Simulated(
        network="alexnet",
        format="pte",
        sha256="ab" * 32,
        bytes=244_400_000,
        device=Device("simulated", "simulated cortex-a76", "cortex-a76", 1, "QEMU 7.2.22, caches of a Raspberry Pi 5"),
        runtime="ExecuTorch",
        runtime_version="1.5.1",
        emulator="QEMU 7.2.22, counter 0123456789ab",
        input_shape=(1, 3, 224, 224),
        images=4,
        load=Counts(30, 40, 20, 10, 100, 600, 500),
        first=Counts(180, 52, 1, 6, 25, 1000, 10),
        run=Counts(180, 50, 1, 5, 24, 990, 9),
        traffic=Traffic(64, 900, 500, 20),
        memory=Allocations(start=1800, peak=250_000, mapped_peak=262_000),
        parity=Parity(True, 4, 2e-6, 7e-6, 0.9999999, 1.0),
        measured_at="2026-11-20T13:00:00+00:00",
        note="a note",
    )
