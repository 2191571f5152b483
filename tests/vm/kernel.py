# SPDX-License-Identifier: GPL-2.0-only
"""The kernel that the virtual machine boots, and its first file system.

Decompressing itself is what a kernel spends most of its boot with in an
emulated machine, so the one inside a bzImage is unpacked here, once.
"""

import lzma
import os
import re
import shutil
import struct
import subprocess
import zlib

# What the first file system needs before the host's modules are visible.
BOOT_MODULES = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"]


class KernelError(Exception):
    """There is no such kernel, or it cannot be used; the text says why."""


def _bzimage_release(image):
    # Documentation/arch/x86/boot.rst: kernel_version at 0x20e
    (offset,) = struct.unpack_from("<H", image, 0x20E)
    start = 0x200 + offset
    return image[start:image.index(b"\0", start)].split()[0].decode()


def _elf_release(image):
    found = re.search(rb"Linux version (\S+)", image)
    if not found:
        raise KernelError("no kernel version found in the kernel image")
    return found[1].decode()


def release_of(path):
    """What uname -r says when the kernel image at path runs."""
    try:
        with open(path, "rb") as file:
            image = file.read()
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}") from error
    if image[0x202:0x206] == b"HdrS":
        return _bzimage_release(image)
    return _elf_release(image)


def _payload(image):
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return image[start:start + length]


def _decompress(payload):
    """The payload's content, None when its format is one we cannot unpack."""
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd") and shutil.which("zstd"):
        # The kernel's build appends four bytes: the size.
        return subprocess.run(["zstd", "-dcq"], input=payload[:-4],
                              capture_output=True, check=True).stdout
    return None


# The note that tells where to enter a kernel that is no bzImage: its namesz,
# descsz, type (XEN_ELFNOTE_PHYS32_ENTRY) and name. Kernels of one's own may
# lack it.
_PVH_ENTRY = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")


def unpacked(path, cache):
    """The path of the kernel proper inside the bzImage at path.

    It is the bzImage itself when there is no way to unpack it, or to boot it then.
    """
    stat = os.stat(path)
    target = os.path.join(cache, f"vmlinux-{stat.st_size}-{stat.st_mtime_ns}")
    if os.path.exists(target):
        return target
    with open(path, "rb") as file:
        image = file.read()
    content = _decompress(_payload(image)) if image[0x202:0x206] == b"HdrS" else None
    if content is None or not _PVH_ENTRY.search(content):
        return path
    temporary = f"{target}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(content)
    os.rename(temporary, target)
    return target


def boot_modules(modules):
    """The module files to load, in order; none for what is built in.

    modules is the directory with modules.dep, as in /lib/modules/RELEASE.
    """
    files = []
    if not os.path.exists(os.path.join(modules, "modules.dep")):
        return files
    tree, release = os.path.split(os.path.realpath(modules))
    base = os.path.dirname(os.path.dirname(tree))
    for name in BOOT_MODULES:
        found = subprocess.run(
            ["/sbin/modprobe", "-d", base, "-S", release, "--show-depends", name],
            capture_output=True, text=True, check=False)
        for line in found.stdout.splitlines():
            words = line.split()
            if words[0] == "insmod" and words[1] not in files:
                files.append(words[1])
    return files


def module_content(path):
    """A module's file as the kernel takes it, uncompressed."""
    if path.endswith(".xz"):
        with lzma.open(path) as file:
            return file.read()
    if path.endswith(".zst"):
        return subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout
    with open(path, "rb") as file:
        return file.read()


class Cpio:
    """An archive in the format the kernel takes for its first file system."""

    def __init__(self):
        self._parts = []
        self._inode = 0

    def _add(self, name, mode, content=b""):
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        for part in (header + encoded, content):
            self._parts.append(part + b"\0" * (-len(part) % 4))

    def directory(self, name):
        self._add(name, 0o040755)

    def file(self, name, content, mode=0o755):
        self._add(name, 0o100000 | mode, content)

    def bytes(self):
        self._add("TRAILER!!!", 0)
        return b"".join(self._parts)
