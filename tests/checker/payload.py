"""What a payload of the cache holds, and whether it is written the one way that the specification allows."""

import io
import os
import tarfile

import spec

BLOCK = 512


def bad_path(path):
    parts = path.split(b"/")
    return path.startswith(b"/") or any(part in (b"", b".", b"..") for part in parts) or b"\0" in path or len(path) > 4096


def member_node(archive, member, problems, as_is):
    """The node of a member; what is not as it should be goes to `problems`."""
    name = spec.escape(os.fsencode(member.name))
    if (member.uid, member.gid, member.uname, member.gname) != (0, 0, "", ""):
        problems.append(f"{name}: has an owner")
    if member.mtime != 0 and not as_is:
        problems.append(f"{name}: has a time")
    if member.isreg() and not member.issparse():
        if member.mode & 0o6000 or member.mode not in (0o644, 0o755) and not as_is:
            problems.append(f"{name}: mode {member.mode:o}")
        content = archive.extractfile(member).read()
        if len(content) != member.size:
            problems.append(f"{name}: cut short")
        return ("x" if member.mode & 0o100 else "f", spec.digest(content), len(content))
    if member.isdir():
        if member.mode != 0o755 and not as_is:
            problems.append(f"{name}: mode {member.mode:o}")
        return ("d",)
    if member.issym():
        if member.mode != 0o777:
            problems.append(f"{name}: mode {member.mode:o}")
        return ("l", os.fsencode(member.linkname))
    problems.append(f"{name}: a member of type {member.type!r}")
    return None


def read_tar(content, root, as_is=False):
    """(nodes, problems) of a payload's tar; `root` is what the metadata says, "dir" or "file"; `as_is` when it has the files' own
    modes and times."""
    problems, nodes, order = [], {}, []
    try:
        archive = tarfile.open(fileobj=io.BytesIO(content), mode="r:", encoding="utf-8", errors="surrogateescape")
        members = archive.getmembers()
    except tarfile.TarError as error:
        # Python takes two zero blocks alone for an empty archive only with ignore_zeros; say it ourselves.
        if content == bytes(2 * BLOCK):
            return {}, []
        return {}, [f"no tar: {error}"]
    end = 0
    for member in members:
        end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isreg() else 0)
        path = os.fsencode(member.name)
        node = member_node(archive, member, problems, as_is)
        if node is None:
            continue
        if root == "dir" and path == b"." and node == ("d",) and not order:
            continue
        if bad_path(path):
            problems.append(f"{spec.escape(path)}: a path that leads out")
        if path in nodes:
            problems.append(f"{spec.escape(path)}: twice")
        parent = path.rpartition(b"/")[0]
        if parent and nodes.get(parent) != ("d",):
            problems.append(f"{spec.escape(path)}: before its folder")
        nodes[path] = node
        order.append(path.split(b"/"))
    if order != sorted(order):
        problems.append("members out of order")
    if archive.pax_headers:
        problems.append("a global header")
    if content[end:] != bytes(2 * BLOCK):
        problems.append(f"{len(content) - end} bytes after the last member instead of two zero blocks")
    if root == "file":
        if len(nodes) != 1 or next(iter(nodes.values()))[0] not in "fx":
            problems.append(f"{len(nodes)} members instead of one file")
        nodes = {b".": node for node in nodes.values()}
    return nodes, problems
