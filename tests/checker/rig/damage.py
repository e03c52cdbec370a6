"""One random bit of a cache or store flipped: nothing wrong is restored, verify finds it, the next store mends it."""

import os
import stat

import layout
import spec
import vectors
from rig import drive, trees

CLASSES = ["payload", "payload", "metadata", "facts", "files", "files", "store metadata", "other", "link", "mode"]


class Damage:
    def __init__(self, tally, tool, folder):
        self.tally, self.tool, self.choices = tally, tool, tally.choices
        self.template, self.work = os.path.join(folder, "template"), os.path.join(folder, "work")
        self.memo, self.made = {}, {}
        os.makedirs(self.work)
        for number in range(5):
            name = f"c{number}"
            table = {b"shared": b"the same in all\n" * 300, b"own": b"%d\n" % number, b"tool": ("x", b"#!/bin/sh\n"),
                     b"link%d" % number: ("l", b"shared"), b"empty": None}
            if number > 2:
                more = trees.tree(self.choices)
                table.update(more if isinstance(more, dict) else {b"more": more})
            elif number == 2:
                table = ("x", b"single\n" * 2000)
            vectors.lay_down(os.path.join(self.work, "sources", name), table)
        os.rename(os.path.join(self.work, "sources"), os.path.join(folder, "sources"))
        self.sources = os.path.join(folder, "sources")
        for name in sorted(os.listdir(self.sources)):
            source = os.path.join(self.sources, name)
            self.made[name] = [spec.tree_digest(source), None]
            self.store(name)
        tool.run(["store", "pin", "release", self.made["c0"][1]], self.work, codes=[0])
        tool.run(["store", "switch", "prod", self.made["c1"][1]], self.work, codes=[0])
        os.rename(self.work, self.template)

    def store(self, name, codes=(0,)):
        source = os.path.join(self.sources, name)
        more = {"MONOFO_CACHE_FORMAT": "tar.zst" if name in "c1c3" else "tar.lz4"}
        self.tool.run(["cache", "build", name, "--source", source], self.work, more, codes)
        self.made[name][1] = self.tool.run(["store", "add", name, "--source", source], self.work, codes=codes).text

    # what is damaged

    def candidates(self, kind):
        found = []
        for top in [".meta-cache", ".meta-store"]:
            for folder, folders, files in os.walk(os.fsencode(os.path.join(self.work, top))):
                for name in files + folders:
                    path = os.path.join(folder, name)
                    if self.class_of(path) == kind or kind == "mode" and self.class_of(path) == "files":
                        found.append(path)
        return sorted(found)

    def class_of(self, path):
        where = os.path.relpath(path, os.fsencode(self.work)).decode(errors="replace").split("/")
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return "link" if where[1] != "profiles" else None
        if not stat.S_ISREG(mode):
            return None
        cache = where[0] == ".meta-cache"
        if where[1] == "facts":
            return "facts"
        if len(where) > 2 and len(where[1]) == 2:
            if layout.METADATA.match(where[-1]):
                return "metadata" if cache else "store metadata"
            return "payload" if cache else "files"
        return "other"

    def flip(self, kind):
        """Damages something of this kind and says what, or None."""
        candidates = self.candidates(kind)
        if kind != "mode":
            candidates = [path for path in candidates if os.path.islink(path) or os.path.getsize(path)]
        if not candidates:
            return None
        path = self.choices.choice(candidates)
        status = os.lstat(path)
        if kind == "mode":
            os.chmod(path, stat.S_IMODE(status.st_mode) ^ 0o111)
            return path
        if kind == "link":
            target = os.readlink(path)
            os.remove(path)
            os.symlink(target + b"x", path)
            return path
        at, bit = self.choices.randrange(status.st_size), self.choices.randrange(8)
        # A new inode would let go of the other names; write into the old one.
        os.chmod(path, 0o644)
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << bit]))
        os.chmod(path, stat.S_IMODE(status.st_mode))
        if self.choices.random() < 0.5:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return path + b" byte %d bit %d" % (at, bit)

    # what must hold

    def run(self, verify_first):
        drive.copy(self.template, self.work)
        kind = self.choices.choice(CLASSES)
        what = self.flip(kind)
        if what is None:
            return
        self.tally.note(f"flips in {kind}")
        what = os.path.relpath(spec.escape(what), self.work)
        problems = {"cache": drive.caches(self.work, {}), "store": drive.stores(self.work, {})}
        if verify_first:
            self.verify(problems, what)
        for name, (tree, address) in self.made.items():
            self.get(["cache", "get", name], tree, what)
            self.get(["store", "get", address], tree, what)
        if kind == "other":
            return
        for name in self.made:
            self.store(name)
        for name, (tree, address) in self.made.items():
            self.get(["cache", "get", name], tree, what, [0])
            self.get(["store", "get", address], tree, what, [0])

    def verify(self, problems, what):
        for kind, found in problems.items():
            outcome = self.tool.run([kind, "verify"], self.work)
            damaged = [name for name, entry in found.entries.items() if entry["problems"]]
            # Texts can be lost without harm: they may just go. The rest of the top folder is no entry.
            if damaged:
                self.tally.expect(outcome.code == 7, f"{kind} verify does not find {what}", outcome)
                self.tally.note("found by verify")
                again = layout.Reader(kind, os.path.join(self.work, f".meta-{kind}"), {}).read()
                left = [name for name in damaged if name in again.entries]
                self.tally.expect(not left, f"{kind} verify leaves the damaged entry visible: {what}", outcome)
            elif any("facts/" in text for text in found.problems):
                self.tally.expect(outcome.code in (0, 7), f"{kind} verify: {what}", outcome)
                again = layout.Reader(kind, os.path.join(self.work, f".meta-{kind}"), {}).read()
                self.tally.expect(not any("facts/" in text for text in again.problems), f"{kind} verify leaves a damaged text: {what}", outcome)
            elif not found.problems and not "other" == what:
                self.tally.expect(outcome.code in (0,) or found.kind in what, f"{kind} verify finds damage where there is none: {what}", outcome)

    def get(self, args, tree, what, codes=(0, 3, 6, 7)):
        target = os.path.join(self.work, "target")
        drive.remove(target)
        vectors.lay_down(target, ("x", b"old\n") if args[2] == "c2" or args[2] == self.made["c2"][1] else {b"old": b"old\n"})
        old = spec.tree_digest(target)
        outcome = self.tool.run([*args, "--target", "target"], self.work, codes=codes)
        if outcome.code == 0:
            self.tally.expect(trees.same(target, tree), f"{what}: exit 0 and a wrong tree", outcome)
        else:
            self.tally.expect(trees.same(target, old), f"{what}: exit {outcome.code} and the target is changed", outcome)
            self.tally.note(f"{args[0]} get -> {outcome.code}")


def run(tally):
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        damage = Damage(tally, tool, folder)
        for number in range(tally.size(500, 40)):
            damage.run(verify_first=number % 2 == 0)
            tally.count()
