"""Round trips: build to get and add to get of random trees, exact by the checker, over targets of every kind."""

import os
import stat

import layout
import spec
import vectors
from rig import drive, trees

TARGETS = ["absent", "equal", "different", "deep", "a link", "other kind"]


def run(tally):
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        work, memo = os.path.join(folder, "work"), {}
        os.makedirs(work)
        sentinels = drive.Sentinels(work, tool.home, folder)
        for number in range(tally.size(300, 30)):
            Trip(tally, tool, work, number).run()
            sentinels.check(tally)
            tally.count()
            if number % 20 == 19:
                drive.expect_clean(tally, drive.caches(work, memo), "the cache")
                drive.expect_clean(tally, drive.stores(work, memo), "the store")
        for table in HARD:
            hard(tally, tool, work, table)
        # What `list` shows is what lies there.
        for read, command in [(drive.caches, "cache"), (drive.stores, "store")]:
            found = read(work, memo)
            shown = tool.run(["--json", command, "list"], work, codes=[0])
            names = sorted(str(entry.get("key" if command == "cache" else "content_hash")) for entry in shown.document.get("entries", ()))
            tally.expect(names == sorted(found.entries), f"{command} list shows {len(names)} entries, there are {len(found.entries)}", shown)
        tally.expect(set(os.listdir(tool.home)) == {"sentinel"}, f"something new at home: {os.listdir(tool.home)}")


# Exact, or refused before anything changed: deep, long, every byte in a name, very many in one folder.
HARD = [{b"/".join([b"d"] * depth): b"leaf\n"} for depth in (255, 256, 257, 400)] + [
    {b"/".join([b"p" * 200] * length): b"leaf\n"} for length in (17, 18)] + [
    {bytes([byte]) + b"x": b"%d" % byte for byte in range(1, 256) if byte != 0x2F},
    {b"%d/%d" % (number % 3, number): b"" for number in range(3000)}]


def hard(tally, tool, work, table):
    source, target = os.path.join(work, "source"), os.path.join(work, "target")
    for path in [source, target]:
        drive.remove(path)
    vectors.lay_down(source, table)
    vectors.lay_down(target, {b"old": b"old\n"})
    tree, old = spec.tree_digest(source), spec.tree_digest(target)
    what = f"{len(table)} files, the first {spec.escape(next(iter(table)))[:20]}…, {len(next(iter(table)))} bytes"
    for build, get in [(["cache", "build", "hard"], ["cache", "get", "hard"]), (["store", "add", "hard"], ["store", "get"])]:
        outcome = tool.run([*build, "--source", source], work, codes=[0, 6])
        if outcome.code == 0:
            restored = tool.run([*get, *([outcome.text] if get[0] == "store" else []), "--target", target], work, codes=[0])
            tally.expect(trees.same(target, tree), f"{what}: stored, and not restored", restored)
            tally.note("hard trees kept")
        else:
            tally.expect(trees.same(target, old), f"{what}: refused, and the target is changed", outcome)
            tally.note("hard trees refused")
    tally.count()


class Trip:
    def __init__(self, tally, tool, work, number):
        self.tally, self.tool, self.work, self.choices = tally, tool, work, tally.choices
        self.component = f"c{number}"
        self.source, self.target = os.path.join(work, "source"), os.path.join(work, "target")
        for path in [self.source, self.target]:
            drive.remove(path)

    def run(self):
        self.table = trees.tree(self.choices)
        vectors.lay_down(self.source, self.table)
        trees.weather(self.choices, self.source)
        root, nodes = spec.read_tree(self.source)
        self.root, self.tree = root, spec.digest(spec.tree_listing(root, nodes))
        before = drive.snapshot(self.source)
        key, encoding = self.build()
        for kind in self.choices.sample(TARGETS, 3):
            self.restore(["cache", "get", self.component], kind)
        address = self.add(key)
        if address:
            for kind in self.choices.sample(TARGETS, 2):
                link = self.choices.choice([[], ["--link", "copy"], ["--link", "reflink"], ["--link", "hard"]])
                self.restore(["store", "get", address, *link], kind, hard="hard" in link)
            if root == "file":
                self.into_folder(address)
        changed = drive.difference(before, drive.snapshot(self.source))
        # A publish that links must not touch the source; the link count and the times would tell.
        self.tally.expect(not changed, f"the source was changed: {changed}")

    def build(self):
        encoding = self.choices.choice(["tar.lz4", "tar.zst", None])
        more = {"MONOFO_CACHE_FORMAT": encoding} if encoding else {}
        self.tool.run(["cache", "build", self.component, "--source", self.source], self.work, more, [0])
        key = spec.key(spec.files_record(self.component))
        path = os.path.join(self.work, ".meta-cache", key[:2], key + ".metadata.json")
        if not self.tally.expect(os.path.exists(path), f"no entry {key} after cache build {self.component}"):
            return key, encoding
        reader = layout.Reader("cache", os.path.join(self.work, ".meta-cache"), {})
        reader.read_entry(key[:2], key)
        entry = reader.found.entries[key]
        self.tally.expect(not entry["problems"], f"the entry is not whole: {entry['problems'][:3]}")
        self.tally.expect(entry["tree"] == self.tree, f"the entry's tree is {entry['tree']}, the source's {self.tree}")
        says = entry["metadata"].get("payload", {}).get("encoding")
        self.tally.expect(says == (encoding or "tar.lz4"), f"encoding is {says}, asked for {encoding}")
        self.private(open(path, "rb").read())
        self.tally.note(f"built as {says}")
        return key, encoding

    def private(self, metadata):
        """No absolute path, no user, no host in what is kept."""
        for word in [os.fsencode(self.tool.folder), os.uname().nodename.encode(), drive.SECRET.encode()]:
            self.tally.expect(word not in metadata, f"{word!r} stands in the metadata")

    def add(self, key):
        outcome = self.tool.run(["store", "add", self.component, "--source", self.source], self.work, codes=[0])
        wanted = spec.address(self.component, key, self.tree)
        if not self.tally.expect(outcome.text == wanted, f"store add says {outcome.text!r}, the checker {wanted}", outcome):
            return None
        path = os.path.join(self.work, ".meta-store", wanted[:2], wanted + ".metadata.json")
        if self.tally.expect(os.path.exists(path), "no metadata after store add", outcome):
            self.private(open(path, "rb").read())
        again = self.tool.run(["store", "add", self.component, "--source", self.source], self.work, codes=[0])
        self.tally.expect(again.text == wanted, "adding twice gives another address", again)
        return wanted

    def prepare(self, kind):
        """What lies at the target before; None where this kind has no sense here."""
        drive.remove(self.target)
        drive.remove(self.target + ".real")
        if kind == "equal":
            vectors.lay_down(self.target, self.table)
        elif kind == "different":
            table = trees.tree(self.choices)
            if isinstance(table, dict) != isinstance(self.table, dict) or table == {}:
                table = {b"old": b"old\n"} if isinstance(self.table, dict) else b"old\n"
            vectors.lay_down(self.target, table)
        elif kind == "a link":
            vectors.lay_down(self.target + ".real", {b"kept": b"behind the link\n"})
            os.symlink("target.real", self.target)
        elif kind == "other kind":
            vectors.lay_down(self.target, b"a file\n" if isinstance(self.table, dict) else {b"not": b"empty\n"})

    def restore(self, args, kind, hard=False):
        self.prepare(kind)
        target = os.path.join(self.target, "one", "two") if kind == "deep" else self.target
        refused = kind == "other kind"
        before = drive.snapshot(self.target) if refused else None
        outcome = self.tool.run([*args, "--target", target], self.work, codes=[6] if refused else [0])
        self.tally.note("restores")
        if refused:
            changed = drive.difference(before, drive.snapshot(self.target)) if os.path.lexists(self.target) else "gone"
            self.tally.expect(not changed, f"refused, but the target is changed: {changed}", outcome)
        elif outcome.code == 0:
            self.exact(target, outcome, hard)
        if kind == "a link":
            self.tally.expect(not os.path.islink(self.target), "a target that is a link is not replaced itself", outcome)
            self.tally.expect(os.listdir(self.target + ".real") == ["kept"], "what a link led to was changed", outcome)
        left = drive.leftovers(self.work, [os.fsencode(os.path.join(self.work, name)) for name in (".meta-cache", ".meta-store")])
        self.tally.expect(not left, f"left behind: {left[:3]}", outcome)
        for path in left:
            drive.remove(path)

    def exact(self, target, outcome, hard):
        if not self.tally.expect(trees.same(target, self.tree), f"the target is not the tree {self.tree} of {self.root}", outcome):
            return
        stamps = set()
        for folder, folders, files in os.walk(os.fsencode(target) if self.root == "dir" else os.path.dirname(os.fsencode(target))):
            for name in files if self.root == "dir" else [os.path.basename(os.fsencode(target))]:
                status = os.lstat(os.path.join(folder, name))
                if not stat.S_ISREG(status.st_mode):
                    continue
                mode = stat.S_IMODE(status.st_mode)
                wanted = (0o444, 0o555) if hard else (0o644, 0o755)
                if not self.tally.expect(mode in wanted, f"a restored file has mode {mode:o}", outcome):
                    return
                self.tally.expect(hard or status.st_nlink == 1, "a restored file shares its inode", outcome)
                stamps.add(status.st_mtime_ns)
            if self.root == "file":
                break
        self.tally.expect(hard or len(stamps) <= 1, f"restored files have {len(stamps)} different times", outcome)

    def into_folder(self, address):
        """A file artifact with a slash behind the target: inside, under the recorded name."""
        drive.remove(self.target)
        os.mkdir(self.target)
        outcome = self.tool.run(["store", "get", address, "--target", self.target + "/"], self.work, codes=[0])
        self.tally.expect(trees.same(os.path.join(self.target, "source"), self.tree), f"not inside the folder: {os.listdir(self.target)}", outcome)
