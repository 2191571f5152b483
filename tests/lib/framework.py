# SPDX-License-Identifier: GPL-2.0-only
"""Tests, and what runs them.

A test is a function with a sentence for a name:

    @test("a write to a region in copy waits and then wins")
    def _(t):
        ...

Further arguments of the decorator make one test of each value, or of each
combination; a dict gives the values names:

    @test("{size} regions keep what was written", size={"4 KiB": 8, "1 MiB": 2048})
    def _(t, size):
        ...

Each test runs in a child of its own, so that the parent can watch it, tell why
it hangs, and clean up after it. A test fails when it raises, when it takes
longer than its limit, when it leaves a device behind, and when the kernel
complains meanwhile. It is run again, a few times, only if it says by itself that it
has missed its situation (lib/errors.py).
"""

import ast
import itertools
import json
import os
import select
import signal
import sys
import time
import traceback
import zlib

from lib import kmsg, sweep
from lib.errors import Failure, Missed, Skip

DEFAULT_LIMIT = 120             # seconds
EXIT_LIMIT = 15                 # from the end of a test to that of its process
TRIES = 5                       # of a test that misses its situation

_tests = []


class Test:
    def __init__(self, group, sentence, fn, args, limit, defect, ours):
        self.group = group
        self.sentence = sentence
        self.fn = fn
        self.args = args
        self.limit = limit
        self.defect = defect
        self.ours = ours

    @property
    def name(self):
        return f"{self.group}: {self.sentence}"

    def seed(self, base):
        return zlib.crc32(f"{base} {self.name}".encode())


def test(sentence, limit=DEFAULT_LIMIT, defect=None, ours=None, **cases):
    """Makes a test, or several, of a function.

    limit:  seconds it may take.
    defect: what the kernel's own target does wrong here; with --peer the test
            must fail. May be a function of the test's arguments.
    ours:   why the test says nothing about the kernel's own target; with --peer
            it is skipped.
    """
    def labelled(values):
        if isinstance(values, dict):
            return values.items()
        return ((v, v) for v in values)

    def decorate(fn):
        group = os.path.basename(fn.__globals__["__file__"])[:-3]
        for choice in itertools.product(*map(labelled, cases.values())):
            labels = {k: c[0] for k, c in zip(cases, choice)}
            args = {k: c[1] for k, c in zip(cases, choice)}
            wrong = defect(**args) if callable(defect) else defect
            _tests.append(Test(group, sentence.format(**labels), fn, args,
                               limit, wrong, ours))
        return fn
    return decorate


def load_suite(folder):
    """Runs all files of the suite; returns their tests in order."""
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".py"):
            continue
        path = os.path.join(folder, name)
        with open(path, encoding="utf-8") as f:
            code = compile(f.read(), path, "exec")
        exec(code, {"__file__": path, "__name__": name[:-3]})

    names = [t.name for t in _tests]
    for name in names:
        if names.count(name) > 1:
            raise SystemExit(f"two tests are called {name!r}")
    return _tests


class Result:
    def __init__(self, outcome, text="", notes=()):
        self.outcome = outcome          # pass, fail, skip, defect; missed, for a while
        self.text = text
        self.notes = notes
        self.fatal = False              # nothing can run after this


def _condition(filename, line):
    """The condition of the `if` that has line @line as its body: it should be false."""
    with open(filename, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    asked = None
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and any(statement.lineno == line for statement in node.body):
            asked = ast.unparse(node.test)
    return asked


def _frame(error):
    """The line of the suite that an exception came from."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "/suites/" in frame.filename:
            return frame
    return None


def _where(error):
    frame = _frame(error)
    return f"{os.path.basename(frame.filename)}:{frame.lineno}" if frame else "?"


def _describe(error):
    if isinstance(error, (Failure, Missed)):
        frame = _frame(error)
        asked = frame and _condition(frame.filename, frame.lineno)
        return f"{_where(error)}: {error}" + (f"\nnot to be: {asked}" if asked else "")
    if isinstance(error, (OSError, AssertionError)):
        return f"{_where(error)}: {type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error)).rstrip()


def _child(t, make_context, pipe):
    """Runs one test and says through the pipe how it went."""
    outcome, text = "pass", ""
    context = make_context(t)
    try:
        t.fn(context, **t.args)
    except Skip as reason:
        outcome, text = "skip", str(reason)
    except Missed as error:
        outcome, text = "missed", _describe(error)
    except BaseException as error:      # whatever it is, it is the result
        outcome, text = "fail", _describe(error)

    try:
        context.close(failed=outcome == "fail")
    except BaseException as error:
        text = f"{text}\nafterwards: {_describe(error)}" if text else _describe(error)
        outcome = "fail"

    os.write(pipe, json.dumps({"outcome": outcome, "text": text[:20000],
                               "notes": context.notes}).encode())


def _read_result(pipe, limit):
    """The child's result, or None if there is none within the limit."""
    deadline = time.monotonic() + limit
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return None
        got = os.read(pipe, 65536)
        if got:
            data += got
        elif data:
            return Result(**json.loads(data))
        else:
            return Result("fail", "the test's process died")


def _reap(pid, limit):
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.02)
    return False


def _end_child(pid, result, patience):
    """Waits for the child's end; adds what delays it to the result."""
    if _reap(pid, EXIT_LIMIT * patience):
        return
    stuck = sweep.blocked_tasks()
    result.outcome = "fail"
    result.text += f"\nthe test ended, its process does not:\n{stuck}"
    sweep.open_gates()
    os.kill(pid, signal.SIGKILL)
    result.fatal = not _reap(pid, EXIT_LIMIT * patience)


def _run_in_child(t, make_context, patience):
    limit = t.limit * patience
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            os.close(read_end)
            _child(t, make_context, write_end)
        finally:
            os._exit(0)

    os.close(write_end)
    result = _read_result(read_end, limit)
    os.close(read_end)
    if result is None:
        result = Result("fail", f"not done after {limit:.0f} s\n" +
                        sweep.blocked_tasks(pid))
        sweep.open_gates()
        os.kill(pid, signal.SIGKILL)
    _end_child(pid, result, patience)
    return result


def _add_failure(result, text):
    result.text = "\n".join(filter(None, [
        result.text if result.outcome == "fail" else "", text]))
    result.outcome = "fail"


def run_test(t, make_context, log, peer=False, patience=1):
    """Runs one test with all that surrounds it; again if it missed its situation."""
    if peer and t.ours:
        return Result("skip", f"not for the kernel's own target: {t.ours}")

    missed = []
    while True:
        result = _try(t, make_context, log, peer, patience)
        if result.outcome != "missed":
            break
        missed.append(result.text)
        if len(missed) == TRIES:
            result.outcome = "fail"
            result.text = f"missed what it is about {TRIES} times:\n" + "\n".join(missed)
            return result
    if missed:
        result.notes = [*result.notes, f"missed what it is about {len(missed)} times before"]
    return result


def _try(t, make_context, log, peer, patience):
    log.mark(f"tests: {t.name}")
    result = _run_in_child(t, make_context, patience)

    if not result.fatal:
        left = sweep.sweep()
        if left and result.outcome != "fail":
            _add_failure(result, "left behind: " + ", ".join(left))

    lines = log.read()
    complaints = kmsg.complaints(lines)
    if complaints:
        _add_failure(result, "the kernel complained:\n" + "\n".join(complaints))
    excerpt = kmsg.excerpt(lines)
    if result.outcome == "fail" and excerpt:
        result.text += "\nkernel log:\n  " + "\n  ".join(excerpt)

    if peer and t.defect and not complaints and not result.fatal:
        _judge_defect(t, result)
    return result


def _judge_defect(t, result):
    if result.outcome == "fail":
        result.outcome = "defect"
        result.text = f"{t.defect}\n" + result.text.split("\nkernel log:")[0]
    elif result.outcome == "pass":
        result.outcome = "fail"
        result.text = f"the known defect did not show: {t.defect}"
