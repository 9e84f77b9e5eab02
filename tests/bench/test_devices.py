from collections.abc import Callable
from dataclasses import replace

import pytest
from bench_files import IMAGES
from virtual_phone.fixtures import Plug, unplug
from virtual_phone.phone import VirtualPhone

from bench.devices import DEVICES, DeviceEngine, choose, find
from bench.measurement import BenchError, Device
from bench.runner import bundle as bundles
from bench.runner.bundle import Bundle
from bench.simulator.cores import read_cores


def test_the_host_is_measured_and_described_under_its_name() -> None:
    assert next(iter(DEVICES)) == "host"
    assert DEVICES["host"].title == "this machine"
    assert DEVICES["host"].describe().kind == "host"
    assert DEVICES["host"].measure((), IMAGES) == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "core"), [("arm", "cortex-a76"), ("arm-a72", "cortex-a72"), ("arm-a53", "cortex-a53")]
)
def test_a_simulated_core_is_described_as_what_it_is(runner: object, name: str, core: str) -> None:
    assert runner
    assert core in read_cores()
    device = DEVICES[name].describe()
    assert (device.kind, device.name, device.cpu) == ("simulated", f"simulated {core}", core)


def test_a_device_is_found_by_its_name() -> None:
    assert find("host") is DEVICES["host"]
    with pytest.raises(BenchError, match=r"^there is no device 'cloud'; choose among host, .*phone"):
        find("cloud")
    with pytest.raises(
        BenchError, match=r"^--serial names a phone, and --device host is none; leave one of the two out$"
    ):
        find("host", "A1")


def test_a_phone_is_found_by_its_serial(plug: Plug, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "ROOT", bundle.path.parent)
    _, other = plug(), plug()
    found = find("phone", other.address).describe()
    assert (found.kind, found.serial) == ("phone", other.address)


def described(describe: Callable[[], Device]) -> DeviceEngine:
    """The simulated ARM CPU as `describe` gives it."""
    functions = replace(DEVICES["arm"].load(), describe=describe)
    return replace(DEVICES["arm"], load=lambda: functions)


@pytest.fixture
def without_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated ARM CPU that is not installed, whatever is installed here."""

    def describe() -> Device:
        raise BenchError("no emulator")

    monkeypatch.setitem(DEVICES, "arm", described(describe))


@pytest.mark.usefixtures("without_arm")
def test_without_a_phone_the_host_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose() == ("host", "no phone is connected")
    monkeypatch.setenv("PATH", "/nowhere")
    assert choose() == ("host", "no phone can be looked for without adb (apt-get install adb)")


def test_the_simulated_core_is_named_but_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes minutes for a large network; whoever wants its counts asks for them."""
    monkeypatch.setitem(DEVICES, "arm", described(DEVICES["host"].describe))
    assert choose() == ("host", "no phone is connected; --device arm counts instructions of a phone's core")


@pytest.mark.usefixtures("without_arm")
def test_the_one_phone_is_chosen(phone: VirtualPhone, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "ROOT", bundle.path.parent / "nothing")
    name, why = choose()
    assert name == "host"
    assert why.startswith("there is no runner for aarch64 in ")
    assert why.endswith("; build it with `make runner`")
    monkeypatch.setattr(bundles, "ROOT", bundle.path.parent)
    assert choose() == ("phone", "it is connected")
    unplug(phone)
    name, why = choose()
    assert name == "host"
    assert why.startswith(f"phone {phone.address} is not ready (offline): ")


def test_several_phones_are_the_user_s_to_choose_from(plug: Plug) -> None:
    plug(), plug()
    with pytest.raises(BenchError, match=r"^2 phones are connected: .*; pass --serial with one of these$"):
        choose()
