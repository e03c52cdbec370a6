"""The inputs of a component: which files are in the set, their listing, and the key of a workspace's components.

`keys_of` takes the manifest as Python values, so that no YAML is read here.
"""

import os

import ignore
import spec

VERSION_CONTROL = (b".git", b".hg", b".svn", b".jj")


def leaves(path, target):
    """Whether a link's target, read as text, lies outside of the folder that the link's path is relative to."""
    if target.startswith(b"/"):
        return True
    depth = path.count(b"/")
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in (b"", b"."):
            depth += 1
    return False


def reached_by(path):
    """What the line of kind "t" says of a link that leaves."""
    if os.path.isdir(path):
        return ("directory", 0)
    if os.path.isfile(path):
        return spec.digest_file(path)
    return ("missing", 0)


def collect(top, decide, own, enter_all):
    """(nodes, reached) of what lies below `top`.

    `decide(path, is_folder, above)` says whether a node is in the set, `above` whether its folder is. Folders that are
    not are entered only with `enter_all`.
    """
    top, nodes, reached = os.fsencode(top), {}, {}

    def walk(prefix, above):
        for name in os.listdir(os.path.join(top, prefix)):
            path = prefix + b"/" + name if prefix else name
            full = os.path.join(top, path)
            if name in VERSION_CONTROL or os.path.realpath(full) in own or name.startswith(b".monofo-restore-"):
                continue
            folder = os.path.isdir(full) and not os.path.islink(full)
            inside = decide(path, folder, above)
            if folder:
                if inside or enter_all:
                    walk(path, inside)
                continue
            if not inside:
                continue
            try:
                nodes[path] = spec.node_at(full)
            except spec.Unsupported:
                continue
            if nodes[path][0] == "l" and leaves(path, nodes[path][1]):
                reached[path] = reached_by(full)

    walk(b"", not enter_all)
    return nodes, reached


def component_listing(folder, outputs=None, exclude=(), own=()):
    """The listing of a component's folder."""
    rules, globs = ignore.Ignore(folder), ignore.Globs(exclude)
    outputs = os.fsencode(os.path.normpath(outputs)) if outputs else None

    def decide(path, is_folder, above):
        return path != outputs and not globs.matches(path, is_folder) and not rules.excludes(path, is_folder)

    return spec.source_listing(*collect(folder, decide, own, enter_all=False))


def named_listing(root, globs, own=()):
    """The listing of what globs name below the root: `inputs` of a manifest, `--input` without one."""
    globs = ignore.Globs(globs)

    def decide(path, is_folder, above):
        return above or globs.matches(path, is_folder)

    return spec.source_listing(*collect(root, decide, own, enter_all=True))


def files_key(root, component, inputs=(), own=(), salt="", platform=None):
    """(record, K) of a component without a manifest."""
    files = spec.digest(named_listing(root, inputs, own)) if inputs else None
    record = spec.files_record(component, platform, files, salt)
    return record, spec.key(record)


def keys_of(root, components, env, own=(), salt=""):
    """{component: (record, K)} for a manifest's `components`."""
    done = {}

    def visit(name):
        if name in done:
            return done[name]
        entry = components[name]
        folder = os.path.join(root, entry.get("path", os.path.join("components", name)))
        source = {"absent": True}
        if os.path.isdir(folder):
            listing = component_listing(folder, entry.get("outputs"), entry.get("exclude", ()), own)
            source = {"listing": spec.digest(listing)}
        extra = spec.digest(named_listing(root, entry["inputs"], own)) if entry.get("inputs") else None
        dependencies = []
        for dependency in entry.get("depends_on", ()):
            dependency = dependency.split(":", 1)[0]
            dependencies.append((dependency, version_of(components[dependency]), visit(dependency)[1]))
        record = spec.component_record(
            name, version_of(entry), entry.get("type", ""), entry.get("build_target", ""),
            "any" if entry.get("platform") == "any" else spec.native_platform(), source, extra,
            spec.env_digests(entry.get("env", ()), env), dependencies, salt)
        done[name] = (record, spec.key(record))
        return done[name]

    for name in components:
        visit(name)
    return done


def version_of(entry):
    return str(entry.get("version", "latest"))
