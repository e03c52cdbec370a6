"""Kills at an exact call (with strace) and at random moments, and what must hold afterwards."""

import os
import re
import signal
import statistics
import subprocess
import time

from rig import drive
from rig.scenes import scenes

CALLS = ["rename", "renameat", "renameat2", "fsync", "fdatasync", "syncfs", "sync_file_range", "unlink", "unlinkat", "link", "linkat",
         "mkdir", "mkdirat", "rmdir", "symlink", "symlinkat", "ftruncate", "fchmod", "fchmodat", "flock"]
QUICK_CALLS = {"rename", "renameat", "renameat2", "fsync", "fdatasync", "syncfs", "unlink", "unlinkat", "link", "linkat", "mkdir", "mkdirat"}
ENTRY = re.compile(r"^(\d+) +([a-z_0-9]+)\(")


def counted(trace):
    """{call: the most entries of it that one thread has}, and whether the trace shows the kill."""
    threads, killed = {}, False
    with open(trace, errors="replace") as file:
        for row in file:
            found = ENTRY.match(row)
            if found:
                place = (found[2], found[1])
                threads[place] = threads.get(place, 0) + 1
            killed = killed or "+++ killed by SIGKILL +++" in row
    most = {}
    for (call, _), count in threads.items():
        most[call] = max(count, most.get(call, 0))
    return most, killed


class Sweep:
    def __init__(self, tally, tool, folder):
        self.tally, self.tool, self.trace = tally, tool, os.path.join(folder, "trace")

    def traced(self, scene, calls, inject=()):
        # One processor and so, by available parallelism, one worker: strace counts calls per thread.
        known = ",".join("?" + call for call in calls)
        before = ["taskset", "-c", "0", "strace", "-f", "-o", self.trace, "-e", f"trace={known}", *inject]
        return self.tool.run(scene.args, scene.work, scene.more, before=before)

    def scene(self, scene, calls):
        scene.fresh()
        outcome = self.traced(scene, calls)
        if not self.tally.expect(outcome.code == 0, f"{scene.name}: fails under strace", outcome):
            return
        planned = {call: count for call, count in counted(self.trace)[0].items() if call in calls}
        if not self.tally.expect(planned, f"{scene.name}: the trace shows no call at all"):
            return
        for call, count in planned.items():
            number = 1
            while self.kill(scene, call, number, number <= count):
                number += 1

    def kill(self, scene, call, number, must):
        """Kills before the `number`-th call; False when the command ended untouched."""
        for _ in range(3):
            scene.fresh()
            outcome = self.traced(scene, [call], ["-e", f"inject={call}:signal=KILL:when={number}"])
            most, killed = counted(self.trace)
            if killed or not must:
                break
        where = f"{scene.name}, killed at {call} {number}"
        if not killed:
            self.tally.expect(not must, f"{where}: the planned kill is not in the trace, three times over", outcome)
            self.tally.expect(outcome.code == 0, f"{where}: untouched, but failed", outcome)
            return False
        if not self.tally.expect(outcome.code in (-9, 137) and most.get(call, 0) >= number, f"{where}: the trace shows another end: {most}", outcome):
            return True
        name, scene.name = scene.name, where
        now = scene.judge(outcome)
        self.tally.note(f"{name}: killed at a call")
        self.tally.note(scene.progress(now))
        scene.recover(again_first=number % 2 == 0)
        scene.name = name
        self.tally.count()
        return True


def sweep(tally):
    missing = [tool for tool in ("strace", "taskset") if not drive.need(tool)]
    if missing:
        print(f"SKIPPED: kill-sweep, since {' and '.join(missing)} is not installed")
        return
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        worker = Sweep(tally, tool, folder)
        chosen = os.environ.get("RIG_SCENES", "")
        for scene in scenes():
            if chosen and not re.search(chosen, scene.name):
                continue
            scene.set_up(tally, tool, folder, 6)
            worker.scene(scene, [call for call in CALLS if not tally.quick or call in QUICK_CALLS])


def random_kills(tally):
    """Moments uniform in 0 … 1.1 × the median duration, measured here."""
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        chosen = os.environ.get("RIG_SCENES", "")
        for scene in scenes():
            if chosen and not re.search(chosen, scene.name):
                continue
            scene.set_up(tally, tool, folder, tally.size(300, 150))
            took = [scene.seconds]
            for _ in range(4):
                scene.fresh()
                took.append(scene.undisturbed())
            median = statistics.median(took)
            for number in range(tally.size(50, 8)):
                scene.fresh()
                one_random(tally, tool, scene, tally.choices.uniform(0, 1.1 * median), number)
                tally.count()
            tally.note(f"ms, median of {scene.name}", round(1000 * median))
    middle = tally.notes.get("killed while staging", 0) + tally.notes.get("killed after the first visible change", 0)
    kills = middle + tally.notes.get("killed before anything was written", 0)
    tally.expect(tally.quick or middle * 20 >= kills, f"only {middle} of {kills} kills met a command at work: this tested nothing")


def one_random(tally, tool, scene, moment, number):
    child = tool.start(scene.args, scene.work, scene.more)
    started = time.monotonic()
    try:
        out, err = child.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
    outcome = drive.Outcome(scene.args, scene.work, scene.more, child.returncode, out, err, time.monotonic() - started)
    tool.judge(outcome)
    now = scene.judge(outcome)
    if outcome.code == -signal.SIGKILL:
        tally.note(scene.progress(now))
    else:
        tally.expect(outcome.code == 0, f"{scene.name}: fails undisturbed", outcome)
        tally.note("ended before the kill")
        # Promise 2: what exited 0 is there. A kill that came late proves nothing, so look at the state alone.
        for item, value in scene.after.items():
            if item[0] in ("cache", "store", "target", "pin"):
                tally.expect(now.get(item) == value, f"{scene.name}: exited 0, but {item} is {now.get(item)}", outcome)
    scene.recover(again_first=number % 2 == 0)
