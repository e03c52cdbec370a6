"""Reads a cache or a store from its directory: what is visible, whether it is whole, what is debris, what it takes on disk.

An entry is visible when its metadata file is there: the commit marker. A visible entry that is not whole is a problem;
what lies about without being visible is debris, which `gc` must remove; what fits no name of ours is foreign.
"""

import json
import os
import re
import stat
from datetime import datetime

import payload
import spec

FORMATS = {"cache": b"meta-cache 1\n", "store": b"meta-store 1\n"}
TOPS = {"cache": {"CACHEDIR.TAG", ".gitignore", "FORMAT", "facts", "tmp", "quarantine", "counters", "stat-cache"},
        "store": {".gitignore", "FORMAT", "counters", "facts", "profiles", "roots", "tmp", "quarantine"}}
SCHEMAS = {"cache": "meta.cache-entry/1", "store": "meta.store-entry/1"}
TAG = b"Signature: 8a477f597d28d172789f06886806bc55"
METADATA = re.compile(r"([0-9a-f]{64})\.metadata\.json\Z")
PAYLOAD = re.compile(r"payload-([0-9a-f]{64})\.(tar\.lz4|tar\.zst)\Z")
FACT = re.compile(r"([0-9a-f]{64})\.zst\Z")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")


class Layout:
    """What was found. `entries` maps K or S to a dictionary with metadata, tree, problems, path, size and last use."""

    def __init__(self, kind, top):
        self.kind, self.top = kind, os.fspath(top)
        self.entries, self.facts, self.pins, self.profiles = {}, {}, {}, {}
        self.problems, self.debris, self.foreign, self.quarantine = [], [], [], []
        self.disk = self.apparent = self.shared = 0
        self.parts = {}  # disk blocks by part: entries, facts, tmp, …

    def all_problems(self):
        """Everything that is visible and wrong, one line each."""
        out = list(self.problems)
        for name, entry in self.entries.items():
            out += [f"{name[:12]}: {problem}" for problem in entry["problems"]]
        return out

    def whole(self):
        return {name: entry["tree"] for name, entry in self.entries.items() if not entry["problems"]}


class Reader:
    def __init__(self, kind, top, memo):
        self.found, self.kind, self.top, self.memo = Layout(kind, top), kind, os.fspath(top), memo

    def path(self, *parts):
        return os.path.join(self.top, *parts)

    def remembered(self, path, compute):
        """A digest or the like of a file, kept while neither inode, size nor times change."""
        status = os.lstat(path)
        known = (compute.__name__, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if known not in self.memo:
            self.memo[known] = compute(path)
        return self.memo[known]

    def read(self):
        if not os.path.isdir(self.top):
            return self.found
        self.read_top()
        for name in sorted(os.listdir(self.top)):
            if re.fullmatch("[0-9a-f]{2}", name):
                self.read_shard(name)
        self.read_facts()
        for name in ["tmp", "quarantine"]:
            if os.path.isdir(self.path(name)):
                where = self.found.debris if name == "tmp" else self.found.quarantine
                where += [f"{name}/{item}" for item in sorted(os.listdir(self.path(name)))]
        if self.kind == "store":
            self.read_pins()
            self.read_profiles()
        self.measure()
        return self.found

    def read_top(self):
        for name in os.listdir(self.top):
            if name not in TOPS[self.kind] and not re.fullmatch("[0-9a-f]{2}", name):
                self.found.foreign.append(name)
        expected = {"FORMAT": lambda text: text == FORMATS[self.kind], ".gitignore": lambda text: text == b"*\n"}
        if self.kind == "cache":
            expected["CACHEDIR.TAG"] = lambda text: text.startswith(TAG)
        for name, right in expected.items():
            try:
                with open(self.path(name), "rb") as file:
                    if not right(file.read()):
                        self.found.problems.append(f"{name} says something else")
            except FileNotFoundError:
                self.found.problems.append(f"{name} is missing")

    def read_shard(self, shard):
        names = set(os.listdir(self.path(shard)))
        visible = {found[1] for found in map(METADATA.match, names) if found and found[1][:2] == shard}
        for name in sorted(names):
            found = METADATA.match(name)
            if found and found[1] in visible:
                self.read_entry(shard, found[1])
            elif spec.HEX.match(name) and name[:2] == shard:
                if name not in visible:
                    self.found.debris.append(f"{shard}/{name}")
            else:
                self.found.foreign.append(f"{shard}/{name}")

    def read_entry(self, shard, name):
        path = self.path(shard, name + ".metadata.json")
        status = os.lstat(path)
        problems = []
        entry = {"problems": problems, "metadata": {}, "tree": None, "path": path, "used": status.st_mtime}
        self.found.entries[name] = entry
        if not stat.S_ISREG(status.st_mode):
            problems.append("metadata is no regular file")
            return
        if stat.S_IMODE(status.st_mode) != 0o444:
            problems.append(f"metadata has mode {stat.S_IMODE(status.st_mode):o}")
        try:
            with open(path, encoding="utf-8") as file:
                metadata = json.load(file)
            self.check_metadata(name, metadata, problems)
            entry["metadata"] = metadata
            content = self.cache_content if self.kind == "cache" else self.store_content
            entry["tree"] = content(shard, name, metadata, problems)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            problems.append(f"metadata cannot be used: {error!r}")

    def check_metadata(self, name, metadata, problems):
        inputs, output = metadata["inputs"], metadata["output"]
        own = "key" if self.kind == "cache" else "content_hash"
        key = metadata["key" if self.kind == "cache" else "inputs_key"]
        template = inputs["schema"] == "meta.template-key/1"
        says = {"schema": (metadata["schema"], SCHEMAS[self.kind]), own: (metadata[own], name), "K of its inputs": (spec.key(inputs), key),
                "component": (metadata["component"], inputs["component"]),
                "platform": (metadata["platform"], "any" if template else inputs["platform"])}
        if template:
            parts = [part.get("text") or (part["fn"], part["of"], part["value"]) for part in inputs["parts"]]
            made = spec.template_record(inputs["component"], parts, inputs["paths"], inputs["pipeline"], inputs["salt"])
            says["record"] = (inputs, made)
        if inputs["schema"] == "meta.cache-key/1":
            for field in ["version", "build_target"]:
                says[field] = (metadata[field], inputs[field])
        elif inputs["schema"] != "meta.files-key/1" and not template:
            problems.append(f"unknown schema of inputs: {inputs['schema']!r}")
        if self.kind == "store":
            says["S"] = (spec.address(metadata["component"], key, output["tree"]), name)
        problems += [f"{field} is {found!r}, not {wanted!r}" for field, (found, wanted) in says.items() if found != wanted]
        if output["root"] not in ("dir", "file"):
            problems.append(f"root is {output['root']!r}")
        if not TIME.match(metadata["created_at"]):
            problems.append(f"created_at is {metadata['created_at']!r}")
        else:
            datetime.strptime(metadata["created_at"], "%Y-%m-%dT%H:%M:%SZ")

    def check_output(self, output, nodes, problems):
        tree = spec.digest(spec.tree_listing(output["root"], nodes))
        if tree != output["tree"]:
            problems.append(f"tree is {tree[:12]}, metadata says {output['tree'][:12]}")
        for field, count in spec.counts(nodes).items():
            if field in output and output[field] != count:
                problems.append(f"output.{field} is {output[field]}, counted {count}")
        return tree

    def cache_content(self, shard, name, metadata, problems):
        says, output = metadata["payload"], metadata["output"]
        found = PAYLOAD.match(says["file"])
        if not found or found[1] != says["sha256"] or found[2] != says["encoding"]:
            problems.append(f"payload is called {says['file']!r}")
            return None
        for other in sorted(os.listdir(self.path(shard, name))):
            if other != says["file"]:
                self.found.debris.append(f"{shard}/{name}/{other}")
        path = self.path(shard, name, says["file"])
        if not os.path.isfile(path) or os.path.islink(path):
            problems.append("payload is missing")
            return None
        if os.path.getsize(path) != says["bytes"]:
            problems.append(f"payload has {os.path.getsize(path)} bytes, metadata says {says['bytes']}")
        if self.remembered(path, spec.digest_file)[0] != says["sha256"]:
            problems.append("payload has another digest")

        def unpack(path):
            content = spec.unpacked(path)
            return ({}, ["payload does not unpack"]) if content is None else payload.read_tar(content, output["root"], output.get("mtimes", False))

        nodes, wrong = self.remembered(path, unpack)
        problems += wrong
        return self.check_output(output, nodes, problems)

    def store_content(self, shard, name, metadata, problems):
        output, top = metadata["output"], self.path(shard, name)
        if not os.path.isdir(top) or os.path.islink(top):
            problems.append("files are missing")
            return None
        self.check_modes(top, problems)
        nodes = {}

        def descend(folder, prefix):
            for item in os.listdir(folder):
                full, path = os.path.join(folder, item), prefix + item
                mode = os.lstat(full).st_mode
                if stat.S_ISREG(mode):
                    nodes[path] = ("x" if mode & 0o100 else "f", *self.remembered(full, spec.digest_file))
                else:
                    nodes[path] = spec.node_at(full)
                    if nodes[path][0] == "d":
                        descend(full, path + b"/")

        try:
            descend(os.fsencode(top), b"")
        except spec.Unsupported as error:
            problems.append(str(error))
        if output["root"] == "file":
            if list(nodes) != [os.fsencode(output["name"])]:
                problems.append(f"holds {sorted(nodes)} instead of the file {output['name']!r}")
            nodes = {b".": node for node in nodes.values()}
        return self.check_output(output, nodes, problems)

    def check_modes(self, top, problems):
        for folder, _, files in os.walk(os.fsencode(top)):
            if stat.S_IMODE(os.lstat(folder).st_mode) != 0o755:
                problems.append(f"{spec.escape(os.path.relpath(folder, os.fsencode(top)))}: a folder of mode {os.lstat(folder).st_mode:o}")
            for item in files:
                mode = os.lstat(os.path.join(folder, item)).st_mode
                if stat.S_ISREG(mode) and stat.S_IMODE(mode) not in (0o444, 0o555):
                    problems.append(f"{spec.escape(item)}: mode {stat.S_IMODE(mode):o}")

    def read_facts(self):
        """Texts named by their digest. One may be missing; one that is there is what its name says."""
        for folder, _, files in os.walk(self.path("facts")):
            for name in files:
                path = os.path.join(folder, name)
                where = os.path.relpath(path, self.top)
                found = FACT.match(name)
                if not found or where != f"facts/{name[:2]}/{name}":
                    self.found.foreign.append(where)
                    continue

                def fact(path):
                    content = spec.unpacked(path)
                    return None if content is None else spec.digest(content)

                if self.remembered(path, fact) != found[1]:
                    self.found.problems.append(f"{where} holds something else")
                self.found.facts[found[1]] = path

    def read_pins(self):
        pins = self.path("roots", "pins")
        for name in sorted(os.listdir(pins)) if os.path.isdir(pins) else []:
            try:
                with open(os.path.join(pins, name), encoding="utf-8") as file:
                    text = json.dumps(json.load(file))
                self.found.pins[name.removesuffix(".json")] = re.findall(r'"([0-9a-f]{64})"', text)
            except ValueError as error:
                self.found.problems.append(f"pin {name}: {error}")

    def read_profiles(self):
        profiles = self.path("profiles")
        for name in sorted(os.listdir(profiles)) if os.path.isdir(profiles) else []:
            at, generations = os.path.join(profiles, name), {}
            for item in sorted(os.listdir(at)):
                path = os.path.join(at, item)
                if item == "current":
                    target = os.readlink(path) if os.path.islink(path) else None
                    if target is None or not re.fullmatch(r"gen-\d+", target) or not os.path.isdir(path):
                        self.found.problems.append(f"profile {name}: current leads to {target!r}")
                    generations["current"] = target
                elif re.fullmatch(r"gen-\d+", item):
                    generations[item] = self.read_generation(name, item, path)
                elif re.fullmatch(r"gen-\d+\.json", item):
                    try:
                        with open(path, encoding="utf-8") as file:
                            json.load(file)
                    except ValueError as error:
                        self.found.problems.append(f"profile {name}: {item}: {error}")
                else:
                    self.found.foreign.append(f"profiles/{name}/{item}")
            if "current" not in generations:
                self.found.problems.append(f"profile {name} has no current generation")
            self.found.profiles[name] = generations

    def read_generation(self, profile, generation, path):
        members = {}
        for component in os.listdir(path):
            link = os.path.join(path, component)
            target = os.readlink(link) if os.path.islink(link) else ""
            found = re.fullmatch(r"\.\./\.\./\.\./([0-9a-f]{2})/([0-9a-f]{64})(/.*)?", target)
            if not found or found[2] not in self.found.entries or not os.path.lexists(link) or not os.path.exists(os.path.dirname(link)):
                self.found.problems.append(f"profile {profile}, {generation}: {component} leads to {target!r}")
            else:
                members[component] = found[2]
        return members

    def measure(self):
        """Disk blocks, each inode once, folders included; bytes of names; what sharing saves."""
        seen, parts = set(), {}
        for folder, _, files in os.walk(self.top):
            below = os.path.relpath(folder, self.top).split(os.sep)[0]
            for path in [folder] + [os.path.join(folder, name) for name in files + [
                    name for name in os.listdir(folder) if os.path.islink(os.path.join(folder, name)) and name not in files]]:
                status = os.lstat(path)
                link = not stat.S_ISDIR(status.st_mode)
                self.found.apparent += status.st_size * link
                if status.st_ino in seen:
                    self.found.shared += status.st_size
                    continue
                seen.add(status.st_ino)
                part = "entries" if len(below) == 2 else below
                if path == folder and re.fullmatch(r"\.|(facts/)?[0-9a-f]{2}|[a-z]{3,}", os.path.relpath(path, self.top)):
                    part = "folders"  # of hash prefixes and the like; they stay when what they held goes
                parts[part] = parts.get(part, 0) + status.st_blocks * 512
        self.found.parts = parts
        self.found.disk = sum(parts.values())


def read_cache(top, memo=None):
    return Reader("cache", top, {} if memo is None else memo).read()


def read_store(top, memo=None):
    return Reader("store", top, {} if memo is None else memo).read()
