"""A dry run of gc equals the run directly after it, and both equal what the checker expects of the rules.

Random caches and stores from a pool of entries; ages are set on the metadata files, far from every limit.
"""

import os
import time

import vectors
from rig import drive

HOUR, DAY = 3600, 86400
AGES = [60, 2 * HOUR, 5 * HOUR, 3 * DAY, 20 * DAY, 45 * DAY, 400 * DAY, -2 * DAY]
COMPONENTS = ["web", "api", "docs"]
# (flags, cache: grace, oldest allowed; store: grace)
FLAGS = [([], HOUR, 30 * DAY, DAY), (["--grace", "0"], 0, 30 * DAY, 0), (["--grace", "4h"], 4 * HOUR, 30 * DAY, 4 * HOUR),
         (["--max-age", "10"], HOUR, 10 * DAY, DAY), (["--max-age", "1d", "--grace", "0"], 0, DAY, 0),
         (["--max-age", "4h"], HOUR, 4 * HOUR, DAY), (["--grace", "2w"], 14 * DAY, 30 * DAY, 14 * DAY)]


class Pool:
    """A cache with four keys of each component, a store with four artifacts of each, most of their files shared."""

    def __init__(self, tally, tool, folder):
        self.tally, self.tool, self.choices = tally, tool, tally.choices
        self.template, self.work = os.path.join(folder, "template"), os.path.join(folder, "work")
        self.memo = {}
        for number in range(4):
            if number:
                time.sleep(1.1)  # "newest" is told by whole seconds
            vectors.lay_down(self.work, {b"input": b"%d\n" % number})
            table = {b"shared": b"same\n" * 4000, b"own": b"%d\n" % number * 3000 * (number + 1), b"tool": ("x", b"x"), b"link": ("l", b"own")}
            drive.remove(os.path.join(self.work, "made"))
            vectors.lay_down(os.path.join(self.work, "made"), table)
            for component in COMPONENTS:
                for verb in [["cache", "build"], ["store", "add"]]:
                    tool.run([*verb, component, "--source", "made", "--input", "input"], self.work, codes=[0])
        os.rename(self.work, self.template)

    def fresh(self):
        """A copy with random ages, pins, a profile and leftovers. Returns the addresses that something refers to."""
        drive.copy(self.template, self.work)
        now, held = time.time(), set()
        store = drive.stores(self.work, self.memo)
        for count, verb in [(2, "pin"), (3, "switch")]:
            for number in range(self.choices.randrange(count)):
                address = self.choices.choice(sorted(store.entries))
                name = f"p{number}" if verb == "pin" else "prod"
                self.tool.run(["store", verb, name, address], self.work, codes=[0])
                held.add(address)
        for found in (drive.caches(self.work, self.memo), store):
            for entry in found.entries.values():
                entry["age"] = self.choices.choice(AGES)
                os.utime(entry["path"], (now - entry["age"], now - entry["age"]))
            for fact in found.facts.values():
                os.utime(fact, (now - 500 * DAY, now - 500 * DAY))
        for top in [".meta-cache", ".meta-store"]:
            if self.choices.random() < 0.3:
                vectors.lay_down(os.path.join(self.work, top, "tmp"), {b"0123456789abcdef/half": b"x" * 9000})
            if self.choices.random() < 0.3:
                vectors.lay_down(os.path.join(self.work, top, "ee", "e" * 64), {b"left": b"x" * 5000})
        return held

    def expected(self, kind, found, held, flags):
        """Names that the rules let go. The newest artifact of a component stays; stamps of the future count as now."""
        _, cache_grace, oldest, store_grace = flags
        if kind == "cache":
            return {name for name, entry in found.entries.items() if max(entry["age"], 0) > max(oldest, cache_grace)}
        newest = {}
        for name, entry in found.entries.items():
            says = entry["metadata"]
            known = newest.get(says["component"])
            if known is None or says["created_at"] > found.entries[known]["metadata"]["created_at"]:
                newest[says["component"]] = name
        return {name for name, entry in found.entries.items()
                if max(entry["age"], 0) >= store_grace and name not in held and name not in newest.values()}

    def run(self):
        held = self.fresh()
        flags = self.choices.choice(FLAGS)
        before = {"cache": drive.caches(self.work, self.memo), "store": drive.stores(self.work, self.memo)}
        aged = {name: time.time() - entry["used"] for found in before.values() for name, entry in found.entries.items()}
        for found in before.values():
            for name, entry in found.entries.items():
                entry["age"] = aged[name]
        verb = self.choices.choice(["cache", "store", "all", "all"])
        limit = None
        args = ["gc", verb, *flags[0]]
        if self.choices.random() < 0.3 and verb != "store":
            limit = self.choices.choice([0, 20_000, 60_000, 10**9])
            args += ["--max-size", str(limit)]
        untouched = drive.snapshot(self.work)
        dry = self.tool.run(["--json", *args, "--dry-run"], self.work, codes=[0])
        changed = drive.difference(untouched, drive.snapshot(self.work))
        self.tally.expect(not changed, f"a dry run changes {changed}", dry)
        wet = self.tool.run(["--json", *args], self.work, codes=[0])
        after = {"cache": drive.caches(self.work, self.memo), "store": drive.stores(self.work, self.memo)}
        for kind in ["cache", "store"] if verb == "all" else [verb]:
            self.compare(kind, before[kind], after[kind], dry, wet)
            wanted = self.expected(kind, before[kind], held, flags)
            gone = before[kind].entries.keys() - after[kind].entries.keys()
            if limit is None or kind == "store":
                self.tally.expect(gone == wanted, f"{kind}: gone are {short(gone)}, the rules say {short(wanted)}", wet)
            else:
                self.limited(before[kind], after[kind], gone, wanted, limit, flags[1], wet)
            drive.expect_clean(self.tally, after[kind], f"{kind} after gc", wet)
            self.tally.note(f"{kind} entries removed", len(gone))

    def compare(self, kind, before, after, dry, wet):
        says, said = dry.document.get(kind, {}), wet.document.get(kind, {})
        for field in ["removed", "kept", "freed_bytes", "leftovers", "entries"]:
            first, second = says.get(field), said.get(field)
            if isinstance(first, list) and isinstance(second, list):
                # The order of a list is no promise; names and reasons are.
                first, second = sorted(map(str, first)), sorted(map(str, second))
            self.tally.expect(first == second, f"{kind}: the dry run says {field} {first}, the run {second}", wet)
        gone = before.entries.keys() - after.entries.keys()
        told = {item["name"] for item in said.get("removed", ())}
        self.tally.expect(told == gone, f"{kind}: told {short(told)}, gone {short(gone)}", wet)
        freed = sum(before.parts.get(part, 0) - after.parts.get(part, 0) for part in ["entries", "facts", "tmp"])
        self.tally.expect(said.get("freed_bytes") == freed, f"{kind}: says {said.get('freed_bytes')} bytes are freed, counted {freed}", wet)

    def limited(self, before, after, gone, wanted, limit, grace, outcome):
        self.tally.expect(wanted <= gone, f"cache: {short(wanted - gone)} are too old and still there", outcome)
        extra = gone - wanted
        open_to = [name for name in after.entries if max(before.entries[name]["age"], 0) > grace]
        left = after.parts.get("entries", 0) + after.parts.get("facts", 0)
        self.tally.expect(left <= limit or not open_to, f"cache: {left} bytes left of {limit}, and {len(open_to)} entries could go", outcome)
        for name in extra:
            age = max(before.entries[name]["age"], 0)
            self.tally.expect(age >= grace, f"cache: {name[:12]} is younger than the grace", outcome)
            younger = [other for other in open_to if max(before.entries[other]["age"], 0) > age + 1]
            self.tally.expect(not younger, f"cache: {name[:12]} went before {short(younger)}, used longer ago", outcome)


def short(names):
    return sorted(name[:8] for name in names)


def run(tally):
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        pool = Pool(tally, tool, folder)
        for _ in range(tally.size(100, 12)):
            pool.run()
            tally.count()
