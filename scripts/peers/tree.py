#!/usr/bin/env python3
"""Makes a tree with some of everything. Usage: tree.py FOLDER [--plain]

--plain leaves out what formats without pax or GNU headers cannot hold.
"""

import os
import random
import sys


def main():
    root, plain = os.fsencode(sys.argv[1]), "--plain" in sys.argv
    dice = random.Random(7)
    os.mkdir(root)

    def write(name, content, mode=0o644):
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)

    for size in (0, 1, 511, 512, 513, 65535, 65536, 1 << 20, (4 << 20) - 1, (4 << 20) + 1):
        write(b"sizes/%d" % size, dice.randbytes(size // 2) + b"t" * (size - size // 2))
    for index in range(300):
        write(b"many/%d/f%d" % (index % 7, index), b"text %d\n" % index * (index % 50), 0o755 if index % 3 else 0o600)
    write(b"odd/-rf", b"dash")
    write(b"odd/a b", b"blank")
    write(b"odd/..name", b"dots")
    os.makedirs(os.path.join(root, b"empty/folder"))
    os.symlink(b"nowhere/at all", os.path.join(root, b"odd/dangling"))
    os.symlink(b"../sizes", os.path.join(root, b"odd/to-folder"))
    os.link(os.path.join(root, b"sizes/513"), os.path.join(root, b"sizes/hard"))
    with open(os.path.join(root, b"sizes/sparse"), "wb") as file:
        for offset in (0, 1 << 20, 5 << 20, (9 << 20) + 100):
            file.seek(offset)
            file.write(b"island" * 100)
        file.truncate(12 << 20)
    with open(os.path.join(root, b"sizes/hole"), "wb") as file:
        file.truncate(3 << 20)
    if not plain:
        write(b"odd/\xff\xfe not utf-8", b"bytes")
        write(b"odd/new\nline", b"newline")
        write("odd/über/e\u0301".encode(), b"letters")
        write(b"long/" + b"n" * 255, b"long")
        write(b"/".join([b"long"] + [b"d" * 120] * 9 + [b"file"]), b"very long")
        os.symlink(b"t" * 400, os.path.join(root, b"long/link"))
        os.link(os.path.join(root, b"long/" + b"n" * 255), os.path.join(root, b"long/hard"))
    for folder, folders, files in os.walk(root, topdown=False):
        for name in files + folders:
            path = os.path.join(folder, name)
            os.utime(path, (0, dice.randrange(1, 1 << 31)), follow_symlinks=False)


main()
