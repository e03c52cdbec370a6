"""Random workspaces with a manifest: components, dependencies, ignore files, extra inputs, environment."""

import os

import sources
import vectors
from rig import trees
from rig.drive import SECRET

IGNORES = [b"*.o\n", b"/build/\n*.log\n!keep.log\n", b"*\n!*.txt\n!*/\n", b"file1*\n", b"**/x-*\n", b"# nothing\n\n"]


def quote(text):
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def yaml(components):
    """The manifest's text: block style, one field a line."""
    rows = ["components:"]
    for name, entry in components.items():
        rows.append(f"  {name}:" + ("" if entry else " {}"))
        for field, value in entry.items():
            if isinstance(value, list):
                rows.append(f"    {field}: [" + ", ".join(map(quote, value)) + "]")
            elif isinstance(value, int):
                rows.append(f"    {field}: {value}")
            else:
                rows.append(f"    {field}: {quote(value)}")
    return "\n".join(rows) + "\n"


class Workspace:
    """A root with `manifests/components.yaml`; `env` is what the commands see beside the sandbox's own."""

    def __init__(self, root, components, env=None):
        self.root, self.components, self.env = root, components, env or {}
        os.makedirs(os.path.join(root, "manifests"), exist_ok=True)
        self.write()

    def write(self):
        with open(os.path.join(self.root, "manifests/components.yaml"), "w") as file:
            file.write(yaml(self.components))

    def folder(self, name):
        return os.path.join(self.root, self.components[name].get("path", f"components/{name}"))

    def own(self):
        return [os.fsencode(os.path.realpath(os.path.join(self.root, name))) for name in (".meta-cache", ".meta-store", ".monofo")]

    def keys(self):
        """{component: (record, K)}, by the checker."""
        seen = {"RIG_CANARY": SECRET, **self.env}
        return sources.keys_of(self.root, self.components, seen, self.own(), self.env.get("MONOFO_CACHE_SALT", ""))

    def files(self, name):
        """Relative paths of the regular files of a component, ignored ones included."""
        top, found = os.fsencode(self.folder(name)), []
        for folder, folders, files in os.walk(top):
            for item in sorted(files):
                path = os.path.join(folder, item)
                if os.path.isfile(path) and not os.path.islink(path):
                    found.append(os.path.relpath(path, top))
        return sorted(found)

    def listed(self, name):
        """Those of `files` that the source listing names."""
        entry = self.components[name]
        listing = sources.component_listing(self.folder(name), entry.get("outputs"), entry.get("exclude", ()), self.own())
        import spec
        rows = [row.split(b" ", 3) for row in listing.splitlines()[1:]]
        return sorted(spec.unescape(row[3].decode()) for row in rows if row[0] in (b"f", b"x"))


def chain(components, name):
    """A component and everything it depends on."""
    seen = [name]
    for item in seen:
        seen += [other for other in (text.split(":")[0] for text in components[item].get("depends_on", ())) if other not in seen]
    return seen


def random_workspace(choices, root, most=5, odd=True):
    """A workspace whose last component depends, at some distance, on most of the others."""
    names = ["agent-core", "infra", "Lib_2", "web.app", "top"][-choices.randint(1, most):]
    components = {}
    for number, name in enumerate(names):
        entry = {"version": choices.choice(["v1.0.0", "v1.2.3", "2.0", 7, "latest"])}
        for field, values in [("type", ["bazel", "npm"]), ("build_target", ["//a:all", "build"]), ("platform", ["any", "native"]),
                              ("repo", ["git@example.org:a/b.git"])]:
            if choices.random() < 0.5:
                entry[field] = choices.choice(values)
        if choices.random() < 0.3:
            entry["path"] = f"src/{name}"
        if choices.random() < 0.5:
            entry["outputs"] = choices.choice(["out", "bazel-bin/all"])
        if choices.random() < 0.3:
            entry["exclude"] = ["docs/**"]
        if choices.random() < 0.3:
            entry["inputs"] = ["tools/**/*.bzl", "tools/shared/**"]
        if choices.random() < 0.5:
            entry["env"] = choices.sample(["CFLAGS", "DEBUG", "MODE", "RIG_CANARY"], choices.randint(1, 3))
        if number:
            wanted = choices.sample(names[:number], choices.randint(1, min(2, number)))
            if number == len(names) - 1 and names[number - 1] not in wanted:
                wanted[0] = names[number - 1]
            entry["depends_on"] = sorted(set(wanted), key=lambda item: choices.random())
        components[name] = entry
    env = {name: choices.choice(["-O2", "", "1", "a b"]) for name in ["CFLAGS", "MODE"] if choices.random() < 0.7}
    if choices.random() < 0.2:
        env["MONOFO_CACHE_SALT"] = "fresh"
    space = Workspace(root, components, env)
    for name in names:
        fill(choices, space, name, odd)
    vectors.lay_down(os.path.join(root, "tools"), {b"shared/a.bzl": b"a\n", b"b.bzl": b"b\n", b"not": b"c\n"})
    return space


def fill(choices, space, name, odd):
    """Sources, ignore files, outputs and docs of a component."""
    table = {}
    while not isinstance(table, dict) or not table:
        table = trees.tree(choices, 12) if odd else plain(choices)
    for extra in [b"main.c", b"sub/util.c", b"docs/page.md"]:
        table.setdefault(extra, b"content of " + extra + b"\n")
    for path in [b"out/made", b"bazel-bin/all/made"]:
        if not any(path.startswith(old + b"/") and table[old] is not None for old in table):
            table[path] = b"made\n"
    if choices.random() < 0.5:
        table[b".gitignore"] = choices.choice(IGNORES)
    if choices.random() < 0.2:
        table[b"sub/.gitignore"] = choices.choice(IGNORES)
    vectors.lay_down(space.folder(name), table)


def plain(choices):
    return {b"src/%s%d.c" % (choices.choice([b"m", b"n"]), number): choices.randbytes(choices.randrange(1, 200))
            for number in range(choices.randint(1, 8))}
