# SPDX-License-Identifier: GPL-2.0-only
"""What happens after a test: see why it hangs, and remove what it left.

Nothing here trusts the test. What has a name of ours is found by looking, not by
remembering, and removed, with an error table if need be.
"""

import ctypes
import os
import time

from lib import dm

PREFIX = "t-"                   # names of mapped devices of tests
MOUNTS = "/run/dm-clone-tests"  # mount points, image files
NULLB = "/sys/kernel/config/nullb"
SCSI_DEBUG = "/sys/bus/pseudo/drivers/scsi_debug"
LOOP_CLR_FD = 0x4C01

_libc = ctypes.CDLL(None, use_errno=True)


def ours():
    return [name for name in dm.devices() if name.startswith(PREFIX)]


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def _tasks():
    """(tid, comm, state, process) of all tasks."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            tids = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for tid in tids:
            stat = _read(f"/proc/{pid}/task/{tid}/stat")
            if stat:
                comm, rest = stat[stat.index("(") + 1:].rsplit(")", 1)
                yield int(tid), comm, rest.split()[0], int(pid)


def blocked_tasks(pid=None):
    """Stacks of tasks that wait uninterruptibly, and of those of one process."""
    out = []
    for tid, comm, state, process in _tasks():
        if state != "D" and process != pid:
            continue
        out.append(f"  {comm} ({tid}, state {state})")
        out += [f"    {line.split('] ')[-1]}" for line in
                _read(f"/proc/{process}/task/{tid}/stack").splitlines()]
    try:
        for name in ours():
            dev = dm.ioctl(dm.DEV_STATUS, name)
            out.append(f"  {name} is dm-{dev.minor}, open {dev.open_count}" +
                       (", suspended" if dev.suspended else ""))
    except OSError:
        pass
    return "\n".join(out) or "  nothing is blocked"


def open_gates():
    """Resumes what is suspended, so that what waits for it can end."""
    for name in ours():
        try:
            if dm.ioctl(dm.DEV_STATUS, name).suspended:
                dm.ioctl(dm.DEV_SUSPEND, name, flags=dm.NOFLUSH | dm.SKIP_LOCKFS)
        except OSError:
            pass


def _unmount_all():
    left = []
    for line in _read("/proc/mounts").splitlines():
        where = line.split()[1]
        if where.startswith(MOUNTS + "/"):
            left.append(where)
            _libc.umount2(where.encode(), 2)    # MNT_DETACH
    return left


def _error_table(name):
    """Detaches a device from what is below it."""
    with open(f"/sys/block/dm-{dm.devices()[name]}/size", encoding="ascii") as f:
        size = int(f.read()) or 8
    payload = dm.pack_table([(0, size, "error", "")])
    dm.ioctl(dm.TABLE_LOAD, name, payload, targets=1)
    dm.ioctl(dm.DEV_SUSPEND, name,
             flags=dm.SUSPENDED | dm.NOFLUSH | dm.SKIP_LOCKFS)
    dm.ioctl(dm.DEV_SUSPEND, name, flags=dm.NOFLUSH | dm.SKIP_LOCKFS)


def _remove_pass(names, force):
    for name in names:
        try:
            dm.ioctl(dm.DEV_REMOVE, name)
        except OSError:
            if force:
                try:
                    _error_table(name)
                    dm.ioctl(dm.DEV_REMOVE, name)
                except OSError:
                    pass


def _remove_mapped():
    left = ours()
    for attempt in range(20):
        names = ours()
        if not names:
            break
        # Those on top were mostly made last: they have the higher minor.
        names.sort(key=dm.devices().get, reverse=True)
        _remove_pass(names, force=attempt > 3)
        time.sleep(0.05 * (attempt > 0))
    return left


def _detach_loops():
    left = []
    for name in os.listdir("/sys/block"):
        file = _read(f"/sys/block/{name}/loop/backing_file").strip()
        if file.startswith(MOUNTS + "/"):
            left.append(f"{name} ({file})")
            fd = os.open(f"/dev/{name}", os.O_RDONLY)
            _libc.ioctl(fd, LOOP_CLR_FD, 0)
            os.close(fd)
    return left


def _remove_scsi_debug():
    """The disks of tests: scsi_debug makes none on its own."""
    left = [host for host in os.listdir(SCSI_DEBUG) if host.startswith("adapter")] \
        if os.path.isdir(SCSI_DEBUG) else []
    for _ in left:
        with open(f"{SCSI_DEBUG}/add_host", "w", encoding="ascii") as f:
            f.write("-1\n")
    return left


def _remove_null_blk():
    left = []
    if os.path.isdir(NULLB):
        for name in os.listdir(NULLB):
            path = os.path.join(NULLB, name)
            if os.path.isdir(path):
                left.append(f"null_blk {name}")
                os.rmdir(path)
    return left


def _remove_files():
    left = []
    for folder, _, files in os.walk(MOUNTS, topdown=False):
        for name in files:
            left.append(os.path.join(folder, name))
            os.unlink(left[-1])
        if folder != MOUNTS:
            os.rmdir(folder)
    return left


def sweep():
    """Removes everything of ours; returns what was still there."""
    left = _unmount_all()
    left += _remove_mapped()
    for step in _detach_loops, _remove_null_blk, _remove_scsi_debug, _remove_files:
        try:
            left += step()
        except OSError as error:
            left.append(str(error))
    still = ours()
    if still:
        left.append(f"(and cannot be removed: {', '.join(still)})")
    return left
