"""Runs the binary, watches its manners, counts tries and violations."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

import layout
import spec

HERE = os.path.dirname(os.path.abspath(__file__))
BINARY = os.path.abspath(os.environ.get("MONOFO_BIN", os.path.join(HERE, "../../../target/release/monofo")))
EXITS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 143}
# Declared and set in every run, never to be seen in any output or file of ours.
SECRET = "canary-4f1c-of-the-environment"
# What drives a terminal: control characters but line feed and tab, C1, and the marks that turn text around.
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f\u0080-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SHOWN = 12


class Tally:
    """Tries and violations of one part, and the choices that its seed makes."""

    def __init__(self, part, seed, quick):
        self.part, self.seed, self.quick = part, seed, quick
        self.choices = random.Random(f"{part} {seed}")
        self.tries, self.failed, self.violations, self.notes = 0, 0, [], {}
        self.started, self.counted = time.monotonic(), 0

    def size(self, full, quick):
        return quick if self.quick else full

    def count(self):
        """One try is over."""
        self.tries += 1
        self.failed += len(self.violations) > self.counted
        self.counted = len(self.violations)

    def violation(self, text, outcome=None):
        text = f"try {self.tries}: {text}" + (f"\n    {outcome.told()}" if outcome else "")
        self.violations.append(text)
        if len(self.violations) <= SHOWN:
            print(f"{self.part}: VIOLATION: {text}", flush=True)
        elif len(self.violations) == SHOWN + 1:
            print(f"{self.part}: more violations are counted, not shown", flush=True)
        if os.environ.get("RIG_STOP") and re.search(os.environ["RIG_STOP"], text):
            raise Stopped(text)

    def expect(self, holds, text, outcome=None):
        if not holds:
            self.violation(text, outcome)
        return holds

    def note(self, what, more=1):
        self.notes[what] = self.notes.get(what, 0) + more

    def summary(self):
        for what, count in self.notes.items():
            print(f"{count:8} {what}")
        print(f"{self.part}: {self.tries} tries, {len(self.violations)} violations, seed {self.seed}, "
              f"{time.monotonic() - self.started:.0f} s", flush=True)


class Stopped(Exception):
    """RIG_STOP names a violation; the folder is kept as it is then."""


class Outcome:
    def __init__(self, args, cwd, env, code, out, err, took):
        self.args, self.cwd, self.env, self.code, self.out, self.err, self.took = args, cwd, env, code, out, err, took

    @property
    def text(self):
        return self.out.decode(errors="replace").strip()

    @property
    def document(self):
        try:
            return json.loads(self.out)
        except ValueError:
            return {}

    def told(self):
        env = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.env.items())
        said = (self.err[-600:] or self.out[:200]).decode(errors="backslashreplace").strip()
        return f"in {self.cwd}: {env} monofo {shlex.join(map(os.fsdecode, self.args))} -> {self.code}: {said}"


class Tool:
    """The binary in a sandbox: an empty environment but for a home of its own."""

    def __init__(self, tally, folder):
        self.tally, self.folder = tally, folder
        self.home = os.path.join(folder, "home")
        os.makedirs(self.home, exist_ok=True)

    def environment(self, more):
        return {"PATH": "/usr/bin:/bin", "HOME": self.home, "TMPDIR": os.path.join(self.folder, "tmp"), "MONOFO_GC_AUTO": "0",
                "LC_ALL": "C", "RIG_CANARY": SECRET, **more}

    def start(self, args, cwd, more=None, before=(), out=subprocess.PIPE, err=subprocess.PIPE):
        os.makedirs(os.path.join(self.folder, "tmp"), exist_ok=True)
        return subprocess.Popen([*before, BINARY, *args], cwd=cwd, env=self.environment(more or {}), stdin=subprocess.DEVNULL,
                                stdout=out, stderr=err, start_new_session=True)

    def run(self, args, cwd, more=None, codes=None, before=(), timeout=120):
        """Runs to the end and judges the manners; an exit code that is not in `codes` is a violation."""
        started = time.monotonic()
        child = self.start(args, cwd, more, before)
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            self.tally.violation(f"ran longer than {timeout} s", Outcome(args, cwd, more or {}, None, out, err, timeout))
        outcome = Outcome(args, cwd, more or {}, child.returncode, out, err, time.monotonic() - started)
        self.judge(outcome)
        if codes is not None and outcome.code not in codes:
            self.tally.violation(f"exit code {outcome.code} instead of {' or '.join(map(str, codes))}", outcome)
        return outcome

    def judge(self, outcome):
        """Promise 10, civil: no panic, a code of the table, one document with --json, nothing secret or raw."""
        killed = outcome.code is None or outcome.code == -signal.SIGKILL
        both = (outcome.out + b"\n" + outcome.err).decode(errors="surrogateescape")
        if "panicked at" in both or "RUST_BACKTRACE" in both:
            self.tally.violation("a panic", outcome)
        if not killed and outcome.code not in EXITS:
            self.tally.violation(f"exit code {outcome.code} is in no table", outcome)
        if SECRET in both:
            self.tally.violation("an environment's value in the output", outcome)
        if RAW.search(both):
            self.tally.violation(f"raw control characters in the output: {RAW.findall(both)[:5]!r}", outcome)
        if "--json" in outcome.args and not killed:
            try:
                json.loads(outcome.out)
            except ValueError as error:
                self.tally.violation(f"--json, but stdout is not one document ({error})", outcome)


def snapshot(top):
    """Everything about a tree that no command of ours may change; access times left out."""
    seen = {}
    top = os.fsencode(top)
    for folder, folders, files in os.walk(top):
        for name in [b"."] * (folder == top) + folders + files:
            path = os.path.normpath(os.path.join(folder, name))
            status = os.lstat(path)
            content = None
            if stat.S_ISREG(status.st_mode):
                content = spec.digest_file(path)
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            # A folder's size and link count follow its contents; those are looked at themselves.
            size = None if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_nlink)
            seen[os.path.relpath(path, top)] = (status.st_mode, status.st_ino, status.st_mtime_ns, size, content)
    return seen


def difference(before, after):
    """A few words on how two dictionaries differ, empty when they do not."""
    words = [f"{spec.escape(os.fsencode(path))} {'gone' if path not in after else 'new' if path not in before else 'changed'}"
             for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)]
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


class Sentinels:
    """Small trees beside everything; promise 5 says that they stay as they are."""

    def __init__(self, *folders):
        self.places = []
        for folder in folders:
            place = os.path.join(folder, "sentinel")
            os.makedirs(os.path.join(place, "folder"))
            with open(os.path.join(place, "folder", "file"), "w") as file:
                file.write("nobody touches this\n")
            os.symlink("folder/file", os.path.join(place, "link"))
            self.places.append((place, snapshot(place)))

    def check(self, tally, outcome=None):
        for place, before in self.places:
            changed = difference(before, snapshot(place) if os.path.isdir(place) else {})
            tally.expect(not changed, f"a sentinel was touched: {place}: {changed}", outcome)


def leftovers(folder, skip=()):
    """Paths below a folder that only an unfinished command of ours leaves."""
    found = []
    for at, folders, files in os.walk(os.fsencode(folder)):
        folders[:] = [name for name in folders if os.path.join(at, name) not in skip]
        found += [os.path.join(at, name) for name in folders + files if name.startswith(b".monofo-")]
    return found


def expect_clean(tally, found, what, outcome=None):
    """No entry is damaged, and nothing lies about."""
    problems = found.all_problems()
    tally.expect(not problems, f"{what}: {len(problems)} problems, first: {problems[:3]}", outcome)
    rest = found.debris + found.foreign
    tally.expect(not rest, f"{what}: {len(rest)} leftovers, first: {rest[:3]}", outcome)
    return not problems and not rest


def copy(source, target):
    """A tree as it is, hard links and times included."""
    if os.path.lexists(target):
        remove(target)
    subprocess.run(["cp", "-a", source, target], check=True)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


class Sandbox:
    """A temporary folder; kept, and named, when there were violations and RIG_KEEP is set."""

    def __init__(self, tally):
        self.tally = tally

    def __enter__(self):
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix=f"monofo-rig-{self.tally.part}-"))
        return self.folder

    def __exit__(self, kind, value, trace):
        if (os.environ.get("RIG_KEEP") or kind is Stopped) and (self.tally.violations or kind):
            print(f"{self.tally.part}: kept {self.folder}", flush=True)
        else:
            subprocess.run(["chmod", "-R", "u+rwX", self.folder], stderr=subprocess.DEVNULL)
            shutil.rmtree(self.folder, ignore_errors=True)


def need(tool):
    """False, and said, when a program is missing that a part cannot do without; required in the full checks."""
    if shutil.which(tool):
        return True
    if os.environ.get("MONOFO_REQUIRE_PEERS") == "1":
        print(f"reliability: {tool} is required here", file=sys.stderr)
        sys.exit(1)
    return False


def caches(folder, memo):
    return layout.read_cache(os.path.join(folder, ".meta-cache"), memo)


def stores(folder, memo):
    return layout.read_store(os.path.join(folder, ".meta-store"), memo)
