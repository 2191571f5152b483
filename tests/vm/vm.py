# SPDX-License-Identifier: GPL-2.0-only
"""Run a command as root in a virtual machine that sees this machine's files.

The machine boots the stock kernel that is installed here. Its root file system
is this machine's: what a process there writes goes to memory and is gone when
the machine ends (but for --share). /tmp is empty there. The command runs in the
directory that this one was called from.

With --root the root file system is another one, which --arch may say is for
machines of another architecture; of this machine's files it sees the project,
and where the command runs. Its kernel must be named, with its modules.

The exit status is the command's; or, whatever the command's was,
    120  the kernel complained (WARNING, BUG, hung task, lockdep, KASAN...)
    121  the machine did not boot, died or was rebooted
    122  it stood still: none of its CPUs did anything for a long time
    124  the time was up
    125  the machine could not be started
"""

import argparse
import ctypes
import glob
import hashlib
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import typing

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import kernel  # noqa: E402
from complaints import ComplaintFilter  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))
CACHE = os.path.join(PROJECT, "build", "vm")

COMPLAINED, DIED, STALLED, TIME_UP, UNUSABLE = 120, 121, 122, 124, 125

BOOT_LIMIT = 300    # a debug kernel on a busy machine takes more than a minute
PROBE_LIMIT = 25
# A sign of life comes every five seconds. What hangs in the machine, but for
# all of it, is noticed there: by the kernel's watchdogs, and by what runs the
# tests.
STALL_LIMIT = 240
LOG_TAIL = 30

KERNEL_OPTIONS = """
    panic=-1 oops=panic sysrq_always_enabled net.ifnames=0
    mitigations=off nokaslr random.trust_cpu=on cryptomgr.notests nmi_watchdog=0
    watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120
""".split()
# An emulated machine's clocks are no good for calibrating against each other.
TCG_KERNEL_OPTIONS = "lpj=10000000 no_timer_check tsc=reliable".split()


class Architecture(typing.NamedTuple):
    """How QEMU emulates one, and what its kernel calls the serial console."""

    qemu: str
    machine: str
    cpu: str
    console: str


# "rep movsb" is slow when it is emulated: the kernel is not to prefer it. And the
# computation that arm64 protects its pointers with is slow unless it is QEMU's own.
ARCHITECTURES = {
    "amd64": Architecture("qemu-system-x86_64", "q35", "max,-erms", "ttyS0"),
    "i386": Architecture("qemu-system-x86_64", "q35", "max,-erms", "ttyS0"),
    "arm64": Architecture("qemu-system-aarch64", "virt", "max,pauth-impdef=on", "ttyAMA0"),
    "s390x": Architecture("qemu-system-s390x", "s390-ccw-virtio", "max", "ttysclp0"),
}


class VmError(Exception):
    """The machine could not be run; the text says why."""

    def __init__(self, text, status=UNUSABLE):
        super().__init__(text)
        self.status = status


class NotBooted(VmError):
    """It never got to the command."""


def say(text):
    print(f"vm: {text}", file=sys.stderr, flush=True)


# Options ---------------------------------------------------------------------

def parse_arguments(arguments):
    epilog = "Without a COMMAND it is an interactive shell. A single word is given to the shell."
    parser = argparse.ArgumentParser(
        prog="tests/vm/run", description=__doc__, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    env = os.environ.get
    add = parser.add_argument
    add("-m", "--memory", metavar="MIB", type=int, default=int(env("VM_MEMORY", "2048")),
        help="memory of the machine ($VM_MEMORY, else 2048)")
    add("-c", "--cpus", metavar="N", type=int, default=int(env("VM_CPUS", "2")),
        help="its CPUs ($VM_CPUS, else 2)")
    add("-t", "--timeout", metavar="SECONDS", type=float, default=float(env("VM_TIMEOUT", "600")),
        help="kill all after this time ($VM_TIMEOUT, else 600); 0 for never")
    add("-k", "--kernel", metavar="FILE", default=env("KERNEL"),
        help="bzImage or vmlinux to boot ($KERNEL, else the installed one modules are built for)")
    add("--modules", metavar="DIR", default=env("MODULES"),
        help="that kernel's modules ($MODULES, else /lib/modules/RELEASE)")
    add("--arch", choices=ARCHITECTURES, default="amd64",
        help="Debian's name of the machine's architecture (amd64)")
    add("--root", metavar="DIR", default="/", help="its root file system (this machine's)")
    add("--append", metavar="WORDS", default=env("VM_APPEND", ""),
        help="more for the kernel's command line ($VM_APPEND)")
    add("-d", "--disk", metavar="SIZE|FILE", action="append", default=[],
        help="add a disk (vda, vdb...) with a volatile cache and discard: an empty one, "
             "size as 512M or 4G; or an image file, which is written to")
    add("-s", "--share", metavar="DIR", action="append", default=[],
        help="a directory that is writable inside, and outlives the machine")
    add("-e", "--env", metavar="NAME[=VALUE]", action="append", default=[],
        help="set a variable for the command, or hand on yours")
    add("-n", "--net", action="store_true",
        help="a network card; what listens on this machine's 127.0.0.1 is at 10.0.2.2 there")
    add("--icount", action="store_true",
        help="one instruction is one nanosecond: figures that repeat (one CPU)")
    add("--plugin", metavar="FILE[,ARG]", help="have QEMU load a plugin, with TCG only")
    add("--accel", choices=["auto", "kvm", "tcg"], default=env("VM_ACCEL", "auto"),
        help="auto ($VM_ACCEL): KVM where a short probe shows that it works")
    add("-i", "--interactive", action="store_true",
        help="give the COMMAND a terminal; it is a shell if there is none")
    add("--init", action="store_true",
        help="the COMMAND is the machine's first process; its exit status, or that of what it "
             "becomes, is what is written to /run/vm/exit")
    add("-v", "--verbose", action="store_true", help="show the kernel's log as it grows")
    add("--log", metavar="FILE", default=os.path.join(CACHE, "kernel.log"),
        help="where the kernel's log goes (build/vm/kernel.log)")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        options.interactive = True
    if options.icount:
        options.cpus = 1
        options.accel = "tcg"
    return options


# Kernel and first file system ------------------------------------------------

def default_kernel():
    """The image of the kernel that the module is built for, else the newest."""
    found = subprocess.run([os.path.join(PROJECT, "scripts", "kernel-release")],
                           capture_output=True, text=True, check=False)
    path = f"/boot/vmlinuz-{found.stdout.strip()}"
    if found.returncode == 0 and os.path.exists(path):
        return path
    images = sorted(glob.glob("/boot/vmlinuz-*"), key=os.path.getmtime)
    if not images:
        raise VmError("no kernel in /boot to boot; KERNEL= names another")
    return images[-1]


def find_kernel(options):
    """(the file QEMU is given, the directory of its modules)"""
    image = options.kernel or default_kernel()
    if options.root != "/" and not (options.kernel and options.modules):
        raise VmError("with --root, --kernel and --modules must be given too")
    modules = options.modules or f"/lib/modules/{kernel.release_of(image)}"
    return kernel.unpacked(image, CACHE), os.path.realpath(modules)


def environment_lines(options):
    lines = [f"export TERM={shlex.quote(os.environ.get('TERM', 'linux'))}"]
    for item in options.env:
        name, is_set, value = item.partition("=")
        if not is_set:
            value = os.environ.get(name, "")
        lines.append(f"export {name}={shlex.quote(value)}")
    return lines


def command_script(options):
    """What runs inside, as a shell script."""
    # What is in the root's home directory may not be ours to read.
    command = options.command or ["/bin/bash", "--norc"]
    if len(command) == 1 and options.command:
        command = ["/bin/sh", "-c", command[0]]
    lines = environment_lines(options)
    lines.append(f"cd {shlex.quote(os.getcwd())} || exit 125")
    lines.append("exec " + " ".join(shlex.quote(word) for word in command))
    return "\n".join(lines) + "\n"


def config_script(options, modules):
    """The variables of guest-init and guest-run."""
    size = shutil.get_terminal_size()
    standard = os.path.realpath(f"/lib/modules/{os.path.basename(modules)}")
    shares = [os.path.realpath(share) for share in options.share]
    words = {
        "PLACES": " ".join(places(options, modules)),
        "KEEP": " ".join(sorted({os.getcwd(), PROJECT})),
        "SHARES": " ".join(shares),
        "MODULES": "" if modules == standard else modules,
        "NET": "yes" if options.net else "",
        "DISKS": "yes" if options.disk else "",
        # Where the clock jumps to the next thing to do, this would be all it
        # does.
        "SIGNS_OF_LIFE": "" if options.icount else "yes",
        "INIT": "yes" if options.init else "",
        "INTERACTIVE": "yes" if options.interactive else "",
        "ROWS": size.lines,
        "COLUMNS": size.columns,
    }
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in words.items())


def places(options, modules):
    """The directories of this machine's that a root of another shows too."""
    if options.root == "/":
        return []
    return sorted({os.getcwd(), PROJECT, modules})


def make_initramfs(path, options, modules):
    archive = kernel.Cpio()
    for name in ("bin", "dev", "modules", "vm"):
        archive.directory(name)
    with open(os.path.join(options.root, "bin/busybox"), "rb") as file:
        archive.file("bin/busybox", file.read())
    for name, target in (("guest-init", "init"), ("guest-run", "vm/run")):
        with open(os.path.join(HERE, name), "rb") as file:
            archive.file(target, file.read())
    archive.file("vm/config", config_script(options, modules).encode())
    archive.file("vm/command", command_script(options).encode())
    order = []
    for module in kernel.boot_modules(modules):
        name = os.path.basename(module).split(".")[0] + ".ko"
        archive.file(f"modules/{name}", kernel.module_content(module), 0o644)
        order.append(name + "\n")
    archive.file("modules/order", "".join(order).encode(), 0o644)
    with open(path, "wb") as file:
        file.write(archive.bytes())


# QEMU ------------------------------------------------------------------------

def escaped(path):
    """A path as part of a QEMU option."""
    return path.replace(",", ",,")


def accelerator_options(options):
    cpu = ARCHITECTURES[options.arch].cpu
    if options.accel == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    if options.icount:
        return ["-accel", "tcg,thread=single,tb-size=512", "-cpu", cpu,
                "-icount", "shift=0,sleep=off"]
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", cpu]


def share_options(tag, path, readonly):
    return ["-fsdev", f"local,id={tag},path={escaped(path)},security_model=none,multidevs=remap"
                      + (",readonly=on" if readonly else ""),
            "-device", f"virtio-9p,fsdev={tag},mount_tag={tag}"]


def disk_options(number, disk, directory):
    path = os.path.realpath(disk)
    if not os.path.isfile(path):
        if not re.fullmatch(r"\d+[KMGT]?", disk):
            raise VmError(f"--disk {disk}: neither a file nor a size")
        units = {"K": 2 ** 10, "M": 2 ** 20, "G": 2 ** 30, "T": 2 ** 40}
        path = os.path.join(directory, f"disk{number}")
        with open(path, "wb") as file:
            file.truncate(int(disk.rstrip("KMGT")) * units.get(disk[-1], 1))
    return ["-drive", f"if=none,id=disk{number},file={escaped(path)},format=raw,"
                      "cache=writeback,discard=unmap",
            "-device", f"virtio-blk,drive=disk{number},serial=disk{number}"]


class Channels:
    """What connects the machine's ports with this process: socket pairs."""

    def __init__(self):
        self.ours = {}
        self.theirs = {}
        self.options = []

    def add(self, name):
        ours, theirs = socket.socketpair()
        self.ours[name], self.theirs[name] = ours, theirs
        self.options += ["-chardev", f"socket,id={name},fd={theirs.fileno()}"]

    def descriptors(self):
        return [end.fileno() for end in self.theirs.values()]

    def close_theirs(self):
        for end in self.theirs.values():
            end.close()


def machine_type(options):
    """What a kernel measures by an emulated PIT on a busy host may be wrong by an order of
    magnitude, and all clocks with it. Without one it takes the HPET."""
    machine = ARCHITECTURES[options.arch].machine
    if machine == "q35" and options.accel == "tcg" and not options.icount:
        machine += ",pit=off"
    return machine


def qemu_command(options, directory, channels):
    image, modules = find_kernel(options)
    initramfs = os.path.join(directory, "initramfs")
    make_initramfs(initramfs, options, modules)
    architecture = ARCHITECTURES[options.arch]
    words = [f"console={architecture.console}", *KERNEL_OPTIONS]
    if options.accel != "kvm":
        words += TCG_KERNEL_OPTIONS
    words += ["loglevel=7", options.append]
    command = [architecture.qemu, "-M", machine_type(options), "-nodefaults", "-no-user-config",
               "-display", "none", "-no-reboot", "-m", str(options.memory),
               "-smp", str(options.cpus), "-kernel", image, "-initrd", initramfs,
               "-append", " ".join(words)]
    command += accelerator_options(options)
    command += ["-plugin", options.plugin] if options.plugin else []
    command += port_options(options, channels)
    command += share_options("root", os.path.realpath(options.root), True)
    for number, place in enumerate(places(options, modules)):
        command += share_options(f"place{number}", place, True)
    for number, share in enumerate(options.share):
        command += share_options(f"share{number}", os.path.realpath(share), False)
    for number, disk in enumerate(options.disk):
        command += disk_options(number, disk, directory)
    if options.net:
        command += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
    return command


def port_options(options, channels):
    channels.add("log")
    channels.add("control")
    channels.add("monitor")
    words = ["-serial", "chardev:log", "-mon", "chardev=monitor,mode=control",
             "-device", "virtio-serial",
             "-device", "virtserialport,chardev=control,name=control"]
    if not options.interactive:
        for name in ("stdout", "stderr"):
            channels.add(name)
            words += ["-device", f"virtserialport,chardev={name},name={name}"]
    else:
        words += ["-chardev", "stdio,id=terminal,mux=on,signal=off",
                  "-device", "virtconsole,chardev=terminal"]
    return channels.options + words


def die_with_parent():
    """No machine outlives this process, not even when that is killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


# Running ---------------------------------------------------------------------

class Machine:
    """A running machine, from its start to its command's exit status."""

    def __init__(self, options, quiet=False):
        self.options = options
        self.quiet = quiet
        self.status = None
        self.booted = None
        self.last_sign = None
        self.complaints = ComplaintFilter()
        self.log_lines = []
        self._partial = {}
        self._log_file = None
        self._channels = Channels()
        self._poll = select.poll()
        self._names = {}
        self._directory = None
        self._errors = None

    def run(self):
        """The exit status for the caller."""
        with tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as directory:
            self._directory = directory
            self._errors = open(os.path.join(directory, "qemu-errors"), "w+b")
            self._open_log()
            command = qemu_command(self.options, directory, self._channels)
            interactive = self.options.interactive
            process = subprocess.Popen(
                command, stdin=None if interactive else subprocess.DEVNULL,
                stdout=None if interactive else self._errors, stderr=self._errors,
                pass_fds=self._channels.descriptors(), preexec_fn=die_with_parent,
                start_new_session=not interactive)
            self._channels.close_theirs()
            try:
                self._watch(process)
            finally:
                process.kill()
                process.wait()
                self._errors.close()
        return self._verdict()

    def _open_log(self):
        # Another machine may still be writing a log of that name.
        if os.path.lexists(self.options.log):
            os.unlink(self.options.log)
        self._log_file = open(self.options.log, "w", encoding="utf-8", errors="replace")

    def _watch(self, process):
        """Hand on what comes, until the command has ended or something is wrong."""
        start = time.monotonic()
        for name, end in self._channels.ours.items():
            end.setblocking(False)
            self._poll.register(end, select.POLLIN)
            self._names[end.fileno()] = name
        while self.status is None and self._names:
            self._check_time(time.monotonic() - start)
            self._pump(0.5)
        if self.status is None:
            process.wait()
            raise VmError(self._how_it_ended(process.returncode), DIED)
        # What the kernel said last may still be on its way.
        while self._pump(0.03):
            pass

    def _pump(self, seconds):
        """Hand on what comes within this many seconds; false if nothing does."""
        ready = self._poll.poll(seconds * 1000)
        for descriptor, _ in ready:
            if not self._receive(self._names[descriptor]):
                self._poll.unregister(descriptor)
                del self._names[descriptor]
        return bool(ready)

    def _check_time(self, elapsed):
        if self.booted is None and elapsed > min(BOOT_LIMIT, self.options.timeout or BOOT_LIMIT):
            self._show_cpus()
            raise NotBooted(f"not booted after {elapsed:.0f} s\n{self._log_tail()}", DIED)
        if self.options.timeout and elapsed > self.options.timeout:
            self._show_what_hangs()
            raise VmError(f"the time is up: {self.options.timeout:g} s\n{self._log_tail(200)}", TIME_UP)
        if self._is_stalled():
            self._show_cpus()
            raise VmError(f"no sign of life for {STALL_LIMIT} s\n{self._log_tail(60)}", STALLED)

    def _is_stalled(self):
        return (self.last_sign and not self.options.icount and
                time.monotonic() - self.last_sign > STALL_LIMIT)

    def _show_what_hangs(self):
        """Replace the log by what sysrq tells of blocked tasks and busy CPUs."""
        self.log_lines.clear()
        self._channels.ours["control"].send(b"w\nl\n")
        self._pump_for(5)
        self._show_cpus()

    def _show_cpus(self):
        """Have QEMU tell where the CPUs are: they may be past telling it themselves."""
        for command in ('"qmp_capabilities"',
                        '"human-monitor-command", "arguments": {"command-line": "info registers -a"}'):
            self._channels.ours["monitor"].send(b'{"execute": %s}\n' % command.encode())
        self._pump_for(5)

    def _pump_for(self, seconds):
        end = time.monotonic() + seconds
        while self._names and time.monotonic() < end:
            self._pump(0.5)

    def _receive(self, name):
        """Take what a port has; false when it is closed."""
        try:
            data = self._channels.ours[name].recv(65536)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        if name in ("stdout", "stderr"):
            if not self.quiet:
                write_all(1 if name == "stdout" else 2, data)
        else:
            self._receive_lines(name, data)
        return bool(data)

    def _receive_lines(self, name, data):
        text = self._partial.get(name, "") + data.decode("utf-8", "replace")
        *lines, self._partial[name] = text.split("\n")
        for line in lines:
            if name == "log":
                self._take_log(line.rstrip("\r"))
            elif name == "control":
                self._take_control(line)
            else:
                self._take_monitor(line)

    def _take_log(self, line):
        self.log_lines.append(line)
        self.complaints.feed(line)
        self._log_file.write(line + "\n")
        self._log_file.flush()
        if self.options.verbose:
            print(line, file=sys.stderr, flush=True)

    def _take_monitor(self, line):
        """What QEMU tells of the CPUs: those lines that say where they are."""
        for part in line.split("\\r\\n"):
            if re.search(r"CPU#\d|[ER]IP=|\b[ER]SP=", part):
                self._take_log(f"QEMU: {part}")

    def _take_control(self, line):
        word, _, value = line.strip().partition(" ")
        self.last_sign = time.monotonic()
        if word == "ready":
            self.booted = time.monotonic()
            # QEMU has opened all of it: nothing is left if this process is
            # killed.
            shutil.rmtree(self._directory, ignore_errors=True)
        elif word == "exit":
            self.status = int(value)

    def _log_tail(self, lines=LOG_TAIL):
        tail = self.log_lines[-lines:]
        return "\n".join(tail)

    def _how_it_ended(self, returncode):
        self._errors.seek(0)
        errors = self._errors.read().decode("utf-8", "replace").strip()
        if returncode < 0:
            what = f"QEMU was killed by signal {-returncode}"
        elif returncode > 0:
            what = f"QEMU failed with status {returncode}"
        elif any("Kernel panic" in line for line in self.log_lines):
            what = "the kernel panicked"
        else:
            what = "the machine was switched off or rebooted from inside"
        return "\n".join(part for part in (what, errors, self._log_tail()) if part)

    def _verdict(self):
        if not self.complaints.lines:
            return self.status
        if not self.quiet:
            say(f"the kernel complained (the command's exit status was {self.status}):")
            print("\n".join(self.complaints.lines), file=sys.stderr, flush=True)
        return COMPLAINED


def write_all(descriptor, data):
    while data:
        data = data[os.write(descriptor, data):]


# KVM -------------------------------------------------------------------------

KVM_ARCHITECTURES = ("amd64", "i386")


def probe_key():
    """Where the answer for this machine is kept: it may be a copy of another's disk."""
    version = subprocess.run(["qemu-system-x86_64", "--version"],
                             capture_output=True, check=True).stdout
    with open("/proc/cpuinfo", "rb") as file:
        cpu = re.findall(rb"^(?:model name|flags|microcode).*", file.read(), re.MULTILINE)[:3]
    digest = hashlib.sha256(b"\n".join([version, os.uname().release.encode(), *cpu]))
    return os.path.join(CACHE, f"kvm-{digest.hexdigest()[:16]}")


def kvm_works():
    """Whether KVM boots the kernel: it may be there and not be able to."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    path = probe_key()
    if not os.path.exists(path):
        options = parse_arguments(["--accel", "kvm", "-t", str(PROBE_LIMIT), "--log",
                                   path + ".log", "/run/vm/busybox", "true"])
        options.share, options.disk, options.env = [], [], []
        try:
            answer = "yes" if Machine(options, quiet=True).run() == 0 else "no"
        except VmError:
            answer = "no"
        with open(path, "w", encoding="ascii") as file:
            file.write(answer)
    with open(path, encoding="ascii") as file:
        return file.read() == "yes"


# Main ------------------------------------------------------------------------

def terminated(_signal, _frame):
    raise SystemExit(143)


def run(arguments):
    options = parse_arguments(arguments)
    if options.interactive and not sys.stdin.isatty():
        raise VmError("an interactive shell needs a terminal")
    if options.interactive:
        options.timeout = 0
        say("exit ends the machine; Ctrl-A X kills it")
    os.makedirs(CACHE, exist_ok=True)
    if options.accel == "auto":
        options.accel = "kvm" if options.arch in KVM_ARCHITECTURES and kvm_works() else "tcg"
    try:
        return Machine(options).run()
    except NotBooted as error:
        # Emulated machines stand still now and then, and nothing has been run
        # yet.
        say(f"{error}\nvm: once more")
        return Machine(options).run()


def main():
    signal.signal(signal.SIGTERM, terminated)
    try:
        return run(sys.argv[1:])
    except (VmError, kernel.KernelError) as error:
        say(str(error))
        return getattr(error, "status", UNUSABLE)
    except KeyboardInterrupt:
        say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
