"""The golden vectors: what the specification prints, and more of the same kind, frozen in vectors.json.

The tool's own tests read that file too. A vector that changes needs a new schema name: `vectors.py freeze` only adds.
"""

import json
import os
import sys
import tempfile

import sources
import spec

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors.json")

# Printed in the specification; nothing below may change them.
GOLDEN = {
    "empty directory": "35e54b18961b82f2da63034d80075cd490a36df08bc4b4fd249a52e0e9021f0e",
    "file, not executable": "d6b3b97011142ba48f79983d630a1622995d419c2b240364745127c585b3ecde",
    "file, executable": "6cfe61d0c199c2276365ad4512fc2617295a6642293e49f58c7e32b479786c36",
    "V4": "e34dc4d201ec7895699af5d6c07454d263366e1ef5d10595b4310d532db2661b",
    "V5": "57befd562bb34c5cfbe00d7b6722858b918a26b7bcbce95b0b41e0ae80552626",
    "source of a": "2441eada427db59a806af29117391cf37702ab85509ddd185992ca21b54e058c",
    "key of b": "5670a1057f8c1e8616136a447781e22f094af378312fcd00c1f2e01cb86f0208",
    "key of a": "1d6a7fabe5cbdafa46c28f707ddad8b09d97d8d241a8f6a7fbb874e7b68b77cb",
    "V4 of a": "986f17193907943a61d86c9de994e6ef2789645b5b55705bdc7764ee3a35cb26",
}

# Nodes as laid down: bytes are a file, ("x", bytes) an executable one, ("l", bytes) a link, None a folder.
V4 = {b"a.b": b"1", b"a/b": b"2", b"bin/tool": ("x", b"#!/bin/sh\n"), b"hollow": None, b"run": ("l", b"bin/tool"), b"zero": b""}

TREES = {
    "empty directory": {},
    "file, not executable": b"hi\n",
    "file, executable": ("x", b"hi\n"),
    "V4": V4,
    "V5": {b"100%": b"p", b"bad\xff": b"r", "café".encode(): b"u", b"new\nline": b"n"},
    "empty file": b"",
    "empty file, executable": ("x", b""),
    "file named like its path": {b".hidden": b"hi\n"},
    "one file in a directory": {b"hi": b"hi\n"},
    "only empty directories": {b"a/b/c": None, b"a/d": None, b"e": None},
    "directory beside its prefix": {b"a": None, b"a-b": b"1", b"a.b": b"2", b"a0": b"3", b"a/z": b"4"},
    "byte order, not locale order": {b"B": b"1", b"a": b"2", b"_": b"3", b"Z/a": b"4", b"z": b"5", "é".encode(): b"6"},
    "links": {b"dangling": ("l", b"nowhere"), b"loop": ("l", b"loop"), b"out": ("l", b"../../etc"), b"root": ("l", b"/"),
              b"dot": ("l", b"."), b"odd": ("l", b"100%\n\xff"), b"to/folder": ("l", b"../dot")},
    "every byte in a name": {bytes([byte]): bytes([byte]) for byte in range(1, 256) if byte not in (0x2E, 0x2F)},
    "broken UTF-8": {b"\xc0\xaf": b"1", b"\xed\xa0\x80": b"2", b"\xf0\x80\x80\x80": b"3", b"\xe2\x82": b"4", b"\xe2\x82\xac": b"5",
                     b"\xf4\x90\x80\x80": b"6", b"\x80": b"7", b"a\xe2\x82z": b"8", b"\xf4\x8f\xbf\xbf": b"9", b"\xfe\xff": b"10"},
    "looks like an escape": {b"%": b"1", b"%25": b"2", b"%2525": b"3", b"%0A": b"4", b"\n": b"5", b"%ff": b"6"},
    "looks like a listing": {b"f 0 a\nf 0 b": b"1", b" ": b"2", b"  lead": b"3", b"trail ": b"4", b"d - 0 hollow": None,
                             b"meta-tree": b"5"},
    "control characters": {b"\x01": b"1", b"\t": b"2", b"\r": b"3", b"\x1b[31m": b"4", b"\x7f": b"5", "\u0085".encode(): b"6",
                           "\u202e".encode(): b"7", "\ufeff".encode(): b"8"},
    "composed and decomposed": {"\u00e9".encode(): b"1", "e\u0301".encode(): b"2"},
    "case pair": {b"Readme": b"1", b"README": b"2", b"readme": ("x", b"3")},
    "leading dash and reserved words": {b"-rf": b"1", b"--": b"2", b"CON": b"3", b"nul.txt": b"4", b"...": b"5", b"..a": b"6"},
    "long name": {b"n" * 255: b"1", b"d" * 200 + b"/" + b"e" * 200: b"2"},
    "deep": {b"/".join([b"d"] * 60) + b"/leaf": b"1", b"/".join([b"d"] * 59) + b"/e": None},
    "equal contents": {b"a/1": b"same", b"b/1": b"same", b"c": ("x", b"same")},
    "large sizes": {b"64k": b"\0" * 65536, b"1m": b"m" * (1 << 20) + b"\n"},
    "version control kept in an artifact": {b".git/HEAD": b"ref\n", b".gitignore": b"*\n", b".meta-cache/FORMAT": b"x"},
}

SOURCES = {
    "source of a": {b"src/m.c": b"int main(){}\n"},
    "nothing": {},
    "empty directories do not count": {b"a/b": None, b"c": None},
    "every kind": V4,
    "version control left out": {b".git/HEAD": b"x", b"sub/.hg/x": b"x", b".svn": b"x", b"sub/.jj/y": b"x", b"kept": b"1",
                                 b".github/w.yml": b"2", b"a.git": b"3"},
    "ignore file": {b".gitignore": b"*.o\n!keep.o\n/build/\n", b"a.o": b"1", b"keep.o": b"2", b"sub/a.o": b"3", b"build/x": b"4",
                    b"sub/build/x": b"5"},
    "nested ignore file": {b".gitignore": b"*.log\n", b"sub/.gitignore": b"!*.log\nsecret\n", b"a.log": b"1", b"sub/a.log": b"2",
                           b"sub/secret": b"3", b"secret": b"4", b"sub/deep/secret": b"5"},
    "folder ignored, file inside cannot come back": {b".gitignore": b"out/\n!out/keep\n", b"out/keep": b"1", b"out/x": b"2", b"y": b"3"},
    "link inside": {b"a": b"1", b"b": ("l", b"a"), b"c/d": ("l", b"../a"), b"gone": ("l", b"nowhere")},
    "link that leaves": {b"out": ("l", b"../beside"), b"sub/out": ("l", b"../../beside"), b"up": ("l", b"../folder"),
                         b"missing": ("l", b"../nothing"), b"back": ("l", b"sub/../sub")},
}

RECORDS = {
    "key of b": dict(component="b", version="v1.0.0", type="bazel", build_target="//b:all"),
    "all defaults": dict(component="plain"),
    "any platform": dict(component="plain", platform="any"),
    "other platform": dict(component="plain", platform="linux-aarch64"),
    "commit": dict(component="c", version="v2", source={"commit": "0123456789abcdef0123456789abcdef01234567"}),
    "listing": dict(component="c", version="v2", source={"listing": "ab" * 32}),
    "extra": dict(component="c", version="v2", extra="cd" * 32),
    "env set, unset and empty": dict(component="c", env=spec.env_digests(["A", "B", "C"], {"A": "1", "B": ""})),
    "env order": dict(component="c", env=spec.env_digests(["z", "Z", "_", "a"], {"z": "1", "Z": "2", "_": "3"})),
    "env not UTF-8": dict(component="c", env=spec.env_digests(["RAW"], {"RAW": os.fsdecode(b"\xff\xfe")})),
    "salt": dict(component="c", salt="2026-fresh"),
    "odd text": dict(component="c", version="1.0\n\"\\\t\x01\u007f\u2028é\U0001f600", type="/", build_target="//a:b%20\b\f\r"),
    "two dependencies": dict(component="c", dependencies=[("z", "v1", "11" * 32), ("a-b", "v2", "22" * 32), ("a.b", "v3", "33" * 32)]),
}

FILES_RECORDS = {
    "name alone": dict(component="web"),
    "files": dict(component="web", files="ef" * 32),
    "files and salt": dict(component="web", files="ef" * 32, salt="again"),
    "files, any platform": dict(component="web", platform="any", files="ef" * 32),
}

TEMPLATE_RECORDS = {
    "template of text": dict(component="deps", parts=["v1"], paths=["node_modules"]),
    "template of calls": dict(component="node_modules", pipeline="web", paths=["node_modules", "~/.npm"],
                              parts=["npm-", ("os", [], "linux"), "-", ("arch", [], "x86_64"), "-",
                                     ("checksum", ["package-lock.json", "patches/**"], "ef" * 32)]),
    "template with text and value split here": dict(component="a", parts=["a-", ("env", ["X"], "b")], paths=["p"]),
    "template with text and value split there": dict(component="a", parts=["a", ("env", ["X"], "-b")], paths=["p"]),
    "template with a value in text": dict(component="a", parts=["a-b"], paths=["p"]),
    "template of nothing that is set": dict(component="a", parts=["a-b", ("env", ["X"], None), ("branch", [], None)], paths=["p"]),
    "template of no files": dict(component="a", parts=[("checksum", ["none.lock"], None)], paths=["p"], salt="again"),
    "template of a date and an odd branch": dict(component="a", pipeline="p", paths=["größe"],
                                                 parts=[("date", ["%G-%V"], "2026-48"), ("branch", [], "fix/\"é\U0001f600"),
                                                        ("default_branch", [], "main"), ("pipeline", [], "p")]),
}

CANONICAL = {
    "names in UTF-16 order": {"\ufb33": "1", "\U0001f600": "2", "é": "3", "€": "4", "\r": "5", "1": "6", "": "7"},
    "nested": {"b": [[], {}, [None, True, ["x"]]], "a": {"z": {"y": {"x": None}}}},
    "every escape": {"s": "".join(map(chr, range(0x80))) + "\u2028\u2029\ud7ff\U0010ffff"},
}

ESCAPES = [b"plain", b"100%", b"bad\xff", "café".encode(), b"new\nline", b"\x00\x1f\x7f", b"\xc3", b"\xc3\xc3\xa9", b"\xed\xbf\xbf",
           b"\xf0\x9f\x98\x80", b"\xf0\x9f\x98", b"\xe0\x80\x80", b"%25", b"a/b", "\u0080".encode()]


def lay_down(top, tree):
    """A tree of the tables above on this machine's disk."""
    top = os.fsencode(top)
    if isinstance(tree, dict):
        os.makedirs(top, exist_ok=True)
        for path, node in tree.items():
            full = os.path.join(top, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            if node is None:
                os.makedirs(full, exist_ok=True)
            else:
                lay_down(full, node)
    elif isinstance(tree, tuple) and tree[0] == "l":
        os.symlink(tree[1], top)
    else:
        executable = isinstance(tree, tuple)
        with open(top, "wb") as file:
            file.write(tree[1] if executable else tree)
        os.chmod(top, 0o755 if executable else 0o644)


def in_memory(tree):
    """The nodes of a tree without a disk: not every file system takes every name."""
    if not isinstance(tree, dict):
        tree = {b".": tree}
    nodes = {}
    for path, node in tree.items():
        for end in [at for at, byte in enumerate(path) if byte == 0x2F]:
            nodes[path[:end]] = ("d",)
        if node is None:
            nodes.setdefault(path, ("d",))
        elif isinstance(node, tuple) and node[0] == "l":
            nodes[path] = ("l", node[1])
        else:
            content = node[1] if isinstance(node, tuple) else node
            nodes[path] = ("x" if isinstance(node, tuple) else "f", spec.digest(content), len(content))
    return nodes


def described(tree):
    """The nodes of a table as JSON: paths and contents in hex, so that any byte survives."""
    if not isinstance(tree, dict):
        tree = {b".": tree}
    nodes = []
    for path, node in tree.items():
        item = {"path": path.hex()}
        if node is None:
            item["kind"] = "directory"
        elif isinstance(node, tuple) and node[0] == "l":
            item.update(kind="link", target=node[1].hex())
        else:
            executable = isinstance(node, tuple)
            content = node[1] if executable else node
            item.update(kind="executable" if executable else "file")
            # Long contents are one byte repeated and perhaps a last LF; nobody wants a megabyte of hex.
            if len(content) > 4096:
                item["repeat"] = {"byte": content[:1].hex(), "times": str(len(content.rstrip(b"\n"))), "then": content[len(content.rstrip(b"\n")):].hex()}
            else:
                item["content"] = content.hex()
        nodes.append(item)
    return nodes


def record_vector(name, record):
    return {"name": name, "record": record, "canonical": spec.canonical(record).decode(), "key": spec.key(record)}


def build():
    """The whole document, computed now."""
    trees, listings, keys, addresses = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="monofo-vectors-") as folder:
        for name, tree in TREES.items():
            root = "dir" if isinstance(tree, dict) else "file"
            listing = spec.tree_listing(root, in_memory(tree))
            if sys.platform == "linux":
                at = os.path.join(folder, f"tree {len(trees)}")
                lay_down(at, tree)
                assert spec.listing_of(at) == listing, name
            trees.append({"name": name, "root": root, "nodes": described(tree),
                          "listing": listing.decode(), "tree": spec.digest(listing)})
        for name, tree in SOURCES.items():
            parent = os.path.join(folder, f"source {len(listings)}")
            lay_down(os.path.join(parent, "component"), tree)
            lay_down(parent, {b"beside": b"outside\n", b"folder": {}})
            listing = sources.component_listing(os.path.join(parent, "component"))
            listings.append({"name": name, "nodes": described(tree), "listing": listing.decode(), "digest": spec.digest(listing)})
    platform = "linux-x86_64"
    for name, fields in RECORDS.items():
        keys.append(record_vector(name, spec.component_record(**{"platform": platform, **fields})))
    by_name = {item["name"]: item for item in keys}
    source = next(item["digest"] for item in listings if item["name"] == "source of a")
    a = spec.component_record("a", "v1.2.3", "bazel", "//a:all", platform, {"listing": source}, None,
                              spec.env_digests(["CFLAGS", "DEBUG"], {"CFLAGS": "-O2"}), [("b", "v1.0.0", by_name["key of b"]["key"])])
    keys.append(record_vector("key of a", a))
    top = spec.component_record("top", "v9", dependencies=[("a", "v1.2.3", spec.key(a))], platform=platform)
    keys.append(record_vector("two levels of dependencies", top))
    for name, fields in FILES_RECORDS.items():
        keys.append(record_vector(name, spec.files_record(**{"platform": platform, **fields})))
    files = keys[-4:]
    for name, fields in TEMPLATE_RECORDS.items():
        keys.append(record_vector(name, spec.template_record(**fields)))
    for component, key, tree in [("a", spec.key(a), "V4"), ("b", by_name["key of b"]["key"], "empty directory"),
                                 ("b", by_name["key of b"]["key"], "file, executable"), ("web", files[0]["key"], "V5"),
                                 ("a", files[0]["key"], "V4")]:
        output = next(item["tree"] for item in trees if item["name"] == tree)
        addresses.append({"name": f"{tree} of {component}" if component != "a" or not addresses else f"{tree} of {component}, other key",
                          "component": component, "inputs": key, "output": output, "address": spec.address(component, key, output)})
    return {
        "schema": "monofo-vectors/1",
        "about": "Computed by tests/checker, not by the tool. Paths, contents and targets are hex; source vectors lie in a folder "
                 "beside a file `beside` (\"outside\\n\") and an empty folder `folder`.",
        "escapes": [{"raw": raw.hex(), "text": spec.escape(raw)} for raw in ESCAPES],
        "canonical": [{"name": name, "record": value, "canonical": spec.canonical(value).decode(), "digest": spec.key(value)}
                      for name, value in CANONICAL.items()],
        "trees": trees, "sources": listings, "keys": keys, "addresses": addresses,
    }


def named(document):
    """{(table, name): its digest}"""
    out = {}
    for table, field in [("trees", "tree"), ("sources", "digest"), ("keys", "key"), ("addresses", "address"), ("canonical", "digest")]:
        for item in document[table]:
            out[table, item["name"]] = item[field]
    for item in document["escapes"]:
        out["escapes", item["raw"]] = item["text"]
    return out


def check():
    """What is wrong with the vectors, and how many there are."""
    wrong, now = [], build()
    with open(FILE, encoding="utf-8") as file:
        frozen = json.load(file)
    if frozen != now:
        before, after = named(frozen), named(now)
        differ = [f"{table}: {name}" for table, name in before | after if before.get((table, name)) != after.get((table, name))]
        wrong.append("vectors.json is not what is computed now: " + ", ".join(differ or ["descriptions"]))
    computed = {name: value for (_, name), value in named(now).items()}
    wrong += [f"{name}: computed {computed.get(name)}, the specification says {value}" for name, value in GOLDEN.items()
              if computed.get(name) != value]
    wrong += [f"{raw!r} does not come back from its escape" for raw in ESCAPES if spec.unescape(spec.escape(raw)) != raw]
    same = {}
    for item in now["trees"]:
        if item["tree"] in same:
            wrong.append(f"two trees with one digest: {item['name']} and {same[item['tree']]}")
        same[item["tree"]] = item["name"]
    return wrong, len(named(now))


if __name__ == "__main__":
    if sys.argv[1:] != ["freeze"]:
        sys.exit("usage: vectors.py freeze")
    document = build()
    if os.path.exists(FILE):
        with open(FILE, encoding="utf-8") as old:
            changed = [f"{where}" for where, value in named(json.load(old)).items() if named(document).get(where) != value]
        if changed:
            sys.exit(f"vectors.py: these would change, which needs a new schema name: {', '.join(changed)}")
    with open(FILE, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, ensure_ascii=True)
        file.write("\n")
