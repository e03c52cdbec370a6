"""Git's ignore rules for the folders below one directory, as gitignore(5) and git's wildmatch describe them.

`self_test.py` compares this with git's own answer on random rule sets.
"""

import os
import re

CLASSES = {"alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": " \\t", "digit": "0-9", "lower": "a-z", "upper": "A-Z",
           "space": " \\t\\n\\r\\f\\v", "punct": "!-/:-@\\[-`{-~", "xdigit": "0-9a-fA-F", "cntrl": "\\x00-\\x1f\\x7f",
           "graph": "!-~", "print": " -~"}


class Never(Exception):
    """A pattern that can match nothing, as an unclosed "["."""


def one(byte):
    return re.escape(bytes([byte]))


def bracket(glob, at):
    """The expression of a "[...]" that starts at `at`, and where it ends."""
    at += 1
    negated = glob[at:at + 1] in (b"!", b"^")
    at += negated
    inside, first = b"", True
    while True:
        if at >= len(glob):
            raise Never
        if glob[at:at + 1] == b"]" and not first:
            break
        first = False
        if glob[at:at + 2] == b"[:" and b":]" in glob[at:]:
            end = glob.index(b":]", at)
            name = glob[at + 2:end].decode("latin-1")
            if name not in CLASSES:
                raise Never
            inside += CLASSES[name].encode()
            at = end + 2
            continue
        if glob[at:at + 1] == b"\\":
            at += 1
            if at >= len(glob):
                raise Never
        low = glob[at]
        at += 1
        if glob[at:at + 1] == b"-" and glob[at + 1:at + 2] not in (b"]", b""):
            at += 1
            if glob[at:at + 1] == b"\\":
                at += 1
            high = glob[at]
            at += 1
            if low <= high:
                inside += b"\\x%02x-\\x%02x" % (low, high)
        else:
            inside += b"\\x%02x" % low
    if not inside:
        return (b"[^/]" if negated else b"(?!)"), at + 1
    return b"(?!/)[" + (b"^" if negated else b"") + inside + b"]", at + 1


def expression(glob):
    """A compiled expression for a glob in which only "**" crosses a slash."""
    out, at = b"", 0
    while at < len(glob):
        byte = glob[at:at + 1]
        if byte == b"*":
            end = at
            while glob[end:end + 1] == b"*":
                end += 1
            starts = at == 0 or glob[at - 1:at] == b"/"
            if end - at >= 2 and starts and end == len(glob):
                out, at = out + b".*", end
            elif end - at >= 2 and starts and glob[end:end + 1] == b"/":
                out, at = out + b"(?:.*/)?", end + 1
            else:
                out, at = out + b"[^/]*", end
        elif byte == b"?":
            out, at = out + b"[^/]", at + 1
        elif byte == b"[":
            part, at = bracket(glob, at)
            out += part
        else:
            if byte == b"\\":
                at += 1
                if at >= len(glob):
                    raise Never
            out, at = out + one(glob[at]), at + 1
    return re.compile(out + rb"\Z", re.DOTALL)


class Rule:
    def __init__(self, pattern):
        self.keeps = pattern.startswith(b"!")
        pattern = pattern[self.keeps:]
        self.folders_only = pattern.endswith(b"/")
        pattern = pattern[:-1] if self.folders_only else pattern
        self.anchored = b"/" in pattern
        pattern = pattern[1:] if pattern.startswith(b"/") else pattern
        try:
            self.expression = expression(pattern)
        except Never:
            self.expression = None

    def matches(self, path, is_folder):
        """`path` is relative to the folder of the rule's file."""
        if self.expression is None or (self.folders_only and not is_folder):
            return False
        return bool(self.expression.match(path if self.anchored else path.rpartition(b"/")[2]))


def without_trailing_spaces(row):
    end = len(row)
    while end and row[end - 1:end] == b" ":
        # A space that a backslash quotes stays; a backslash that is quoted itself quotes nothing.
        quotes = len(row[:end - 1]) - len(row[:end - 1].rstrip(b"\\"))
        if quotes % 2:
            break
        end -= 1
    return row[:end]


def parse(text):
    """The rules of an ignore file, in their order."""
    text = text[3:] if text.startswith(b"\xef\xbb\xbf") else text
    rules = []
    for row in text.split(b"\n"):
        row = without_trailing_spaces(row.removesuffix(b"\r"))
        if row and not row.startswith(b"#") and row not in (b"!", b"/", b"!/"):
            rules.append(Rule(row))
    return rules


class Ignore:
    """Answers for paths below `top`, reading the `.gitignore` files inside it and none above."""

    def __init__(self, top):
        self.top, self.known = os.fsencode(top), {}

    def rules(self, folder):
        if folder not in self.known:
            path = os.path.join(self.top, folder, b".gitignore")
            try:
                with open(path, "rb") as file:
                    self.known[folder] = [] if os.path.islink(path) else parse(file.read())
            except OSError:
                self.known[folder] = []
        return self.known[folder]

    def excludes(self, path, is_folder):
        """Whether the rules leave out `path`, whose parents are known not to be left out."""
        folder = path.rpartition(b"/")[0]
        while True:
            inside = path[len(folder) + 1:] if folder else path
            for rule in reversed(self.rules(folder)):
                if rule.matches(inside, is_folder):
                    return not rule.keeps
            if not folder:
                return False
            folder = folder.rpartition(b"/")[0]


class Globs:
    """A list of gitignore-style globs that is no file: `exclude`, `inputs`, `--input`."""

    def __init__(self, globs):
        self.rules = [Rule(os.fsencode(glob)) for glob in globs]

    def matches(self, path, is_folder):
        for rule in reversed(self.rules):
            if rule.matches(path, is_folder):
                return not rule.keeps
        return False
