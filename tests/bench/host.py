# SPDX-License-Identifier: GPL-2.0-only
"""What the benchmarks have in common outside of their virtual machines."""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time

import tables

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
PROJECT = os.path.dirname(TESTS)
BUILD = os.path.join(PROJECT, "build", "bench")


def parser(name, text, choices):
    """The options of every benchmark; choices are the tables it makes."""
    made = argparse.ArgumentParser(prog=f"tests/bench/{name}", description=text,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--module", metavar="FILE", default=os.path.join(PROJECT, "dm-clone.ko"),
        help="the module to measure")
    add("--peer", metavar="FILE", default=os.path.join(PROJECT, "build", "peer", "dm-clone.ko"),
        help="the kernel's own, to compare with; left out if there is none")
    add("--only", metavar="TABLE", action="append", choices=choices,
        help=f"measure this table only, may be repeated: {', '.join(choices)}")
    add("--render", action="store_true",
        help="measure nothing, make the tables of the last results again")
    add("--into", metavar="FILE",
        help="put the tables into this document too, between its markers")
    return made


def modules(options):
    """(name, file) of those there are."""
    subjects = getattr(options, "subject", None)
    if subjects:
        return [(name, os.path.realpath(file))
                for name, file in (subject.split("=", 1) for subject in subjects)]
    found = [("ours", os.path.realpath(options.module))]
    if os.path.exists(options.peer):
        found.append(("peer", os.path.realpath(options.peer)))
    return found


def _first_line(*command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, check=False, cwd=PROJECT)
    except OSError:
        return "unknown"
    return done.stdout.split("\n")[0] or "unknown"


def versions():
    """What a run was made with, for its tables."""
    qemu = _first_line("qemu-system-x86_64", "--version")
    return {"commit": _first_line("git", "describe", "--always", "--dirty", "--abbrev=12"),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "fio": _first_line("fio", "--version"),
            "qemu": (re.findall(r"version (\S+)", qemu) or [qemu])[0]}


class _Used:
    """How long something takes, and of that the CPUs: those of machines that are over."""

    def __init__(self):
        self._began = time.monotonic()
        self._cpu = self._cpu_seconds()

    @staticmethod
    def _cpu_seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def minutes(self):
        return {"minutes": (time.monotonic() - self._began) / 60,
                "cpu_minutes": (self._cpu_seconds() - self._cpu) / 60}

    def __str__(self):
        return "{minutes:.1f} minutes, {cpu_minutes:.1f} of CPU time".format(**self.minutes())


class Results:
    """build/bench/NAME.json, and the tables made of it."""

    def __init__(self, name):
        self.name = name
        self.path = os.path.join(BUILD, f"{name}.json")
        os.makedirs(BUILD, exist_ok=True)

    def exist(self):
        return os.path.exists(self.path)

    def forget(self):
        if self.exist():
            os.unlink(self.path)

    def load(self):
        with open(self.path, encoding="utf-8") as file:
            return json.load(file)

    def save(self, results):
        with open(self.path, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)

    def measure(self, guest, parameters, *machine):
        """Has tests/bench/GUEST write them, in such a machine; its exit status."""
        parameters = dict(parameters, conditions=dict(
            parameters.get("conditions", {}), **versions(), load_average=os.getloadavg()[0],
            peer=len(parameters["modules"]) > 1))
        used = _Used()
        self.forget()
        with tempfile.TemporaryDirectory(prefix="run-", dir=BUILD) as directory:
            path = os.path.join(directory, "parameters")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(parameters, file)
            status = subprocess.run(
                [os.path.join(TESTS, "vm", "run"), *machine, "--share", BUILD,
                 os.path.join(HERE, guest), path, self.path], check=False).returncode
        if self.exist():
            self._note(used)
        print(f"{self.name}: {used}", file=sys.stderr)
        return status

    def _note(self, used):
        results = self.load()
        results["conditions"].update(used.minutes())
        self.save(results)

    def show(self, text, into, which="measured", for_document=None):
        """Tables to wherever they belong: of a document, between which markers."""
        with open(os.path.join(BUILD, f"{self.name}.rst"), "w", encoding="utf-8") as file:
            file.write(text)
        if into:
            tables.put_into(into, for_document or text, which)
        print(text, end="")
