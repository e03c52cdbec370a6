"""Several processes on one cache and store."""

import os
import threading
import time

import spec
import vectors
from rig import drive


def one_key(tally):
    """Eight processes store one key, each another tree; afterwards one of them is there, whole, and nothing else."""
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        work, memo, trees = os.path.join(folder, "work"), {}, []
        for number in range(8):
            table = {b"f%d" % item: b"%d of %d\n" % (item, number) * (item + 1) ** 2 for item in range(12)}
            vectors.lay_down(os.path.join(work, f"s{number}"), {**table, b"own%d" % number: b"x"})
            trees.append(spec.tree_digest(os.path.join(work, f"s{number}")))
        for number in range(tally.size(200, 15)):
            store = number % 4 == 3
            together(tally, tool, work, ["store", "add"] if store else ["cache", "build"])
            found = drive.stores(work, memo) if store else drive.caches(work, memo)
            drive.expect_clean(tally, found, "the store" if store else "the cache")
            if store:
                tally.expect(sorted(found.whole().values()) == sorted(trees), f"{len(found.entries)} entries of 8 adds")
            else:
                tally.expect(len(found.entries) == 1 and set(found.whole().values()) <= set(trees), f"{len(found.entries)} entries of one key")
                outcome = tool.run(["cache", "get", "web", "--target", "out"], work, codes=[0])
                tally.expect(spec.tree_digest(os.path.join(work, "out")) in found.whole().values(), "get restores another tree", outcome)
            tally.count()


def together(tally, tool, work, verb):
    """All at once; every one of them must succeed."""
    children = [(args, tool.start(args, work)) for args in ([*verb, "web", "--source", f"s{number}"] for number in range(8))]
    for args, child in children:
        out, err = child.communicate(timeout=120)
        outcome = drive.Outcome(args, work, {}, child.returncode, out, err, 0)
        tool.judge(outcome)
        tally.expect(outcome.code == 0, "one of eight writers fails", outcome)


class History:
    """What happened to each key: (kind, value, start, end). Times are taken outside the commands, so they contain them."""

    def __init__(self):
        self.events, self.lock = {}, threading.Lock()

    def add(self, key, kind, value, start, end):
        with self.lock:
            self.events.setdefault(key, []).append((kind, value, start, end))

    def wrong(self):
        """Reads that no order of the events explains."""
        for key, events in self.events.items():
            writes = [event for event in events if event[0] == "write"]
            removals = [event for event in events if event[0] == "remove"]
            for kind, value, start, end in events:
                if kind == "read" and value is not None:
                    # A collector may or may not take an entry; an invalidation and another write surely end it.
                    ends = [other for other in writes + removals if other[1] not in (None, value)]
                    fine = any(write[1] == value and write[2] < end and not any(other[2] > write[3] and other[3] < start for other in ends)
                               for write in writes)
                    if not fine:
                        yield f"{key}: a read from {start:.3f} to {end:.3f} gave {value[:12]}, which was gone or never there"
                elif kind == "read":
                    for write in writes:
                        if write[3] < start and not any(gone[3] > write[2] and gone[2] < end for gone in removals):
                            yield f"{key}: a miss from {start:.3f} to {end:.3f}, though a write ended at {write[3]:.3f} and nothing removed it"
                            break


class Mixed:
    """Readers, writers, collectors and invalidators on 50 keys for some seconds."""

    KEYS = 50
    VALUES = 4

    def __init__(self, tally, tool, work):
        self.tally, self.tool, self.work, self.history = tally, tool, work, History()
        self.trees, self.lock = [], threading.Lock()
        for number in range(self.VALUES):
            table = {b"d%d/f%d" % (item % 5, item): b"%d in %d\n" % (item, number) * (1 + item * 97 % 500) for item in range(25)}
            vectors.lay_down(os.path.join(work, f"s{number}"), {**table, b"run": ("x", b"%d" % number), b"link": ("l", b"run")})
            self.trees.append(spec.tree_digest(os.path.join(work, f"s{number}")))

    def run(self, seconds):
        self.until = time.monotonic() + seconds
        roles = [self.reader] * 3 + [self.store_reader] + [self.writer] * 2 + [self.store_writer, self.collector, self.invalidator]
        threads = [threading.Thread(target=self.keep_going, args=(role, number)) for number, role in enumerate(roles)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for text in self.history.wrong():
            self.tally.violation(text)

    def keep_going(self, role, number):
        import random
        choices = random.Random(f"{self.tally.seed} {number}")
        while time.monotonic() < self.until:
            try:
                role(choices, number)
            except Exception as error:  # a thread that dies silently would test nothing
                self.tally.violation(f"{role.__name__}: {error!r}")
                return

    def command(self, args, codes):
        start = time.monotonic()
        outcome = self.tool.run(args, self.work)
        with self.lock:
            self.tally.count()
            self.tally.note(" ".join(args[:2]) + f" -> {outcome.code}")
            if outcome.code not in codes:
                self.tally.violation(f"exit code {outcome.code} instead of {codes}", outcome)
        return outcome, start, time.monotonic()

    def read(self, args, number, name):
        target = f"t{number}"
        before = self.value(target)
        outcome, start, end = self.command([*args, "--target", target], [0, 3])
        after = self.value(target)
        if outcome.code == 0:
            self.tally.expect(after in self.trees, "exit 0, but the target is no tree that was stored", outcome)
        else:
            self.tally.expect(after == before, "a miss changed the target", outcome)
        damaged = b"damaged" in outcome.err
        self.tally.expect(not damaged, "nothing is damaged here, but a reader says so", outcome)
        if name is not None:
            self.history.add(name, "read", after if outcome.code == 0 else None, start, end)

    def value(self, target):
        path = os.path.join(self.work, target)
        return spec.tree_digest(path) if os.path.lexists(path) else None

    def reader(self, choices, number):
        name = f"k{choices.randrange(self.KEYS)}"
        self.read(["cache", "get", name], number, name)

    def store_reader(self, choices, number):
        value = choices.randrange(self.VALUES)
        name = f"k{choices.randrange(5)}"
        address = spec.address(name, spec.key(spec.files_record(name)), self.trees[value])
        self.read(["store", "get", address], number, None)

    def writer(self, choices, number):
        name, value = f"k{choices.randrange(self.KEYS)}", choices.randrange(self.VALUES)
        outcome, start, end = self.command(["cache", "build", name, "--source", f"s{value}"], [0])
        self.history.add(name, "write", self.trees[value], start, end)

    def store_writer(self, choices, number):
        self.command(["store", "add", f"k{choices.randrange(5)}", "--source", f"s{choices.randrange(self.VALUES)}"], [0])

    def collector(self, choices, number):
        verb = choices.choice([["gc", "cache", "--grace", "0", "--max-size", "60K"], ["gc", "all", "--grace", "0"], ["gc", "all", "--grace", "0", "--max-age", "0"]])
        outcome, start, end = self.command(verb, [0])
        if verb[-1] != "0" or "--max-age" in verb:
            for key in range(self.KEYS):
                self.history.add(f"k{key}", "remove", None, start, end)
        time.sleep(0.4)

    def invalidator(self, choices, number):
        name = f"k{choices.randrange(self.KEYS)}"
        outcome, start, end = self.command(["cache", "invalidate", "--component", name], [0])
        self.history.add(name, "remove", name, start, end)
        time.sleep(0.05)


def mixed(tally):
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        work = os.path.join(folder, "work")
        os.makedirs(work)
        sentinels = drive.Sentinels(work, tool.home)
        Mixed(tally, tool, work).run(tally.size(30, 5))
        outcome = tool.run(["gc", "all", "--grace", "0"], work, codes=[0])
        drive.expect_clean(tally, drive.caches(work, {}), "the cache afterwards", outcome)
        drive.expect_clean(tally, drive.stores(work, {}), "the store afterwards", outcome)
        left = drive.leftovers(work)
        tally.expect(not left, f"left behind: {left[:3]}", outcome)
        sentinels.check(tally)
        tally.count()
