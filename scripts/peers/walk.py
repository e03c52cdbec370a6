#!/usr/bin/env python3
"""Prints every path below a folder, one line each, for comparing trees. Shares no code with monofo.

Usage: walk.py FOLDER [--no-link-times]
A line holds: kind, mode, modification time, size, digest, link text, first name of the same file, path.
"""

import hashlib
import os
import stat
import sys


def digest(path):
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()[:16]


def paths(root):
    found = []
    folders = [b""]
    while folders:
        folder = folders.pop()
        for entry in os.scandir(os.path.join(root, folder)):
            path = os.path.join(folder, entry.name)
            found.append(path)
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
    return sorted(found)


def main():
    root = os.fsencode(sys.argv[1])
    link_times = "--no-link-times" not in sys.argv
    first = {}
    for path in paths(root):
        full = os.path.join(root, path)
        status = os.lstat(full)
        kind = stat.S_IFMT(status.st_mode)
        line = ["?", "-", "-", "-", "-", "-", "-"]
        if kind == stat.S_IFDIR:
            line[0] = "dir"
        elif kind == stat.S_IFLNK:
            line[0], line[5] = "link", repr(os.readlink(full))
        elif kind == stat.S_IFREG:
            line[0], line[3], line[4] = "file", str(status.st_size), digest(full)
            if status.st_nlink > 1:
                line[6] = repr(first.setdefault((status.st_dev, status.st_ino), path))
        if kind != stat.S_IFLNK:
            line[1] = oct(stat.S_IMODE(status.st_mode))
        if link_times or kind != stat.S_IFLNK:
            line[2] = str(status.st_mtime_ns // 1_000_000_000)
        print(*line, repr(path))


main()
