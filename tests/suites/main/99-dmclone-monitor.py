# SPDX-License-Identifier: GPL-2.0-only
"""dmclone's plugin for dmeventd: what the system log says, and what is run."""

import os

from lib import dm
from lib.blk import FORMER, MIB, Block
from lib.dmclone import DEVICE, PARAMETER, Volume, run
from lib.dmeventd import Dmeventd, Syslog
from lib.errors import Failure
from lib.framework import test

SIZE = 2 * MIB


def watched(t):
    return t.add_disk(Syslog(t)), t.add_disk(Dmeventd(t))


def volume(t, *words):
    """A clone. Its hydration is paused: create reads the whole of a source that is this
    small, so that it can be held only afterwards."""
    vol = Volume(t, SIZE, t.source(SIZE), t.disk(SIZE, what="dest", fill=FORMER),
                 t.metadata())
    vol.create("--no-hydration", *words)
    return vol


def hydrate_up_to(vol, sector):
    vol.source.hold_from(sector)
    vol("resume")


@test("a clone is watched from its creation: each quarter is told, and with --auto-finish it "
      "becomes a plain device under its user", limit=240)
def _(t):
    log, daemon = watched(t)
    vol = volume(t, "--auto-finish", "--region-size", "64k")
    log.until(f"clone {vol.name}: monitored")
    log.until(f"clone {vol.name}: 0 % are hydrated")
    hydrate_up_to(vol, SIZE // 2)
    log.until(f"clone {vol.name}: 50 % are hydrated")
    if not vol.described or log.count("% are hydrated") != 2:
        raise Failure(f"the log says: {log.lines}")
    with Block(vol.path) as user:
        vol.source.heal()
        log.until(f"clone {vol.name}: all is in the destination")
        t.until(lambda: not vol.described and vol.target() == "linear",
                "the clone is finished", 30)
        vol.model.check(user)
    log.until(f"clone {vol.name}: no longer monitored")
    log.until("dmclone", "source and metadata are not needed any more")
    t.until(lambda: not daemon.children, "no process is left")


@test("errors are told once, and a command is run: hydration that stops, metadata that fails",
      limit=240)
def _(t):
    log, _ = watched(t)
    told = f"{t.folder()}/told"
    vol = volume(t, "--exec", f'echo "$DMCLONE_NAME $DMCLONE_EVENT" >>{told}')

    def expect(*events):
        def read():
            if not os.path.exists(told):
                return []
            with open(told, encoding="utf-8") as f:
                return f.read().splitlines()
        t.until(lambda: read() == [f"{vol.name} {event}" for event in events],
                f"{events} are told to the command", 30)

    vol.source.fail()
    vol("resume")
    log.until(f"clone {vol.name}: copies fail", "it goes on trying")
    vol.message("hydration_max_errors 1")
    log.until(f"clone {vol.name}: hydration has stopped", "dmclone resume")
    expect("stopped")
    vol.meta.fail_writes()
    with Block(vol.path) as block:
        block.put(0, 8, t.stamp())
        t.fails(block.flush)
    log.until(f"clone {vol.name}: metadata is in mode", "has failed")
    expect("stopped", "mode")
    if log.count("hydration has stopped") != 1:
        raise Failure(f"told more than once: {log.lines}")
    vol.meta.heal()
    os.unlink(told)


@test("a dmeventd that is restarted goes on with what it watched, and open registers again "
      "what a killed one has forgotten", limit=240)
def _(t):
    log, daemon = watched(t)
    vol = volume(t)
    hydrate_up_to(vol, SIZE // 2)
    log.until(f"clone {vol.name}: monitored")
    daemon.restart()
    t.until(lambda: log.count(f"clone {vol.name}: monitored") == 2, "registered again", 30)
    vol.source.heal()
    log.until(f"clone {vol.name}: all is in the destination")
    vol("finish")
    log.until(f"clone {vol.name}: no longer monitored")


def suspend(name, flags):
    dm.ioctl(dm.DEV_SUSPEND, name, flags=flags)


@test("a suspended clone does not keep dmeventd from looking at others, and is not finished "
      "while it is suspended", limit=240)
def _(t):
    log, _ = watched(t)
    first = volume(t, "--auto-finish")
    suspend(first.name, dm.SUSPENDED | dm.SKIP_LOCKFS)
    second = volume(t)
    second("resume")
    log.until(f"clone {second.name}: all is in the destination")
    if not first.described:
        raise Failure("what is suspended and not done has been finished")
    suspend(first.name, dm.SKIP_LOCKFS)
    first("resume")
    t.until(lambda: not first.described, "the first is finished", 30)


@test("monitor takes what dmclone has not made, and what cannot be is refused", limit=120)
def _(t):
    log, _ = watched(t)
    vol = volume(t, "--auto-finish")
    vol("monitor", "--off", "--auto-finish", code=PARAMETER, says="no other option")
    vol("monitor", "--exec", "a\nb", code=PARAMETER, says="one line")
    vol("monitor", "--off")
    log.until(f"clone {vol.name}: no longer monitored")
    state = vol.described_state()
    if state["monitor"] != "no" or state["auto-finish"] != "no":
        raise Failure(f"described: {state}")
    vol("monitor")
    if vol.described_state()["monitor"] != "yes":
        raise Failure("it is not described as watched")
    # As at shutdown, where it is to be watched again after the next boot
    run(t, "unmonitor")
    t.until(lambda: log.count(f"clone {vol.name}: no longer monitored") == 2, "forgotten")
    if vol.described_state()["monitor"] != "yes":
        raise Failure("it is described as one that is not watched")
    run(t, "monitor", "no-such-clone", code=PARAMETER, says="no clone")

    clone = t.idle_clone(size=SIZE)
    run(t, "monitor", clone.name, "--auto-finish", code=PARAMETER, says="no description")
    run(t, "monitor", clone.name, code=DEVICE, says="no UUID")
    t.run("dmsetup", "rename", clone.name, "--setuuid", f"by-hand-{clone.name}")
    run(t, "monitor", clone.name)
    log.until(f"clone {clone.name}: monitored")
    clone.message("enable_hydration")
    log.until(f"clone {clone.name}: all is in the destination")
    run(t, "monitor", clone.name, "--off")
    log.until(f"clone {clone.name}: no longer monitored")
