#!/usr/bin/env python3
"""Runs what the pages show: `pages_test.py SOURCE BUILD`.

A command in a page is a line "    $ COMMAND"; what it prints stands below it. All commands of one page are typed into one
shell, one after the other, and what they print, on both outputs, is compared. Where a page shows numbers that are other
ones each time (process ids, times) only the words around them are: that is so for what `wharf` prints, and not for what
the examples do. Widths of columns follow the numbers. A page thus shows nothing that is not promised: what may come in any
order is sorted in the page.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

source, build = (os.path.abspath(a) for a in sys.argv[1:3])
passed, failed = 0, 0

# Shown without what they print; and those that never end.
NOT_SHOWN = {"wharf ls", "wharf doctor"}
ENDLESS = {"wharf ls --watch"}
# What to wait for after a command in the background: a reader takes as long to type the next one.
READY = [("wharf serve lines", 'wharf ls --json 2>&1 | grep -q "\\"name\\":\\"lines\\""'),
         ("deadlock-", "{ wharf ps >/dev/null 2>&1; [ $? = 3 ]; }"),
         ("kill ", '! { wharf ls --json 2>&1 | grep -q "\\"name\\":"; }')]


def pages():
    found = [os.path.join(source, "README.md")]
    for folder, _, names in sorted(os.walk(os.path.join(source, "docs"))):
        found += [os.path.join(folder, n) for n in sorted(names) if n.endswith(".md")]
    return found


def commands(text):
    """[(command, what it prints)]"""
    found = []
    inside = False
    for line in text.split("\n"):
        if line.startswith("    $ "):
            found.append((line[6:], []))
            inside = True
        elif line.startswith("    ") and inside:
            found[-1][1].append(line[4:])
        elif line.strip() or not inside:
            inside = False
        else:
            found[-1][1].append("")
    return [(c, "\n".join(lines).rstrip("\n")) for c, lines in found]


def words(text):
    """What is left of a table when its numbers and the widths of its columns are gone."""
    text = re.sub(r"\d+(\.\d+)?", "N", text)
    text = re.sub(r"\b(root|[a-z_][a-z0-9_-]*)(?= +N +N +N)", "USER", text)
    return re.sub(r"^ +", "", re.sub(r"[ \t]+", " ", text), flags=re.M)


def run(page):
    global passed, failed
    name = os.path.relpath(page, source)
    with open(page, encoding="utf-8") as f:
        text = f.read()
    typed = [(c, out) for c, out in commands(text) if c not in ENDLESS]
    if not typed:
        return
    where = tempfile.mkdtemp(prefix="wharf-pages-")
    os.symlink(build, os.path.join(where, "build"))
    program = re.search(r"```c\n(#include <stdio\.h>.*?)```", text, re.S)
    if program:
        with open(os.path.join(where, "hello.c"), "w", encoding="utf-8") as f:
            f.write(program[1])
    script = ["set -m", "cd %s" % where, "st=0"]
    for i, (command, _) in enumerate(typed):
        script += ["printf '\\001'", "(exit $st)", command, "st=$?"]
        for what, until in READY:
            if what in command:
                script.append("n=0; until { %s; } 2>/dev/null || [ $((n += 1)) -gt 600 ]; do sleep 0.05; done" % until)
    script += ["printf '\\001'", "for j in $(jobs -p); do kill -9 -- -$j; done", "wait"]
    env = dict(os.environ, WHARF_DOMAIN=where + "/domain", WHARFD=build + "/wharfd", LC_ALL="C", COLUMNS="200",
               PATH=build + ":" + os.environ["PATH"], PKG_CONFIG_PATH=build + "/meson-uninstalled",
               LD_LIBRARY_PATH=build)
    env.pop("XDG_RUNTIME_DIR", None)
    shell = ["bash", "-c", "\n".join(script)]
    if "posix:" in text and "segment" in text:
        # Names that all programs of this machine share: in a world of its own.
        own = "mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec \"$@\""
        shell = ["unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", own, "sh"] + shell
        if subprocess.run(shell[:-3] + ["true"], capture_output=True).returncode:
            print("  skipped cli-pages: %s (needs root and namespaces, for shared memory of its own)" % name)
            shutil.rmtree(where)
            return
    with open(os.path.join(where, "said"), "w+b") as said:
        try:
            subprocess.run(shell, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=env, timeout=120)
        except subprocess.TimeoutExpired:
            print("%s: no end after 120 s" % name, file=sys.stderr)
            failed += 1
        said.seek(0)
        parts = said.read().decode("utf-8", "replace").split("\1")[1:]
    for (command, want), got in zip(typed, parts):
        got = "\n".join(line.rstrip() for line in got.rstrip("\n").split("\n") if not re.search("Killed|Terminated", line))
        if not want and command in NOT_SHOWN:
            continue
        alike = (words(want) == words(got)) if re.match(r"(.*\| )?(build/)?wharf |cc ", command) else want == got
        if alike:
            passed += 1
        else:
            failed += 1
            print("%s: $ %s\n  the page shows:\n%s\n  it printed:\n%s" % (name, command, want, got), file=sys.stderr)
    if len(parts) != len(typed) + 1:
        failed += 1
        print("%s: %d commands of %d ended" % (name, len(parts) - 1, len(typed)), file=sys.stderr)
    # wharfd leaves by itself, when nobody needs it.
    for _ in range(600):
        if not os.path.exists(where + "/domain/bootstrap"):
            break
        time.sleep(0.05)
    shutil.rmtree(where, ignore_errors=True)


for page in pages():
    run(page)
print("cli-pages: %d passed, %d failed" % (passed, failed))
sys.exit(failed > 0)
