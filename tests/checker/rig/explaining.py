"""One change in a random workspace: `cache explain` and the line of a miss name exactly that.

What differs is computed by the checker from its own records and listings, so a change that has two effects (an ignore
rule takes a file out and changes its own file) must be told with both.
"""

import os
import re

import sources
import spec
import vectors
from rig import drive
from rig.keys import Try, added, executable_bit, manifest_field, moved, new_file, one_bit, removed, salt
from rig.workspace import chain, random_workspace

VALUE = "a-value-that-nobody-prints"


def listings(space):
    """{component: its source listing and its extra listing, as {path: (kind, digest)}}"""
    out = {}
    for name, entry in space.components.items():
        source = sources.component_listing(space.folder(name), entry.get("outputs"), entry.get("exclude", ()), space.own())
        extra = sources.named_listing(space.root, entry["inputs"], space.own()) if entry.get("inputs") else b""
        out[name] = (lines(source), lines(extra))
    return out


def lines(listing):
    table = {}
    for row in listing.splitlines()[1:]:
        kind, digest, _, path = row.decode().split(" ", 3)
        table.setdefault(path, []).append((kind, digest))
    return table


def changed_paths(what, before, after):
    for path in before.keys() | after.keys():
        if path not in after:
            yield (what, path, "removed")
        elif path not in before:
            yield (what, path, "added")
        elif before[path] != after[path]:
            same = [item[1] for item in before[path]] == [item[1] for item in after[path]] and {"f", "x"} == {before[path][0][0], after[path][0][0]}
            yield (what, path, "mode" if same else "changed")


def differences(space, top, before, after):
    """{(component, what, name, change)} between two states, each {component: (record, listings)}."""
    found = set()
    for name in chain(space.components, top):
        (old, old_lists), (new, new_lists) = before[name], after[name]
        if old is None:
            continue
        found |= {(name, field, None, "changed") for field in ["version", "type", "build_target", "platform", "salt"] if old[field] != new[field]}
        for variable in old["env"].keys() | new["env"].keys():
            first, second = old["env"].get(variable), new["env"].get(variable)
            if first != second:
                found.add((name, "env", variable, "added" if first is None else "removed" if second is None else "changed"))
        for number, what in enumerate(["source", "input"]):
            found |= {(name, *item) for item in changed_paths(what, old_lists[number], new_lists[number])}
    return found


def meant(name):
    """A name as a listing writes it, from the way in which the tool shows names: "\\xHH", "\\u{H}", a doubled backslash."""
    if name is None:
        return None

    def raw(found):
        if found[1].startswith(b"u"):
            return chr(int(found[1][2:-1], 16)).encode()
        return b"\\" if found[1] == b"\\" else bytes([int(found[1][1:], 16)])

    return spec.escape(re.sub(rb"\\(\\|x[0-9a-f]{2}|u\{[0-9a-f]+\})", raw, name.encode()))


def state(space):
    keys, lists = space.keys(), listings(space)
    return {name: (keys[name][0], lists[name]) for name in space.components}


def ignore_rule(test, name):
    """A rule more, that takes a file out of the set."""
    path = os.path.join(test.space.folder(name), ".gitignore")
    listed = [item for item in test.space.listed(name) if not item.endswith(b".gitignore") and b"\n" not in item]
    if not listed:
        return None
    old = open(path, "rb").read() if os.path.exists(path) else None
    victim = b"/" + b"".join(b"\\" + bytes([byte]) if byte in b"\\*?[]#! " else bytes([byte]) for byte in test.choices.choice(listed))
    with open(path, "wb") as file:
        file.write((old or b"") + victim + b"\n")
    return True


def environment(test, name):
    """Set, unset, or another value of a declared variable."""
    variable = next((item for item in test.space.components[name].get("env", ()) if item != "RIG_CANARY"), None)
    if variable is None:
        return None
    if variable in test.space.env and test.choices.random() < 0.5:
        del test.space.env[variable]
    else:
        test.space.env[variable] = VALUE
    return True


def extra_input(test, name):
    if "inputs" not in test.space.components[name]:
        return None
    return new_file(os.path.join(test.space.root, "tools/shared"), b"new.bzl", b"x")


CHANGES = [one_bit, added, removed, executable_bit, moved, ignore_rule, environment, environment, extra_input, extra_input, salt,
           manifest_field("version", ["v9", "v8"]), manifest_field("type", ["make", "ninja"]),
           manifest_field("build_target", ["//z", "//y"]), manifest_field("platform", ["any", "native"])]


# Differences whose cause lies outside of components.
COMMON = {"salt", "env", "input"}


class Explained(Try):
    def run(self):
        root = self.space.root
        vectors.lay_down(os.path.join(root, "made"), {b"made": b"made\n"})
        self.base = self.space.keys()[self.top][1]
        self.tool.run(["cache", "build", self.top, "--source", "made"], root, self.space.env, [0])
        before = state(self.space)
        names = chain(self.space.components, self.top)
        deep = self.choices.random() < 0.5
        for _ in range(50):
            change = self.choices.choice(CHANGES)
            where = names[-1] if deep else self.choices.choice(names)
            if change(self, where) and self.space.keys()[self.top][1] != self.base:
                break
        else:
            return
        self.tally.note(f"changes: {change.__name__}")
        self.tally.note(f"changes {self.distance(where)} levels down")
        self.compare(change.__name__, differences(self.space, self.top, before, state(self.space)))

    def distance(self, name):
        """How many levels below the top a component is, by the shortest way."""
        level, seen, count = [self.top], {self.top}, 0
        while name not in level:
            level = [other for item in level for other in (text.split(":")[0] for text in self.space.components[item].get("depends_on", ()))
                     if other not in seen]
            seen |= set(level)
            count += 1
        return count

    def compare(self, change, wanted):
        root, env = self.space.root, self.space.env
        outcome = self.tool.run(["--json", "cache", "explain", self.top], root, env, [0])
        told = outcome.document.get("reason", {}).get("differences", [])
        found = {((item["via"] or [self.top])[-1], item["what"], meant(item["name"]), item["change"]) for item in told}
        # What several components take from one place is named once, at one of them.
        once = {item[1:] for item in wanted if item[1] in COMMON}
        named = sorted(item[1:] for item in found if item[1] in COMMON)
        missing = {item for item in wanted - found if item[1] not in COMMON}
        if found - wanted or missing or named != sorted(once) or len(told) != len(found):
            self.tally.violation(f"{change}: explain says {sorted(map(str, found - wanted))} and does not say {sorted(map(str, missing))}, "
                                 f"and says once what is common: {named} for {sorted(once)}", outcome)
            return
        words = self.tool.run(["cache", "explain", self.top], root, env, [0])
        miss = self.tool.run(["cache", "get", self.top, "--target", "restored"], root, env, [3])
        line = next((row for row in miss.err.decode(errors="replace").splitlines() if "miss" in row), "")
        self.tally.expect(told[0]["text"] in line, f"{change}: the miss line does not say {told[0]['text']!r}", miss)
        more = f"and {len(told) - 1} more difference"
        self.tally.expect((more in line) == (len(told) > 1), f"{change}: {len(told)} differences, but the miss line counts otherwise", miss)
        for item in told[:20]:
            self.tally.expect(item["text"].encode() in words.out, f"{change}: explain without --json leaves out {item['text']!r}", words)
        for output in [outcome, words, miss]:
            self.tally.expect(VALUE.encode() not in output.out + output.err, f"{change}: a variable's value is printed", output)
        self.tally.expect(not os.path.lexists(os.path.join(root, "restored")), f"{change}: a miss made a target", miss)


def run(tally):
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        for _ in range(tally.size(300, 30)):
            root = os.path.join(folder, "w")
            drive.remove(root)
            Explained(tally, tool, random_workspace(tally.choices, root, odd=tally.choices.random() < 0.3)).run()
            tally.count()
