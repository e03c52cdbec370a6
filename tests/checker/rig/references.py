"""What keeps a store entry: each kind of reference alone keeps its entry, and without it the entry goes.

Also: what cannot be read stops gc before it deletes anything, and the grace covers what is young.
"""

import os
import time

import spec
import vectors
from rig import drive
from rig.workspace import Workspace

LOCK = 'lock_version: 1\ncomponents:\n  app:\n    version: "{version}"\n'


class Stage:
    """A workspace whose component `app` has entries: two of version v0 and three of v1, oldest first."""

    def __init__(self, tally, tool, folder):
        self.tally, self.tool = tally, tool
        self.template, self.work = os.path.join(folder, "template"), os.path.join(folder, "work")
        self.memo, self.entries = {}, []
        space = Workspace(self.work, {"app": {"version": "v0", "type": "bazel"}, "lib": {"version": "v5"}})
        for number, version in enumerate(["v0", "v0", "v1", "v1", "v1"]):
            space.components["app"]["version"] = version
            space.write()
            self.sources(number)
            vectors.lay_down(os.path.join(self.work, "made"), {b"number": b"%d\n" % number})
            if number:
                # Which one is newest is told by whole seconds.
                time.sleep(1.1)
            outcome = tool.run(["store", "add", "app", "--source", "made"], self.work, codes=[0])
            self.entries.append(outcome.text)
        os.rename(self.work, self.template)

    def sources(self, number):
        vectors.lay_down(os.path.join(self.work, "components/app"), {b"main.c": b"int v%d;\n" % number})
        vectors.lay_down(os.path.join(self.work, "components/lib"), {b"lib.c": b"int lib;\n"})

    def fresh(self):
        drive.copy(self.template, self.work)
        self.sources(99)  # no entry has the current key

    def write(self, path, text):
        path = os.path.join(self.work, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)

    def do(self, *args):
        return self.tool.run(list(args), self.work, codes=[0])

    def there(self):
        found = drive.stores(self.work, self.memo)
        problems = found.all_problems()
        self.tally.expect(not problems, f"after gc: {problems[:3]}")
        return {number for number, entry in enumerate(self.entries) if entry in found.entries}

    def gc(self, kept, why, args=("gc", "store", "--grace", "0")):
        outcome = self.do(*args)
        there = self.there()
        self.tally.expect(there == kept, f"{why}: entries {sorted(there)} are there, expected {sorted(kept)}", outcome)
        self.tally.count()

    def refused(self, why, code=4):
        before = drive.snapshot(os.path.join(self.work, ".meta-store"))
        for verb in ["store", "all"]:
            outcome = self.tool.run(["gc", verb, "--grace", "0"], self.work, codes=[code])
            changed = drive.difference(before, drive.snapshot(os.path.join(self.work, ".meta-store")))
            self.tally.expect(not changed, f"{why}: gc {verb} deleted something: {changed}", outcome)
        self.tally.count()


def run(tally):
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        stage = Stage(tally, tool, folder)
        if not tally.expect(len(set(stage.entries)) == 5 and all(map(spec.HEX.match, stage.entries)), f"the stage is not set: {stage.entries}"):
            tally.count()
            return
        for part in [nothing, grace, pin, generation, lock_artifact, lock_version, current_key, newest, unreadable, without_manifest]:
            stage.fresh()
            part(stage)


def nothing(stage):
    stage.gc({4}, "nothing refers to the others; the newest stays")


def grace(stage):
    stage.gc({0, 1, 2, 3, 4}, "all are young", ("gc", "store", "--grace", "1h"))
    stage.gc({0, 1, 2, 3, 4}, "all are young, default grace", ("gc", "store"))


def pin(stage):
    stage.do("store", "pin", "release", stage.entries[0])
    stage.gc({0, 4}, "a pin")
    stage.do("store", "unpin", "release")
    stage.gc({4}, "the pin is gone")


def generation(stage):
    for number in [0, 1]:
        stage.do("store", "switch", "prod", stage.entries[number])
    stage.gc({0, 1, 4}, "the current and an earlier generation")
    stage.do("store", "switch", "prod", "--back")
    stage.gc({0, 1, 4}, "after going back both generations are still listed")
    current = os.path.join(stage.work, ".meta-store/profiles/prod/current")
    stage.tally.expect(open(os.path.join(current, "app/number")).read() == "0\n", "after --back, current leads to another entry")
    drive.remove(os.path.join(stage.work, ".meta-store/profiles/prod"))
    stage.gc({4}, "the profile is gone")


def lock_artifact(stage):
    for name, number in [("components.lock.yaml", 0), ("components.lock.prod.yaml", 2)]:
        path = "manifests/" + name
        text = LOCK.format(version="v7") + f"    artifact:\n      - platform: {spec.native_platform()}\n        hash: {stage.entries[number]}\n"
        stage.fresh()
        stage.write(path, text)
        stage.gc({number, 4}, f"an artifact in {name}")
        os.remove(os.path.join(stage.work, path))
        stage.gc({4}, f"{name} is gone")


def lock_version(stage):
    for name in ["components.lock.yaml", "components.lock.dev.yaml"]:
        stage.fresh()
        stage.write("manifests/" + name, LOCK.format(version="v0"))
        stage.gc({1, 4}, f"the newest of the version in {name}")
        os.remove(os.path.join(stage.work, "manifests", name))
        stage.gc({4}, f"{name} is gone")


def current_key(stage):
    stage.sources(2)
    stage.write("manifests/components.yaml", 'components:\n  app: {version: "v1", type: bazel}\n  lib: {version: "v5"}\n')
    stage.gc({2, 4}, "the current key")
    stage.sources(77)
    stage.gc({4}, "another key is current")


def newest(stage):
    stage.gc({4}, "the newest")
    vectors.lay_down(os.path.join(stage.work, "made"), {b"number": b"5\n"})
    time.sleep(1.1)
    stage.do("store", "add", "app", "--source", "made")
    # The new one is newest and has the current key.
    stage.gc(set(), "another one is newest")


def unreadable(stage):
    for path, text in [("manifests/components.lock.yaml", "components: [\n"), ("manifests/components.lock.prod.yaml", "\x00"),
                       ("manifests/components.yaml", "components:\n  app: {depends_on: [nobody]}\n"), ("manifests/components.yaml", ": : :\n\t- x"),
                       (".meta-store/roots/pins/release.json", "{"), (".meta-store/profiles/prod/gen-2.json", "no")]:
        stage.fresh()
        stage.do("store", "pin", "release", stage.entries[0])
        stage.do("store", "switch", "prod", stage.entries[1])
        stage.do("store", "switch", "prod", stage.entries[2])
        stage.write(path, text)
        stage.refused(f"{path} cannot be read")


def without_manifest(stage):
    drive.remove(os.path.join(stage.work, "manifests"))
    stage.do("store", "pin", "release", stage.entries[0])
    stage.do("store", "switch", "prod", stage.entries[1])
    stage.gc({0, 1, 4}, "no manifest: pins, profiles and the newest stay")
