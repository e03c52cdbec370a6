"""Keys: what must not matter does not, what must matter does, and going back brings the key back.

Each key is also compared with the checker's own, so "changed" means "changed to what the specification says".
"""

import os
import shutil
import socket
import subprocess

import sources
import vectors
from rig import drive, trees
from rig.workspace import chain, random_workspace


def run(tally):
    with drive.Sandbox(tally) as folder:
        tool = drive.Tool(tally, folder)
        for number in range(tally.size(500, 40)):
            root = os.path.join(folder, "w")
            drive.remove(root)
            if tally.choices.random() < 0.8:
                Try(tally, tool, random_workspace(tally.choices, root)).run()
            else:
                named_files(tally, tool, root)
            tally.count()


class Try:
    def __init__(self, tally, tool, space):
        self.tally, self.tool, self.space, self.choices = tally, tool, space, tally.choices
        self.top = list(space.components)[-1]

    def key(self, root=None, more=None, before=(), component=None):
        outcome = self.tool.run(["cache", "key", component or self.top], root or self.space.root, {**self.space.env, **(more or {})}, [0], before)
        return outcome.text, outcome

    def run(self):
        self.base, outcome = self.key()
        wanted = self.space.keys()
        if not self.tally.expect(self.base == wanted[self.top][1], f"key is {self.base}, the checker says {wanted[self.top][1]}: {wanted[self.top][0]}", outcome):
            return
        other = self.choices.choice(list(self.space.components))
        key, outcome = self.key(component=other)
        self.tally.expect(key == wanted[other][1], f"key of {other} is {key}, the checker says {wanted[other][1]}", outcome)
        for disturb in self.choices.sample(HARMLESS, len(HARMLESS)):
            self.harmless(disturb)
        for disturb in self.choices.sample(CHANGES, 8):
            self.change(disturb)

    def harmless(self, disturb):
        undo = disturb(self)
        key, outcome = self.key(**(undo if isinstance(undo, dict) else {}))
        self.tally.expect(key == self.base, f"{disturb.__name__} changed the key", outcome)
        self.tally.note("disturbances that must not matter")
        if callable(undo):
            undo()

    def change(self, disturb):
        """Makes a change, looks, goes back, looks again. `disturb` returns what takes it back, None where it has no object."""
        names = chain(self.space.components, self.top)
        undo = disturb(self, self.choices.choice(names))
        if undo is None:
            return
        self.tally.note("changes that must matter")
        key, outcome = self.key()
        wanted = self.space.keys()[self.top][1]
        self.tally.expect(key == wanted, f"after {disturb.__name__} the key is {key}, the checker says {wanted}", outcome)
        self.tally.expect(wanted != self.base, f"{disturb.__name__} did not change the checker's key: mend the rig")
        undo()
        key, outcome = self.key()
        self.tally.expect(key == self.base, f"{disturb.__name__} taken back, but the key does not come back", outcome)

    # what the changes pick from

    def some_file(self, name):
        listed = self.space.listed(name)
        return os.path.join(os.fsencode(self.space.folder(name)), self.choices.choice(listed)) if listed else None

    def all_files(self):
        for name in self.space.components:
            top = os.fsencode(self.space.folder(name))
            yield from (os.path.join(top, path) for path in self.space.files(name))


# --- what must not matter --------------------------------------------------------------------------------------------

def touched(test):
    for path in test.all_files():
        moment = test.choices.choice([0, 10**9, 5 * 10**9]) * 10**9 + test.choices.randrange(10**9)
        os.utime(path, ns=(moment, moment))


def other_modes(test):
    for path in test.all_files():
        bit = os.stat(path).st_mode & 0o100
        os.chmod(path, test.choices.choice([0o600, 0o666, 0o4644, 0o2640, 0o1611]) | bit)


def other_owner(test):
    if os.geteuid() == 0:
        for path in test.all_files():
            os.chown(path, 12345, 54321)


def attributes(test):
    for path in list(test.all_files())[:3]:
        try:
            os.setxattr(path, "user.rig", b"x")
        except OSError:
            return


def hard_link_outside(test):
    path = next(iter(test.all_files()))
    os.link(path, os.path.join(test.space.root, "twin"))
    return lambda: os.remove(os.path.join(test.space.root, "twin"))


def empty_folders(test):
    path = os.path.join(test.space.folder(test.top), "hollow/deep")
    os.makedirs(path, exist_ok=True)


def special_files(test):
    path = os.path.join(test.space.folder(test.top), "pipe")
    if not os.path.lexists(path):
        os.mkfifo(path)
    # Names of sockets are short; bind inside the folder.
    here = os.getcwd()
    os.chdir(test.space.folder(test.top))
    try:
        if not os.path.lexists("socket"):
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("socket")
    finally:
        os.chdir(here)


def version_control(test):
    for name in [".git", "sub/.hg", ".svn", ".jj"]:
        vectors.lay_down(os.path.join(test.space.folder(test.top), name), {b"HEAD": b"ref\n", b"info/exclude": b"*\n"})


def left_out_by_the_manifest(test):
    entry = test.space.components[test.top]
    for place in [entry.get("outputs"), "docs" if "exclude" in entry else None]:
        if place:
            vectors.lay_down(os.path.join(test.space.folder(test.top), place), {b"more": b"x\n"})


def ignored_from_above(test):
    vectors.lay_down(test.space.root, {b".gitignore": b"components/\nsrc/\n*\n", b".git/info/exclude": b"*\n"})
    vectors.lay_down(test.tool.home, {b".config/git/ignore": b"*\n", b".gitconfig": b"[core]\n\texcludesFile = ~/.ignore\n", b".ignore": b"*\n"})


def other_surroundings(test):
    return {"more": {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo", "USER": "somebody", "PATH": "/bin", "TERM": "dumb", "CLICOLOR_FORCE": "1"}}


def another_umask(test):
    return {"before": ["sh", "-c", 'umask 077; exec "$@"', "-"]}


def from_a_folder_below(test):
    return {"root": os.path.join(test.space.folder(test.top))}


def other_fields_of_the_manifest(test):
    components = test.space.components
    for entry in components.values():
        entry["repo"] = "git@example.org:other/other.git"
        entry["somebody-elses"] = "field"
        for field in ["depends_on", "env"]:
            if field in entry:
                entry[field] = entry[field][::-1]
    test.space.components = dict(reversed(components.items()))
    test.space.write()
    test.space.components = components


def copied(test):
    """To another root: by cp in another order, or through tar."""
    target = os.path.join(test.tool.folder, "elsewhere", "node_modules", "deep")
    drive.remove(os.path.dirname(os.path.dirname(target)))
    os.makedirs(target)
    if test.choices.random() < 0.5:
        pack = subprocess.Popen(["tar", "-C", test.space.root, "-cf-", "--exclude=./.meta-*", "."], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        subprocess.run(["tar", "-C", target, "-xf-"], stdin=pack.stdout, stderr=subprocess.DEVNULL, check=True)
        pack.wait()
    else:
        copy_shuffled(test.choices, os.fsencode(test.space.root), os.fsencode(target))
    return {"root": target}


def copy_shuffled(choices, source, target):
    names = [name for name in os.listdir(source) if not name.startswith(b".meta-")]
    for name in choices.sample(names, len(names)):
        old, new = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(old) and not os.path.islink(old):
            os.mkdir(new)
            copy_shuffled(choices, old, new)
        elif os.path.isfile(old) or os.path.islink(old):
            shutil.copy(old, new, follow_symlinks=False)


HARMLESS = [touched, other_modes, other_owner, attributes, hard_link_outside, empty_folders, special_files, version_control,
            left_out_by_the_manifest, ignored_from_above, other_surroundings, another_umask, from_a_folder_below,
            other_fields_of_the_manifest, copied]


# --- what must matter ------------------------------------------------------------------------------------------------

def one_bit(test, name):
    """With the size and the times put back: only the contents tell."""
    path = test.some_file(name)
    if path is None or os.path.getsize(path) == 0 or path.endswith(b".gitignore"):
        return None
    status, at, bit = os.stat(path), test.choices.randrange(os.path.getsize(path)), 1 << test.choices.randrange(8)

    def flip():
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ bit]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    flip()
    return flip


def executable_bit(test, name):
    path = test.some_file(name)
    if path is None:
        return None

    def toggle():
        os.chmod(path, os.stat(path).st_mode ^ 0o100)

    toggle()
    return toggle


def moved(test, name):
    path = test.some_file(name)
    if path is None or path.endswith(b".gitignore"):
        return None
    target = os.path.join(os.fsencode(test.space.folder(name)), test.choices.choice([b"other.txt", b"new.txt", b"keep.log"]))
    if os.path.lexists(target):
        return None
    os.rename(path, target)
    return lambda: os.rename(target, path)


def swapped(test, name):
    """Two contents change places; the names, sizes and total stay."""
    listed = [path for path in test.space.listed(name) if not path.endswith(b".gitignore")]
    if len(listed) < 2:
        return None
    top = os.fsencode(test.space.folder(name))
    one, two = [os.path.join(top, path) for path in test.choices.sample(listed, 2)]
    if open(one, "rb").read() == open(two, "rb").read() and (os.stat(one).st_mode ^ os.stat(two).st_mode) & 0o100 == 0:
        return None

    def swap():
        os.rename(one, one[:200] + b"~")
        os.rename(two, one)
        os.rename(one[:200] + b"~", two)

    swap()
    return swap


def other_kind(test, name):
    """A file becomes a link, or a folder with a file in it."""
    path = test.some_file(name)
    if path is None or path.endswith(b".gitignore") or len(os.path.basename(path)) > 250:
        return None
    aside = os.path.join(test.space.root, "aside")
    os.rename(path, aside)
    if test.choices.random() < 0.5:
        os.symlink(open(aside, "rb").read(20).replace(b"\0", b"") or b"empty", path)
    else:
        os.mkdir(path)
        shutil.copy2(aside, os.path.join(path, b"inside.txt"))
    if test.space.keys()[test.top][1] == test.base:
        # An ignore rule takes the new one out where the old one was kept, or the other way round: not this test's business.
        drive.remove(path)
        os.rename(aside, path)
        return None

    def back():
        drive.remove(path)
        os.rename(aside, path)

    return back


def added(test, name):
    return new_file(test.space.folder(name), b"added.txt", b"")


def new_file(folder, name, content):
    path = os.path.join(os.fsencode(folder), name)
    if os.path.lexists(path):
        return None
    with open(path, "wb") as file:
        file.write(content)
    return lambda: os.remove(path)


def removed(test, name):
    path = test.some_file(name)
    if path is None:
        return None
    aside = os.path.join(test.space.root, "aside")
    os.rename(path, aside)
    return lambda: os.rename(aside, path)


def link_retargeted(test, name):
    path = os.path.join(test.space.folder(name), "link.txt")
    os.symlink("one", path)
    before = test.key()[0]
    os.remove(path)
    os.symlink("two", path)
    test.tally.expect(test.key()[0] not in (before, test.base), "a link's target does not count")
    return lambda: os.remove(path)


def manifest_field(field, values):
    def changed(test, name):
        entry = test.space.components[name]
        old = dict(entry)
        entry[field] = next(value for value in values if value != entry.get(field))
        test.space.write()
        if field == "platform" and {old.get("platform"), entry["platform"]} <= {None, "native"}:
            entry[field] = "any"
            test.space.write()

        def back():
            entry.clear()
            entry.update(old)
            test.space.write()

        return back

    changed.__name__ = f"another {field}"
    return changed


def environment(test, name):
    entry = test.space.components[name]
    variable = next((item for item in entry.get("env", ()) if item != "RIG_CANARY"), None)
    if variable is None:
        return None
    old = dict(test.space.env)
    if variable in old and test.choices.random() < 0.5:
        del test.space.env[variable]
    else:
        test.space.env[variable] = old.get(variable, "") + "x" if variable in old else ""

    def back():
        test.space.env = old

    return back


def salt(test, name):
    old = dict(test.space.env)
    test.space.env["MONOFO_CACHE_SALT"] = old.get("MONOFO_CACHE_SALT", "") + "!"

    def back():
        test.space.env = old

    return back


def extra_input(test, name):
    if "inputs" not in test.space.components[name]:
        return None
    return new_file(os.path.join(test.space.root, "tools/shared"), b"new.bzl", b"x")


CHANGES = [one_bit, executable_bit, moved, swapped, other_kind, added, removed, link_retargeted, environment, salt, extra_input,
           manifest_field("version", ["v9", "v8"]), manifest_field("type", ["make", "ninja"]),
           manifest_field("build_target", ["//z", "//y"]), manifest_field("platform", ["any", "native"])]


# --- without a manifest ----------------------------------------------------------------------------------------------

def named_files(tally, tool, root):
    """The key of a name, a platform and the files that globs name."""
    vectors.lay_down(root, {b"src/a.c": b"a\n", b"src/deep/b.c": b"b\n", b"lock.json": tally.choices.randbytes(20), b"other": b"x\n"})
    table = trees.tree(tally.choices, 8)
    vectors.lay_down(os.path.join(root, "odd"), table if isinstance(table, dict) else {b"x": table})
    globs = tally.choices.choice([[], ["lock.json"], ["src/**/*.c", "lock.json"], ["odd/**"], ["none/**"]])
    salt = tally.choices.choice(["", "s"])
    args = ["cache", "key", "web"] + [text for glob in globs for text in ("--input", glob)]
    own = [os.fsencode(os.path.join(root, name)) for name in (".meta-cache", ".meta-store")]

    def look(what):
        outcome = tool.run(args, root, {"MONOFO_CACHE_SALT": salt} if salt else {}, [0])
        wanted = sources.files_key(root, "web", globs, own, salt)[1]
        tally.expect(outcome.text == wanted, f"{what}, key is {outcome.text}, the checker says {wanted}", outcome)
        return wanted

    base = look("at first")
    for path in ["src/deep/b.c", "lock.json"]:
        with open(os.path.join(root, path), "r+b") as file:
            old = file.read()
            file.seek(0)
            file.write(b"Z")
        look(f"after a change of {path}")
        with open(os.path.join(root, path), "wb") as file:
            file.write(old)
        tally.expect(look("changed back") == base, "mend the rig")
        tally.note("changes that must matter")
