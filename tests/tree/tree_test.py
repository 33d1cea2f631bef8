"""The checks of the sources as text hold for this tree, and each of them can fail: a copy is spoiled in one way at a time."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = sys.argv[1]
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "proof/mutants"))
import mutant  # noqa: E402

LAYERS, MUTANTS, ORDERS = ["scripts/layers"], ["proof/mutants/apply", "--check"], ["proof/orders"]
passed = failed = 0


def run(tree, command):
    r = subprocess.run([os.path.join(tree, command[0]), *command[1:]], cwd=tree, capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr


def check(name, good, told):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    if not good:
        print(f"  {name}: FAILED\n    " + told.rstrip().replace("\n", "\n    "))


def replaced(old, new):
    def change(text):
        assert old in text, f"`{old}` is not there to be replaced"
        return text.replace(old, new, 1)

    return change


class Copy:
    def __init__(self, folder, *tops):
        self.root = folder
        for top in tops:
            shutil.copytree(os.path.join(ROOT, top), os.path.join(folder, top), ignore=shutil.ignore_patterns("build*"))

    def path(self, name):
        return os.path.join(self.root, name)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as f:
            return f.read()

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)

    def without(self, name):
        if os.path.exists(self.path(name)):
            os.unlink(self.path(name))

    def spoiled(self, name, command, file, change, *told):
        """With this file changed (or made, or gone) the command fails and says all of that; and is content again after."""
        old = self.read(file) if os.path.exists(self.path(file)) else None
        new = change(old) if callable(change) else change
        if new is None:
            self.without(file)
        else:
            self.write(file, new)
        rc, out = run(self.root, command)
        if old is None:
            self.without(file)
        else:
            self.write(file, old)
        check(name, rc == 1 and all(t in out for t in told) and "Traceback" not in out, out)


ROWS = "docs/design/orders.md"
MUTANT = "A thing.\n\nOnly: explore_lane\nIn: {}\n<<<<\n{}\n====\n{}\n>>>>\n"
RING = "src/lane/ring.h"  # and what is spoiled there: the release of [ring-head]
HEAD = "atomic_store_explicit((_Atomic uint64_t *)(void *)rec, wh_rec_head(kind, len, tx->records),\n"


def layers(c):
    c.spoiled("a folder includes from below", LAYERS, RING, lambda t: '#include "link/link.h"\n' + t,
              f"{RING}:1: src/lane may not include src/link/link.h")
    c.spoiled("... in other brackets", LAYERS, RING, lambda t: "# include <link/link.h>\n" + t, f"{RING}:1: ")
    c.spoiled("... by another way", LAYERS, RING, lambda t: '#include "../link/link.h"\n' + t, f"{RING}:1: ")
    c.spoiled("a folder without a row", LAYERS, "src/cellar/cellar.c", "\n", "src/cellar/cellar.c: its folder has no row")
    c.spoiled("a row without a folder", LAYERS, "scripts/layers", replaced("src/lane ", "src/road\nsrc/lane "),
              "there is nothing in src/road")
    c.spoiled("a row that looks down", LAYERS, "scripts/layers", replaced("src/os          src/base", "src/os  src/port"),
              "the row of src/os names src/port, which does not stand above it")
    c.spoiled("an exception that is not needed", LAYERS, "scripts/layers",
              replaced('EXCEPTIONS = """\n', 'EXCEPTIONS = """\nsrc/os/os.c src/link/link.h why\n'), "not needed any more")
    c.spoiled("a header that is nowhere", LAYERS, RING, lambda t: '#include "nowhere.h"\n' + t, "knows where nowhere.h is")
    rc, out = run(c.root, LAYERS + ["--dot"])
    with open(os.path.join(ROOT, "docs/design/house.dot"), encoding="utf-8") as f:
        check("the figure of the house is that of the table", rc == 0 and out == f.read(), out)
    c.spoiled("a header for tests", LAYERS, RING, lambda t: '#include "test.h"\n' + t, "tests/harness/test.h is for tests")


def walk():
    """Every function that docs/design/walk.md names is in the file it names; on the way down no folder comes twice."""

    def read(file):
        path = os.path.join(ROOT, file)
        return open(path, encoding="utf-8").read() if os.path.exists(path) else ""

    ways = re.split(r"(?m)^## ", read("docs/design/walk.md"))[1:]
    steps = 0
    for way in ways:
        folders = []
        for number, file, functions in re.findall(r"(?ms)^ *(\d+)\. `(src/[\w/.]+)`: (.*?)(?=^ *\d+\. |^\S|\Z)", way):
            steps += 1
            folders = folders if number != "1" else []
            text = read(file)
            for name in re.findall(r"`(\w+)\(\)`", functions):
                check(f"{name}() of the walk is in {file}", re.search(rf"(?m)^\w.*\b{name}\(", text),
                      f"{file} has no {name}()")
            folder = os.path.dirname(file)
            if not folders or folders[-1] != folder:
                check(f"the walk enters {folder} once", folder not in folders, way.split("\n")[0])
                folders.append(folder)
    check("the walk has its ways", len(ways) >= 6 and steps > 30, f"{len(ways)} ways, {steps} steps")


def mutants(c):
    m = "proof/mutants/order-publish.mutant"
    c.spoiled("a mutant whose text is gone", MUTANTS, RING, replaced("wh_rec_head(kind, len, tx->records)", "0"),
              "order-publish.mutant: its old text", "stands nowhere in src/*, not once")
    c.spoiled("... and elsewhere", MUTANTS + [m], m, lambda t: re.sub("(?m)^In: .*", "In: frame.c", t), f"but {RING}:")
    c.spoiled("a mutant whose text stands twice", MUTANTS, "src/lane/again.h", lambda _: c.read(RING),
              "order-publish.mutant: its old text", "src/lane/again.h:")
    new = "proof/mutants/a-thing.mutant"
    good, what = ("ring.h", "rx->lines))", "rx->lines + 1))"), "a-thing.mutant: "
    for name, text, told in (
        ("changes nothing", MUTANT.format("ring.h", "rx -> lines", "rx->lines /* */"), "changes nothing"),
        ("has no old text", MUTANT.format("ring.h", "", "x"), "without an old text"),
        ("does not end", MUTANT.format(*good).replace(">>>>", ""), "does not end"),
        ("names nothing to notice it", MUTANT.format(*good).replace("Only", "only"), "no `Only:`"),
        ("names what is not there", MUTANT.format(*good).replace("explore_lane", "explore_nothing"), "no program of proof/"),
        ("names a test that is not there",
         MUTANT.format(*good).replace("explore_lane", "tests/process/test-hostile:no_such_test"), "has no test no_such_test"),
    ):
        c.spoiled(f"a mutant that {name}", MUTANTS + [new], new, text, what, told)
    # Moved to another file and function, indented and broken into lines otherwise, with another comment: it still fits.
    text = c.read(RING)
    moved = text.replace(HEAD, "\n /* moved */ " + HEAD.replace(", ", ",\n\t\t\t/* there */ "))
    assert moved != text
    c.write("src/port/moved.h", moved)
    c.without(RING)
    rc, out = run(c.root, ["proof/mutants/apply", "--check", m])
    check("a mutant whose text has moved", rc == 0, out)
    c.write(RING, text)
    c.without("src/port/moved.h")
    # Broken, and put right again.
    with tempfile.TemporaryDirectory() as clean:
        shutil.copytree(c.path("src"), os.path.join(clean, "src"))
        rc, out = run(c.root, ["proof/mutants/apply", m, "."])
        broken = c.read(RING)
        check("a mutant is made", (rc, out) == (0, RING + "\n") and broken != text, out)
        rc, out = run(c.root, ["proof/mutants/apply", m, "."])
        check("... once, and a second time changes nothing", rc == 1 and c.read(RING) == broken, out)
        rc, out = run(c.root, ["proof/mutants/apply", "--undo", clean, "."])
        check("... and undone", (rc, out) == (0, RING + "\n") and c.read(RING) == text, out)


def orders(c):
    label = "/* [ring-head] Release, pairs"
    c.spoiled("an order without a label", ORDERS, RING, replaced(label, "/* Release, pairs"), f"{RING}:",
              "release without a label")
    c.spoiled("an order that is not spelled out", ORDERS, "src/lane/ring.c",
              replaced("atomic_load_explicit(&rx->back->want, memory_order_relaxed)", "atomic_load(&rx->back->want)"),
              "src/lane/ring.c:", "spells no order out")
    c.spoiled("an order whose mutant is gone", ORDERS, "proof/mutants/order-publish.mutant", None,
              f"nothing says why it is needed: [ring-head] release, 1 of {RING}:")
    c.spoiled("an order that has no mutant yet", ORDERS, "src/lane/ring.c",
              lambda t: t + "\nvoid f(void)\n{\n        /* [new] Why. */\n        atomic_thread_fence(memory_order_seq_cst);\n}\n",
              "nothing says why it is needed: [new] seq_cst, 1 of src/lane/ring.c:")
    c.spoiled("a row about what is gone", ORDERS, ROWS, lambda t: t + "| `[gone]` | release | why |\n",
              "speaks of a label that is gone: [gone]")
    c.spoiled("a row about an order that is gone", ORDERS, ROWS, lambda t: t + "| `[self]` | seq_cst | why |\n",
              "speaks of seq_cst of a label that is there: [self]")
    c.spoiled("a row about more than is left", ORDERS, ROWS, replaced("| `[self]` | acquire", "| `[self]` | 2 acquire"),
              "a reason for 2 acquire of [self], of which 1 have no mutant")
    c.spoiled("a row about less", ORDERS, ROWS, replaced("| `[lock]` | 3 acquire", "| `[lock]` | 2 acquire"),
              "nothing says why it is needed: [lock] acquire, 1 of ")
    c.spoiled("a mutant that is out of date", ORDERS, RING, replaced("wh_rec_head(kind, len, tx->records)", "0"),
              "order-publish.mutant: ")


for command in (LAYERS, MUTANTS, ORDERS):
    rc, out = run(ROOT, command)
    check(" ".join(command), rc == 0, out)
    print("  " + out.rstrip().split("\n")[-1])
walk()
with tempfile.TemporaryDirectory() as folder:
    layers(Copy(folder, "include", "src", "tools", "bench", "tests/harness", "scripts"))
# Less of it is quicker to read: the lane and what calls the system, the mutants that are about those, and their rows.
with tempfile.TemporaryDirectory() as folder:
    c = Copy(folder, "src/lane", "src/os", "proof", "tests/process", "docs/design")
    small = mutant.Tree(folder)
    for path in mutant.mutants(c.path("proof/mutants")):
        try:
            mutant.Mutant(path).edits(small)
        except mutant.Trouble:
            os.unlink(path)
    gone = re.findall(r"gone: \[([a-z-]+)\]", run(folder, ORDERS)[1])
    c.write(ROWS, "".join(s for s in c.read(ROWS).splitlines(True) if not any(s.startswith(f"| `[{g}]") for g in gone)))
    for command in (MUTANTS, ORDERS):
        rc, out = run(folder, command)
        check("the smaller tree: " + " ".join(command), rc == 0, out)
    mutants(c)
    orders(c)
print(f"tree: {passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
