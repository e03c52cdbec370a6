"""Tests of the checker: a checker that finds nothing proves nothing.

Lays down caches and stores by hand, checks that they are whole, damages them in each way we can name and checks that
this is found; compares the ignore rules with git's own answer on random rule sets.
"""

import io
import json
import os
import random
import shutil
import stat
import subprocess
import tarfile
import tempfile

import ignore
import layout
import spec
import vectors

TREES = {"one": vectors.V4, "two": {b"bad\xff": b"r" * 9000, b"d" * 200 + b"/" + b"e" * 200: b"2", b"empty": None},
         "single": ("x", b"#!/bin/sh\n"), "nothing": {}}


def write(path, content, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def pack(root, path):
    """A tar as the specification wants it, from a tree on disk."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as archive:
        nodes = spec.read_tree(path)[1]
        for name in sorted(nodes, key=lambda name: name.split(b"/")):
            node = nodes[name]
            full = os.fsencode(path) if root == "file" else os.path.join(os.fsencode(path), name)
            member = tarfile.TarInfo("tool" if root == "file" else os.fsdecode(name))
            member.mode = {"x": 0o755, "f": 0o644, "l": 0o777, "d": 0o755}[node[0]]
            member.type = {"l": tarfile.SYMTYPE, "d": tarfile.DIRTYPE}.get(node[0], tarfile.REGTYPE)
            if node[0] == "l":
                member.linkname = os.fsdecode(node[1])
            if node[0] in "fx":
                member.size = node[2]
                with open(full, "rb") as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)
        archive.fileobj.write(bytes(1024))
        archive.closed = True
    return out.getvalue()


def compressed(tool, content):
    return subprocess.run([tool, "-cq"], input=content, stdout=subprocess.PIPE, check=True).stdout


def fact(top, text):
    name = spec.digest(text)
    write(os.path.join(top, "facts", name[:2], name + ".zst"), compressed("zstd", text))


def entry(record, root, path, output):
    return {"component": record["component"], "version": "v1", "build_target": "", "platform": record["platform"],
            "created_at": "2026-01-02T03:04:05Z", "inputs": record, "origin": {"kind": "local"}, "scope": "shared", "tool": "0.1.0",
            "output": {"tree": output, "root": root, "name": "tool", **spec.counts(spec.read_tree(path)[1])}}


def lay_cache(top, trees, suffix):
    for name, text in [("CACHEDIR.TAG", layout.TAG + b"\n"), (".gitignore", b"*\n"), ("FORMAT", b"meta-cache 1\n")]:
        write(os.path.join(top, name), text)
    for name, tree in TREES.items():
        path = os.path.join(trees, name)
        root = "dir" if isinstance(tree, dict) else "file"
        record = spec.files_record(name)
        key, listing = spec.key(record), spec.listing_of(path)
        encoded = compressed({"lz4": "lz4", "zst": "zstd"}[suffix], pack(root, path))
        file = f"payload-{spec.digest(encoded)}.tar.{suffix}"
        write(os.path.join(top, key[:2], key, file), encoded)
        fact(top, listing)
        fact(top, spec.canonical(record))
        metadata = entry(record, root, path, spec.digest(listing)) | {
            "schema": "meta.cache-entry/1", "key": key,
            "payload": {"file": file, "encoding": "tar." + suffix, "sha256": spec.digest(encoded), "bytes": len(encoded)}}
        write(os.path.join(top, key[:2], key + ".metadata.json"), json.dumps(metadata).encode(), 0o444)


def lay_store(top, trees):
    for name, text in [(".gitignore", b"*\n"), ("FORMAT", b"meta-store 1\n")]:
        write(os.path.join(top, name), text)
    for name, tree in TREES.items():
        path = os.path.join(trees, name)
        root = "dir" if isinstance(tree, dict) else "file"
        record = spec.files_record(name)
        output = spec.tree_digest(path)
        address = spec.address(name, spec.key(record), output)
        at = os.path.join(top, address[:2], address)
        if root == "dir":
            shutil.copytree(path, at, symlinks=True)
        else:
            os.makedirs(at)
            shutil.copy(path, os.path.join(at, "tool"))
        for folder, _, files in os.walk(os.fsencode(at)):
            os.chmod(folder, 0o755)
            for item in files:
                full = os.path.join(folder, item)
                if not os.path.islink(full):
                    os.chmod(full, 0o555 if os.stat(full).st_mode & 0o100 else 0o444)
        metadata = entry(record, root, path, output) | {
            "schema": "meta.store-entry/1", "content_hash": address, "inputs_key": spec.key(record), "commit": None}
        write(os.path.join(top, address[:2], address + ".metadata.json"), json.dumps(metadata).encode(), 0o444)
        if name == "one":
            write(os.path.join(top, "roots/pins/release.json"), json.dumps({"hash": address}).encode())
            generation = os.path.join(top, "profiles/prod/gen-1")
            os.makedirs(generation)
            os.symlink(f"../../../{address[:2]}/{address}", os.path.join(generation, "one"))
            write(generation + ".json", b"{}")
            os.symlink("gen-1", os.path.join(top, "profiles/prod/current"))


def flip(path, at, bit=0):
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    os.chmod(path, mode)


def files_below(top, match):
    return [os.path.join(folder, name) for folder, _, files in os.walk(top) for name in files if match in os.path.join(folder, name)]


def damages(kind, top):
    """(what, do it, where it must show)."""
    def first(match):
        return sorted(files_below(top, match))[0]

    name = os.path.basename(first(".metadata.json"))[:64]
    shard = os.path.join(top, name[:2])
    yield "a bit of the metadata's inputs", lambda: flip(first(".metadata.json"), open(first(".metadata.json"), "rb").read().index(b"files-key")), "problems"
    yield "metadata under another name", lambda: os.rename(first(".metadata.json"), first(".metadata.json").replace(name[-4:] + ".", "0000.")), "problems"
    yield "metadata cut short", lambda: (os.chmod(first(".metadata.json"), 0o644), os.truncate(first(".metadata.json"), 40)), "problems"
    yield "metadata gone", lambda: os.remove(first(".metadata.json")), "debris"
    yield "data gone", lambda: shutil.rmtree(os.path.join(shard, name)), "problems"
    yield "something in tmp", lambda: write(os.path.join(top, "tmp/abc/x"), b""), "debris"
    yield "a stranger", lambda: write(os.path.join(shard, "x.metadata.json~"), b""), "foreign"
    yield "FORMAT", lambda: write(os.path.join(top, "FORMAT"), b"meta-x 1\n"), "problems"
    if kind == "cache":
        yield "a bit of a payload", lambda: flip(first("payload-"), 20), "problems"
        yield "a second payload", lambda: write(os.path.join(shard, name, f"payload-{'0' * 64}.tar.lz4"), b"x"), "debris"
        yield "a bit of a text", lambda: flip(first("facts"), 8), "problems"
    else:
        found = [path for path in files_below(top, "") if os.path.basename(path) in ("a.b", "b")]
        yield "a bit of a file", lambda: flip(found[0], 0), "problems"
        yield "an executable bit", lambda: os.chmod(found[0], 0o555), "problems"
        yield "a writable file", lambda: os.chmod(found[0], 0o644), "problems"
        yield "a file more", lambda: write(os.path.join(os.path.dirname(found[0]), "more"), b"", 0o444), "problems"
        yield "a file less", lambda: os.remove(found[0]), "problems"
        yield "a generation that leads nowhere", lambda: os.remove(next(
            path for path in files_below(top, ".metadata.json") if b'"one"' in open(path, "rb").read())), "problems"
        yield "no current generation", lambda: os.remove(os.path.join(top, "profiles/prod/current")), "problems"


def test_layouts(folder):
    trees, wrong, count = os.path.join(folder, "trees"), [], 0
    for name, tree in TREES.items():
        vectors.lay_down(os.path.join(trees, name), tree)
    tops = [("cache", "lz4"), ("cache", "zst"), ("store", "")]
    for kind, suffix in tops:
        good = os.path.join(folder, f"good-{kind}{suffix}")
        lay_cache(good, trees, suffix) if kind == "cache" else lay_store(good, trees)
        read = layout.read_cache if kind == "cache" else layout.read_store
        found = read(good)
        count += 1
        if len(found.whole()) != len(TREES) or found.all_problems() or found.debris or found.foreign:
            wrong.append(f"a whole {kind} is said to be wrong: {found.all_problems() + found.debris + found.foreign}")
        for number in range(len(list(damages(kind, good)))):
            copy = os.path.join(folder, "damaged")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(good, copy, symlinks=True)
            what, damage, where = list(damages(kind, copy))[number]
            damage()
            found = read(copy)
            shown = {"problems": found.all_problems(), "debris": found.debris, "foreign": found.foreign}[where]
            count += 1
            if not shown:
                wrong.append(f"{kind} {suffix}: not found: {what}")
    return wrong, count


ALPHABET = ["a", "b", "ab", "a.o", "b.o", "build", "x y", "é"]
PIECES = ["*", "?", "**", "[ab]", "[!a]", "[a-c]*", "*.o", "a", "b", "ab", "build", "x y", "\\#a", "[[:alpha:]]", "a*b", "**b", "[]a]", "[a"]


def random_rules(choices):
    rows = []
    for _ in range(choices.randint(1, 5)):
        row = "/".join(choices.choice(PIECES) for _ in range(choices.choice([1, 1, 1, 2, 3])))
        row = choices.choice(["", "", "", "!"]) + choices.choice(["", "", "/"]) + row + choices.choice(["", "", "/", " ", "\r"])
        rows.append(choices.choice(["", "#", "  "]) if choices.random() < 0.1 else row)
    return "\n".join(rows) + choices.choice(["", "\n"])


def test_ignore(folder, choices, rounds):
    """The files that our rules leave, and those that git lists."""
    wrong = []
    for number in range(rounds):
        top = os.path.join(folder, f"ignore {number}")
        folders = [top] + [os.path.join(top, *(choices.choice(ALPHABET) for _ in range(choices.randint(1, 3)))) for _ in range(4)]
        for at in folders:
            os.makedirs(at, exist_ok=True)
        for at in folders:
            for name in choices.sample(ALPHABET, 3):
                if not os.path.exists(os.path.join(at, name)):
                    write(os.path.join(at, name), b"")
            if at == top or choices.random() < 0.3:
                write(os.path.join(at, ".gitignore"), random_rules(choices).encode())
        git = {"GIT_DIR": os.path.join(folder, "git"), "GIT_WORK_TREE": top, "PATH": os.environ["PATH"], "HOME": folder,
               "GIT_CONFIG_NOSYSTEM": "1"}
        if number == 0:
            subprocess.run(["git", "init", "-q"], env=git, check=True, cwd=top)
        listed = subprocess.run(["git", "ls-files", "-oz", "--exclude-per-directory=.gitignore"], env=git, cwd=top, check=True, stdout=subprocess.PIPE).stdout
        rules, ours = ignore.Ignore(top), set()

        def walk(prefix):
            for name in os.listdir(os.path.join(os.fsencode(top), prefix)):
                path = prefix + b"/" + name if prefix else name
                is_folder = os.path.isdir(os.path.join(os.fsencode(top), path))
                if not rules.excludes(path, is_folder):
                    walk(path) if is_folder else ours.add(path)

        walk(b"")
        theirs = set(listed.split(b"\0")) - {b""}
        if ours != theirs:
            wrong.append(f"round {number}: only git leaves {sorted(theirs - ours)}, only we {sorted(ours - theirs)}: "
                         + repr([(path, open(path, "rb").read()) for path in files_below(top, ".gitignore")]))
        shutil.rmtree(top)
    return wrong, rounds


def main():
    seed = int(os.environ.get("CHECK_SEED") or random.SystemRandom().randrange(1 << 32))
    wrong, count = vectors.check()
    with tempfile.TemporaryDirectory(prefix="monofo-check-") as folder:
        tests = [test_layouts(folder)]
        if shutil.which("git"):
            tests.append(test_ignore(folder, random.Random(seed), 300))
        else:
            print("SKIPPED: ignore rules, since git is not installed")
    for more, tries in tests:
        wrong, count = wrong + more, count + tries
    for text in wrong:
        print(text)
    print(f"{count} tries, {len(wrong)} violations, seed {seed}")
    return 1 if wrong else 0
