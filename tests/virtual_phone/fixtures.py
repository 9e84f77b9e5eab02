"""Fixtures of the virtual phone, for the conftest.py of each folder whose tests drive the real adb client."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.runner.bundle import Bundle
from virtual_phone.answers import Identity
from virtual_phone.kit import adb, await_state, build_bundle, disconnect, find
from virtual_phone.phone import VirtualPhone

# Cores that this machine has too: the runner under QEMU is really pinned.
TWO_CORES = Identity(clusters=(1800000, 2400000))

Plug = Callable[..., VirtualPhone]


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Plug]:
    """plug(identity, asks=, modern=) gives a phone that adb is connected to, until the end of the test."""
    with ExitStack() as phones:

        def connect(identity: Identity = TWO_CORES, **how: bool) -> VirtualPhone:
            number = len(list(tmp_path.glob("phone*")))
            phone = phones.enter_context(
                VirtualPhone(tmp_path / f"phone{number}", find("qemu-aarch64"), identity, **how)
            )
            phones.callback(disconnect, phone.address)
            adb("connect", phone.address)
            return phone

        yield connect


@pytest.fixture
def phone(plug: Plug) -> VirtualPhone:
    return plug()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A runner for MatMul files, built by Debian's cross compiler."""
    return build_bundle(tmp_path_factory.mktemp("runner"))


def unplug(phone: VirtualPhone) -> None:
    """Pulls the phone's cable; adb has noticed."""
    phone.unplug()
    await_state(phone.address, "offline", "")


def replug(phone: VirtualPhone) -> None:
    """Plugs the phone in again; adb looks for a lost device only every ten seconds."""
    unplug(phone)
    phone.plug_in()
    disconnect(phone.address)
    adb("connect", phone.address)
