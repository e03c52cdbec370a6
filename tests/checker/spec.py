"""Listings, digests, keys and addresses, written from the specification alone (docs/formats of the cache and the store).

Nothing here is shared with the tool or read from its sources: what both agree on, two programs have computed.
Paths of nodes are bytes, relative, joined by "/". A node is one of

  ("f" or "x", sha256, size)   regular file, executable regular file
  ("l", target bytes)          symbolic link
  ("d",)                       directory
  ("t", word or sha256, size)  what a link reaches outside (source listings only; kept apart, see `reached`)
"""

import hashlib
import os
import re
import stat
import subprocess

TREE = b"meta-tree/1 "
SOURCE = b"meta-source/1\n"
HEX = re.compile(r"[0-9a-f]{64}\Z")


class Unsupported(Exception):
    """A node that is neither file, link nor directory."""


def digest(content):
    return hashlib.sha256(content).hexdigest()


def digest_file(path):
    """SHA-256 and size of a regular file."""
    total, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
            size += len(block)
    return total.hexdigest(), size


# --- names -----------------------------------------------------------------------------------------------------------

def escape(raw):
    """Path bytes as text: "%", control characters and what is not well-formed UTF-8 become "%XX"."""
    text = []
    for character in raw.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            text.append(f"%{code - 0xDC00:02X}")
        elif code < 0x20 or code == 0x7F or character == "%":
            text.append(f"%{code:02X}")
        else:
            text.append(character)
    return "".join(text)


def unescape(text):
    return re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())


# --- listings --------------------------------------------------------------------------------------------------------

def line(kind, middle, size, path):
    return f"{kind} {middle} {size} {escape(path)}\n".encode()


def node_line(path, node):
    if node[0] == "l":
        return line("l", digest(node[1]), len(node[1]), path)
    if node[0] == "d":
        return line("d", "-", 0, path)
    return line(node[0], node[1], node[2], path)


def tree_listing(root, nodes):
    """The text of an artifact. `root` is "dir" or "file"; a file's only node has the path ".".

    A directory with children has no line of its own.
    """
    parents = {path.rpartition(b"/")[0] for path in nodes}
    lines = [TREE + root.encode() + b"\n"]
    lines += [node_line(path, nodes[path]) for path in sorted(nodes) if nodes[path][0] != "d" or path not in parents]
    return b"".join(lines)


def source_listing(nodes, reached):
    """The text of inputs: no directories; `reached` says what links that leave lead to, one more line each."""
    lines = [SOURCE]
    for path in sorted(nodes):
        if nodes[path][0] != "d":
            lines.append(node_line(path, nodes[path]))
        if path in reached:
            lines.append(line("t", reached[path][0], reached[path][1], path))
    return b"".join(lines)


def node_at(path):
    """The node that lies at a path of this machine."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return ("l", os.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        return ("d",)
    if stat.S_ISREG(status.st_mode):
        return ("x" if status.st_mode & 0o100 else "f", *digest_file(path))
    raise Unsupported(f"{path!r} is neither file, link nor directory")


def read_nodes(folder):
    """Every node below a folder of this machine."""
    folder, nodes = os.fsencode(folder), {}

    def descend(prefix):
        for name in os.listdir(os.path.join(folder, prefix)):
            path = prefix + b"/" + name if prefix else name
            nodes[path] = node_at(os.path.join(folder, path))
            if nodes[path][0] == "d":
                descend(path)

    descend(b"")
    return nodes


def read_tree(path):
    """("dir" or "file", nodes) of an artifact. The path's own last component is followed, nothing inside is."""
    path = os.fsencode(path)
    if os.path.isdir(path):
        return "dir", read_nodes(path)
    return "file", {b".": node_at(os.path.realpath(path))}


def listing_of(path):
    return tree_listing(*read_tree(path))


def tree_digest(path):
    """T of the directory or file at a path."""
    return digest(listing_of(path))


def counts(nodes):
    """What the metadata says about an output."""
    parents = {path.rpartition(b"/")[0] for path in nodes}
    files = [node for node in nodes.values() if node[0] in "fx"]
    return {
        "files": len(files),
        "links": sum(node[0] == "l" for node in nodes.values()),
        "empty_dirs": sum(node[0] == "d" and path not in parents for path, node in nodes.items()),
        "bytes": sum(node[2] for node in files),
    }


# --- records ---------------------------------------------------------------------------------------------------------

ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quoted(text):
    return '"' + "".join(ESCAPES.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in text) + '"'


def canonical(value):
    """RFC 8785 of objects, arrays, strings, null and true; no numbers and no false, so formatting can never matter."""
    return canonical_text(value).encode()


def canonical_text(value):
    if isinstance(value, dict):
        # The RFC orders names by UTF-16 code units, which is not the order of code points.
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(quoted(name) + ":" + canonical_text(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical_text, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    if value is None:
        return "null"
    if value is True:
        return "true"
    raise ValueError(f"{value!r} has no place in a hashed record")


def key(record):
    """K of a key record, either kind."""
    return digest(canonical(record))


def env_digests(names, values):
    """`env` of a key: digests of values, None where unset."""
    return {name: digest(os.fsencode(values[name])) if name in values else None for name in names}


def component_record(component, version="latest", type="", build_target="", platform=None, source=None, extra=None,
                     env=None, dependencies=(), salt=""):
    """The key record of a component of a manifest. `dependencies` are (name, version, key)."""
    return {
        "schema": "meta.cache-key/1", "component": component, "version": version, "type": type, "build_target": build_target,
        "platform": platform or native_platform(), "source": source or {"absent": True}, "extra": extra, "env": env or {},
        "dependencies": [{"name": name, "version": version, "key": key}
                         for name, version, key in sorted(dependencies, key=lambda item: os.fsencode(item[0]))],
        "salt": salt,
    }


def files_record(component, platform=None, files=None, salt=""):
    """The key record of a component that no manifest names."""
    return {"schema": "meta.files-key/1", "component": component, "platform": platform or native_platform(),
            "files": files, "salt": salt}


def template_record(component, parts, paths, pipeline="", salt=""):
    """The key record of an entry of the plugin's cache block. A part is text, or (function, arguments, value)."""
    def told(part):
        return {"text": part} if isinstance(part, str) else {"fn": part[0], "of": list(part[1]), "value": part[2]}

    def read(part):
        if isinstance(part, str):
            return part
        return part[2] if part[2] is not None else "none" if part[0] == "checksum" else ""
    return {"schema": "meta.template-key/1", "component": component, "pipeline": pipeline, "parts": [told(part) for part in parts],
            "key": "".join(map(read, parts)), "paths": list(paths), "salt": salt}


def address(component, inputs, output):
    """S: it commits to what went in (K) and to what came out (T)."""
    return digest(canonical({"schema": "meta.store-entry/1", "component": component, "inputs": inputs, "output": output}))


def native_platform():
    """<os>-<arch> in Rust's words."""
    machine = os.uname()
    system = {"Darwin": "macos"}.get(machine.sysname, machine.sysname.lower())
    return system + "-" + {"arm64": "aarch64", "amd64": "x86_64"}.get(machine.machine, machine.machine)


def unpacked(path):
    """The bytes inside a file of ours, by the stock tool for its suffix; None when that tool finds it damaged."""
    tool = {"lz4": "lz4", "zst": "zstd"}[os.fspath(path).rsplit(".", 1)[1]]
    with open(path, "rb") as file:
        done = subprocess.run([tool, "-dcq"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout if done.returncode == 0 else None
