"""What the tools of proof/ know of C text and of mutants: `apply`, `run` and `proof/orders` read both with this.

A mutant names files, an old text and a new one:

    What it breaks, in prose.

    Only: PART                  what must notice it: proof/mutants/run says what may stand here
    In: src/*                   files: a path, or a file's name alone wherever it lies; * crosses folders
    <<<<
    the old text
    ====
    the new one
    >>>>

There may be several such changes, and an `In:` goes for all that follow it up to the next. The old text is compared token
by token: how it is indented and broken into lines, and what comments stand in it, does not matter, so a mutant goes on
when code moves. It has to stand once in all the files together. If it stands nowhere or twice, the mutant is out of date,
and that is an error: what it breaks is not tried any more.
"""

import bisect
import fnmatch
import functools
import os
import re

FOLDERS = ("include", "src", "tools", "wharfd")  # where code lies that a mutant may break
TOKEN = re.compile(
    r"""(?P<space>\s+|\\\n|//(?:\\\n|[^\n])*|/\*.*?\*/)
    |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'
    |\.?[0-9](?:[eEpP][+-]|[\w.])*
    |\w+
    |<<=|>>=|\.\.\.|->|\+\+|--|<<|>>|&&|\|\||[-+*/%&|^=!<>]=|\#\#
    |.""",
    re.S | re.X,
)


class Trouble(Exception):
    """A mutant that is not written as it should be, or is out of date."""


def tokens(text):
    """The tokens of C text, without spaces and comments: (what, from, to)."""
    return [(m.group(), m.start(), m.end()) for m in TOKEN.finditer(text) if m.lastgroup != "space"]


class File:
    def __init__(self, tree, path):
        self.path = path
        with open(os.path.join(tree, path), encoding="utf-8", newline="") as f:
            self.text = f.read()

    @functools.cached_property
    def tokens(self):
        return tokens(self.text)

    @functools.cached_property
    def joined(self):
        """One token a line, with a line end before each, so that a search finds whole tokens; and where those line ends are."""
        text = "\n" + "".join(t[0] + "\n" for t in self.tokens)
        return text, [i for i, c in enumerate(text) if c == "\n"]

    def find(self, old):
        """Where the tokens `old` stand: the indices of their first ones."""
        if not all(t in self.text for t in old):  # nearly every file, and then that is all there is to do
            return
        text, ends = self.joined
        wanted, at = "\n" + "".join(t + "\n" for t in old), -1
        while (at := text.find(wanted, at + 1)) >= 0:
            yield bisect.bisect_left(ends, at)

    def line(self, at):
        return self.text.count("\n", 0, at) + 1


class Tree:
    """The sources below a folder, without tests: nobody breaks those."""

    def __init__(self, root):
        self.root = root
        self.files = {}
        for top in FOLDERS:
            for folder, folders, names in os.walk(os.path.join(root, top)):
                folders.sort()
                for name in sorted(names):
                    if name.endswith((".c", ".h")) and not name.endswith(("_test.c", "_testing.h")):
                        path = os.path.relpath(os.path.join(folder, name), root)
                        self.files[path] = None

    def file(self, path):
        if self.files[path] is None:
            self.files[path] = File(self.root, path)
        return self.files[path]

    def matching(self, pattern):
        for path in self.files:
            if fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(os.path.basename(path), pattern):
                yield self.file(path)

    def places(self, old, pattern="*"):
        return [(f, i) for f in self.matching(pattern) for i in f.find(old)]


class Change:
    def __init__(self, pattern, old, new):
        self.pattern, self.new = pattern, new
        self.old = [t[0] for t in tokens(old)]
        if not self.old:
            raise Trouble("a change without an old text")
        if self.old == [t[0] for t in tokens(new)]:
            raise Trouble("a change that changes nothing")


class Edit:
    """One change at its place: the tokens [first, first + n) of a file become another text."""

    def __init__(self, file, first, change):
        self.file, self.first, self.change = file, first, change
        self.n = len(change.old)
        self.start = file.tokens[first][1]
        self.end = file.tokens[first + self.n - 1][2]


class Mutant:
    def __init__(self, path):
        self.name = os.path.basename(path).removesuffix(".mutant")
        self.only, self.changes = None, []
        with open(path, encoding="utf-8") as f:
            lines = f.read().split("\n")
        if not lines[0].strip():
            raise Trouble("its first line does not say what it breaks")
        pattern = part = None
        old, new = [], []
        for line in lines:
            if part is None and line.startswith("Only: "):
                if self.only:
                    raise Trouble("two `Only:`")
                self.only = line[6:].strip()
            elif part is None and line.startswith("In: "):
                pattern = line[4:].strip()
            elif part is None and line == "<<<<":
                old, new = [], []
                part = old
            elif part is old and line == "====":
                part = new
            elif part is new and line == ">>>>":
                if not pattern:
                    raise Trouble("a change without `In:`")
                self.changes.append(Change(pattern, "\n".join(old), "\n".join(new)))
                part = None
            elif part is not None:
                part.append(line)
        if part is not None:
            raise Trouble("a change that does not end")
        if not self.changes:
            raise Trouble("it changes nothing")
        if not self.only:
            raise Trouble("no `Only:` says what must notice it")

    def edits(self, tree):
        """Where it changes what. All is looked for in the tree as it is, so the order of the changes does not matter."""
        edits = []
        for c in self.changes:
            found = tree.places(c.old, c.pattern)
            if len(found) != 1:
                told = f"its old text `{' '.join(c.old)[:70]}` stands {where(found)} in {c.pattern}, not once"
                elsewhere = [] if found else tree.places(c.old)
                raise Trouble(told + (f"; but {where(elsewhere)}" if elsewhere else ""))
            edits.append(Edit(*found[0], c))
        edits.sort(key=lambda e: (e.file.path, e.first))
        for a, b in zip(edits, edits[1:]):
            if a.file is b.file and a.first + a.n > b.first:
                raise Trouble("two of its changes are about the same text")
        return edits


def where(found):
    return ", ".join(f"{f.path}:{f.line(f.tokens[i][1])}" for f, i in found) or "nowhere"


def mutants(folder):
    """The files of all mutants of a folder, in order."""
    return [os.path.join(folder, n) for n in sorted(os.listdir(folder)) if n.endswith(".mutant")]


def texts(edits):
    """What the files are with the edits made: {path: text}."""
    out = {}
    for e in reversed(edits):
        text = out.get(e.file.path, e.file.text)
        out[e.file.path] = text[: e.start] + e.change.new.strip() + text[e.end :]
    return out
