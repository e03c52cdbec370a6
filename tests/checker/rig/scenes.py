"""Scenes for the kill tests: a prepared folder, one command, and what may be there after the command was killed.

Before and after an undisturbed run are looked at once. After a kill each visible entry, target, profile and pin is as
before or as after (promise 3), whole (promise 4), and nothing else was touched (5, 8).
"""

import os
import time

import spec
import vectors
from rig import drive, trees


class Scene:
    """`prepare(scene)` fills `self.work`; `args` is the command; `target` what it restores, relative to the work folder."""

    def __init__(self, name, prepare, args, target=None, more=None, recover=("again", "clean")):
        self.name, self.prepare, self.args, self.target, self.more, self.steps = name, prepare, args, target, more or {}, recover

    def set_up(self, tally, tool, folder, size):
        self.tally, self.tool, self.size = tally, tool, size
        self.work = os.path.join(folder, "try")
        self.template = os.path.join(folder, "template-" + self.name.replace(" ", "-"))
        drive.remove(self.work)
        os.makedirs(self.work)
        self.prepare(self)
        self.args = self.args(self) if callable(self.args) else self.args
        self.memo = {}
        self.before = self.state()
        os.rename(self.work, self.template)
        self.fresh()
        self.seconds = self.undisturbed()
        self.after = self.state()

    def fresh(self):
        drive.copy(self.template, self.work)

    def undisturbed(self):
        outcome = self.tool.run(self.args, self.work, self.more, [0])
        return outcome.took

    def do(self, *args, more=None):
        return self.tool.run(list(args), self.work, more, [0])

    def source(self, name, number, kind="dir"):
        """A tree of the size asked for, the same for the same number."""
        table = {b"f%03d/%d" % (item % 40, item): b"%d %d\n" % (number, item) * (1 + item * 37 % 300) for item in range(self.size)}
        table.update({b"run": ("x", b"#!/bin/sh\n# %d\n" % number), b"link": ("l", b"run"), b"hollow": None})
        if kind == "file":
            table = ("x", b"%d\n" % number * 20000)
        os.makedirs(os.path.dirname(os.path.join(self.work, name)), exist_ok=True)
        vectors.lay_down(os.path.join(self.work, name), table)

    # states

    def state(self):
        """Everything that the promises speak of, as a dictionary of small values."""
        cache, store = drive.caches(self.work, self.memo), drive.stores(self.work, self.memo)
        self.found = (cache, store)
        state = {("cache", name): entry["tree"] for name, entry in cache.entries.items()}
        state |= {("store", name): entry["tree"] for name, entry in store.entries.items()}
        state |= {("pin", name): tuple(hashes) for name, hashes in store.pins.items()}
        for name, generations in store.profiles.items():
            state |= {("profile", name, item): str(members) for item, members in generations.items()}
        if self.target:
            path = os.path.join(self.work, self.target)
            try:
                state["target",] = spec.tree_digest(path) if os.path.lexists(path) else None
            except OSError as error:
                state["target",] = str(error)
        for path, what in drive.snapshot(self.work).items():
            first = path.split(b"/")[0]
            if first in (b".meta-cache", b".meta-store", b".") or self.target and (path + b"/").startswith(os.fsencode(self.target) + b"/"):
                continue
            if self.target and os.fsencode(self.target).startswith(path + b"/"):
                continue
            # Inode and access say nothing after a copy; mode, time, size and contents do.
            state["outside", path] = (what[0], what[2], what[3], what[4])
        return state

    def judge(self, outcome, settled=None):
        """Compares with before and after; `settled` demands one of them."""
        now = self.state()
        for found, what in zip(self.found, ["cache", "store"]):
            problems = found.all_problems()
            self.tally.expect(not problems, f"{self.name}: {what}: {problems[:3]}", outcome)
        for item in now.keys() | self.before.keys() | self.after.keys():
            if item[0] == "outside" and b"/.monofo-" in b"/" + item[1] and item not in self.before:
                self.tally.expect(settled is None, f"{self.name}: left behind: {item[1]}", outcome)
                continue
            allowed = [self.before.get(item), self.after.get(item)] if settled is None else [settled.get(item)]
            if now.get(item) not in allowed:
                self.tally.violation(f"{self.name}: {item} is {now.get(item)}, neither old nor new: {allowed}", outcome)
        return now

    def progress(self, now):
        """How far a killed command came, for the counts that show that the windows were met."""
        if any(now.get(item) != self.before.get(item) for item in self.after if item[0] in ("cache", "store", "target", "profile", "pin")) \
                or any(item not in now for item in self.before):
            return "killed after the first visible change"
        debris = self.found[0].debris + self.found[1].debris + drive.leftovers(self.work)
        return "killed while staging" if debris else "killed before anything was written"

    def recover(self, again_first):
        """The next run succeeds without help; one gc leaves nothing behind. Returns nothing, everything goes to the tally."""
        for step in self.steps if again_first else self.steps[::-1]:
            {"again": self.again, "clean": self.clean}[step]()

    def again(self):
        outcome = self.tool.run(self.args, self.work, self.more, [0])
        if self.target:
            self.tally.expect(trees.same(os.path.join(self.work, self.target), self.after["target",]), f"{self.name}: the next run restores another tree", outcome)
        return outcome

    def clean(self):
        outcome = self.tool.run(["gc", "all", "--grace", "0"], self.work, self.more, [0])
        for found, what in zip((drive.caches(self.work, self.memo), drive.stores(self.work, self.memo)), ["cache", "store"]):
            drive.expect_clean(self.tally, found, f"{self.name}: {what} after gc", outcome)
        left = drive.leftovers(self.work)
        self.tally.expect(not left, f"{self.name}: gc leaves {left[:3]}", outcome)


# --- the scenes ------------------------------------------------------------------------------------------------------

def with_entry(scene, kind="dir"):
    """A cache and a store that hold something already, a source, and a source for the command."""
    scene.source("old", 1, kind)
    scene.do("cache", "build", "web", "--source", "old")
    scene.do("cache", "build", "other", "--source", "old")
    scene.address = scene.do("store", "add", "web", "--source", "old").text
    scene.source("new", 2, kind)


def with_target(scene):
    with_entry(scene)
    scene.source("out/target", 3)


def with_file_target(scene):
    with_entry(scene, "file")
    scene.source("out/target", 3, "file")


def with_shared(scene):
    """The tree to add shares most of its files with one that is there."""
    with_entry(scene)
    drive.copy(os.path.join(scene.work, "old"), os.path.join(scene.work, "new"))
    vectors.lay_down(os.path.join(scene.work, "new"), {b"more": b"more\n", b"again": b"1 0\n"})


def with_garbage(scene):
    """Entries that gc must remove: older ones of a component, old cache entries, and what a kill left."""
    with_entry(scene)
    for number in range(3, 6):
        scene.source(f"more{number}", number)
        scene.do("store", "add", "web", "--source", f"more{number}")
        scene.do("cache", "build", f"aged{number}", "--source", f"more{number}")
    cache = drive.caches(scene.work, {})
    for entry in cache.entries.values():
        if entry["metadata"]["component"].startswith("aged"):
            os.utime(entry["path"], (10**9, 10**9))
    store = drive.stores(scene.work, {})
    for moment, entry in enumerate(sorted(store.entries.values(), key=lambda entry: entry["used"])):
        os.utime(entry["path"], (10**9 + moment, 10**9 + moment))
    os.makedirs(os.path.join(scene.work, ".meta-store/tmp/0123456789abcdef/half"))
    os.makedirs(os.path.join(scene.work, ".meta-cache/ff/" + "f" * 64))


def with_profile(scene):
    with_entry(scene)
    scene.source("second", 4)
    time.sleep(1.1)  # "newest", which gc keeps, is told by whole seconds
    scene.second = scene.do("store", "add", "web", "--source", "second").text
    scene.do("store", "switch", "prod", scene.address)


def with_second(scene):
    with_profile(scene)
    scene.do("store", "switch", "prod", scene.second)


def with_newer(scene):
    """What is switched to is kept by nothing but the generation to come: a half one must not lead to what gc took."""
    with_profile(scene)
    scene.source("third", 5)
    time.sleep(1.1)
    scene.do("store", "add", "web", "--source", "third")


def scenes():
    return [
        Scene("build fresh", with_entry, ["cache", "build", "fresh", "--source", "new"]),
        Scene("build again with another tree", with_entry, ["cache", "build", "web", "--source", "new"], more={"MONOFO_CACHE_FORMAT": "tar.zst"}),
        Scene("get into nothing", with_entry, ["cache", "get", "web", "--target", "out/target"], "out/target"),
        Scene("get over a folder", with_target, ["cache", "get", "web", "--target", "out/target"], "out/target"),
        Scene("get over a file", with_file_target, ["cache", "get", "web", "--target", "out/target"], "out/target"),
        Scene("add fresh", with_entry, ["store", "add", "web", "--source", "new"]),
        Scene("add what is shared", with_shared, ["store", "add", "web", "--source", "new"]),
        Scene("store get over a folder", with_target, lambda scene: ["store", "get", scene.address, "--target", "out/target"], "out/target"),
        Scene("gc all", with_garbage, ["gc", "all", "--grace", "0", "--max-age", "1d"]),
        Scene("invalidate", with_entry, ["cache", "invalidate", "--component", "web"]),
        Scene("switch", with_profile, lambda scene: ["store", "switch", "prod", scene.second]),
        Scene("switch to an older one", with_newer, lambda scene: ["store", "switch", "prod", scene.second], recover=("clean",)),
        Scene("switch back", with_second, ["store", "switch", "prod", "--back"], recover=("clean",)),
        Scene("pin", with_entry, lambda scene: ["store", "pin", "release", scene.address]),
    ]
