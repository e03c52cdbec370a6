"""Random trees: every kind of node, odd names, sizes around the limits of blocks."""

import os

import spec

ODD = [b"bad\xff", "caf\u00e9".encode(), "cafe\u0301".encode(), b"new\nline", b" lead", b"trail ", b"-rf", b"--", b"100%", b"%25",
       b"\x1b[31mred", b"\x7f", b"n" * 255, b"...", b"CON", b"a\\b", b"*", b"[a]", b"quote'\"", b"README", b"readme", b".hidden",
       b"\xed\xa0\x80", "\u202etxt".encode(), b"a\tb", b"f 0 0 x", b".gitattributes", b"payload.tar.lz4", b"\x01", b"dot.", b"~"]
SIZES = [0, 0, 1, 2, 100, 511, 512, 513, 1000, 4095, 4096, 4097, 20000, 65535, 65536, 65537]
TARGETS = [b"nowhere", b".", b"..", b"../../outside", b"/", b"/etc/passwd", b"self", b"x" * 150, b"odd\xff\n"]


def name(choices):
    if choices.random() < 0.35:
        return choices.choice(ODD)
    return b"%s%d%s" % (choices.choice([b"file", b"a", b"lib", b"x-"]), choices.randrange(30), choices.choice([b"", b".o", b".txt"]))


def content(choices, large=True):
    size = choices.choice(SIZES if large else SIZES[:9])
    if large and choices.random() < 0.01:
        size = choices.randrange(200_000, 3_000_000)
    kind = choices.random()
    if kind < 0.4:
        return choices.randbytes(size)
    if kind < 0.6:
        return bytes(size)
    return (b"line %d\n" % choices.randrange(1000) * (size // 5 + 1))[:size]


def node(choices, paths):
    kind = choices.random()
    if kind < 0.6:
        return content(choices)
    if kind < 0.75:
        return ("x", content(choices))
    if kind < 0.9:
        return ("l", choices.choice(TARGETS + paths))
    return None


def tree(choices, most=25):
    """A table for `vectors.lay_down`: mostly a folder, now and then a single file or nothing at all."""
    kind = choices.random()
    if kind < 0.06:
        return choices.choice([b"", ("x", b""), content(choices), ("x", content(choices))])
    table, folders = {}, [b""]
    for _ in range(0 if kind < 0.09 else choices.randint(1, most)):
        path = choices.choice(folders)
        path = path + b"/" + name(choices) if path else name(choices)
        if path in table or len(path) > 3000:
            continue
        table[path] = node(choices, [old.rpartition(b"/")[2] for old in table] or [b"."])
        if table[path] is None:
            folders.append(path)
    return table


def size_of(table):
    nodes = table.values() if isinstance(table, dict) else [table]
    return sum(len(item[1] if isinstance(item, tuple) else item) for item in nodes if item and (not isinstance(item, tuple) or item[0] == "x"))


def weather(choices, top):
    """What must not matter: modes but the owner's executable bit, times, links to one inode."""
    files = []
    for folder, folders, names in os.walk(os.fsencode(top)):
        for item in names:
            path = os.path.join(folder, item)
            if not os.path.islink(path):
                files.append(path)
    for path in files:
        bit = os.stat(path).st_mode & 0o100
        os.chmod(path, choices.choice([0o600, 0o644, 0o664, 0o4644, 0o2640, 0o611]) | bit)
        if choices.random() < 0.5:
            moment = choices.choice([0, 1, 10**9, 2 * 10**9, 4 * 10**9]) * 10**9 + choices.randrange(10**9)
            os.utime(path, ns=(moment, moment))
    if files and choices.random() < 0.3:
        try:
            twin = choices.choice(files) + b"~"
            os.link(twin[:-1], twin)
        except OSError:
            pass  # its name is at the limit already


def same(path, digest):
    """Whether a tree is there and has this T."""
    try:
        return os.path.lexists(path) and spec.tree_digest(path) == digest
    except (OSError, spec.Unsupported):
        return False
