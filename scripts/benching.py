"""What the benchmarks share: running, comparing trees, a file system fit for it."""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path


def run(command, cwd=None, env=None):
    """Seconds, and MiB of the largest process."""
    took, _, memory = measure(command, cwd, env)
    return took, memory


def measure(command, cwd=None, env=None):
    """Seconds, (user, system) seconds of processor time, and MiB of the largest process."""
    script = command if isinstance(command, list) else ["bash", "-c", "set -o pipefail; " + command]
    started = time.monotonic()
    child = subprocess.Popen(script, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    took = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"bench: failed with {child.returncode}: {command}\n{said.decode(errors='replace')}")
    return took, (usage.ru_utime, usage.ru_stime), usage.ru_maxrss / 1024


def digest(root):
    """One digest over everything that an archive should keep of a tree, folders' times left out."""
    total = hashlib.sha256()
    for folder, folders, files in os.walk(os.fsencode(root)):
        folders.sort()
        for name in sorted(files + [d for d in folders if os.path.islink(os.path.join(folder, d))]):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            total.update(os.path.relpath(path, os.fsencode(root)) + b"\0")
            if stat.S_ISLNK(status.st_mode):
                total.update(b"link " + os.readlink(path) + b"\0")
                continue
            total.update(f"file {stat.S_IMODE(status.st_mode):o} {status.st_size} {int(status.st_mtime // 1)}\0".encode())
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
    return total.hexdigest()


def load():
    """How busy the machine is; warns when it is too busy for figures to mean much."""
    now, cores = os.getloadavg(), os.cpu_count()
    if now[0] > cores / 2:
        print(f"warning: the machine is busy: load {now[0]:.1f} on {cores} cores", file=sys.stderr)
    return f"load {now[0]:.1f} {now[1]:.1f} {now[2]:.1f}"


def empty(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def probe(out):
    """Creating files must not become slower after deleting some: ext4 without a journal is then no use."""
    def create(where):
        where.mkdir()
        started = time.monotonic()
        for i in range(4000):
            (where / str(i)).touch()
        return time.monotonic() - started
    first = create(out / "probe1")
    shutil.rmtree(out / "probe1")
    second = create(out / "probe2")
    shutil.rmtree(out / "probe2")
    if second > 4 * first:
        print(f"warning: creating files in {out} is {second / first:.0f} times slower after a deletion: "
              "use --loop, or another folder with --out", file=sys.stderr)


def loop_mount():
    image, mount = Path("/tmp/monofo-bench.img"), Path("/tmp/monofo-bench-out")
    mount.mkdir(exist_ok=True)
    if not os.path.ismount(mount):
        with open(image, "wb") as file:
            file.truncate(20 << 30)
        subprocess.run(["mkfs.ext4", "-qF", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
        # Without direct I/O each page would be copied and cached twice, by the cores that are measured. No disk of an agent asks for that.
        device = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", image], check=True, capture_output=True, text=True)
        try:
            subprocess.run(["mount", device.stdout.strip(), mount], check=True)
        finally:
            # It goes once nobody has it mounted.
            subprocess.run(["losetup", "--detach", device.stdout.strip()], check=True)
    return mount


def version(command):
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip("* ") if lines else "missing"


class Tee:
    """Writes to the terminal and to the end of a file."""

    def __init__(self, path):
        self.file, self.terminal = open(path, "a", encoding="utf-8"), sys.stdout

    def write(self, text):
        self.file.write(text)
        return self.terminal.write(text)

    def flush(self):
        self.file.flush()
        self.terminal.flush()
