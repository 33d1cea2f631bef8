#!/usr/bin/env python3
"""table - reads the raw lines of several rounds and prints what wharf reaches beside what it promises.

    table.py RAW.csv                the table
    table.py --csv RAW.csv          every figure: median, lowest and highest round

A raw line is peer,workload,mode,size,metric,value; a line that begins with '#' is a remark. '# round N' begins a round;
what follows '# machine: ' and '# load: ' is printed below the table. Exit status: 0, or 1 when a line cannot be read.

The verdict is about the ratio of the medians. Beside it stands the median of the ratios within each round, with the
lowest and the highest: what is compared is measured one right after the other, so that ratio does not suffer when the
machine changes its speed between two rounds.
"""
import statistics
import sys

KERNEL_PEERS = ("pipe", "unix_seqpacket", "unix_stream", "posix_mq")


class Figure:
    """One measure of one peer over all rounds."""

    def __init__(self, peer, values, by_round=None):
        self.peer = peer
        self.median = statistics.median(values)
        self.low, self.high = min(values), max(values)
        self.by_round = by_round or {}

    def ratios_to(self, other):
        return [v / other.by_round[r] for r, v in self.by_round.items() if other.by_round.get(r)]


class Figures:
    def __init__(self, lines):
        values, by_round, current, rounds = {}, {}, None, 0
        self.machine, self.load = [], []
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if line.startswith("# machine: "):
                self.machine.append(line[len("# machine: "):])
            if line.startswith("# load: "):
                self.load.append(line[len("# load: "):])
            if line.startswith("# round "):
                current, rounds = line, rounds + 1
            if not line or line.startswith("#"):
                continue
            fields = line.split(",")
            try:
                key, value = (fields[0], fields[1], fields[2], int(fields[3]), fields[4]), float(fields[5])
                if len(fields) != 6:
                    raise ValueError
            except (ValueError, IndexError):
                raise SystemExit(f"table: line {number} is no figure: {line}")
            values.setdefault(key, []).append(value)
            if current:
                by_round.setdefault(key, {})[current] = value
        self.by_key = {k: Figure(k[0], v, by_round.get(k)) for k, v in values.items()}
        self.rounds = rounds or max((len(v) for v in values.values()), default=0)

    def get(self, *key):
        return self.by_key.get(key)

    def best(self, peers, lowest, *key):
        """The peer with the best median, or None when none of them was measured."""
        found = [f for f in (self.get(p, *key) for p in peers) if f]
        return (min if lowest else max)(found, key=lambda f: f.median) if found else None

    def range_of(self, peers, *key):
        found = [f for f in (self.get(p, *key) for p in peers) if f]
        if not found:
            return None
        r = Figure("kernel peers", [f.median for f in found])
        r.low, r.high = min(f.low for f in found), max(f.high for f in found)
        return r


def number(value):
    """Three or four digits and a unit prefix."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = {"G": 1e9, "M": 1e6, "k": 1e3}[unit]
            return f"{value / scale:.4g}{unit}"
    return f"{value:.4g}"


def shown(figure):
    if figure is None:
        return "not measured"
    return f"{number(figure.median)} [{number(figure.low)}..{number(figure.high)}]"


def targets(f):
    """(measure, wharf's figure, what it is compared with, 'le' or 'ge', limit). A figure may be None."""
    pp = ("pp", 64, "p50_ns")

    def round_trip(peer, mode):
        return f.get(peer, pp[0], mode, pp[1], pp[2])

    def rate(peer, work, mode, size):
        return f.get(peer, work, mode, size, "msg_per_s")

    def sleeping(mode):
        return f.best(KERNEL_PEERS, True, pp[0], mode, pp[1], pp[2])

    return [
        ("round trip 64 B, spinning, ns", round_trip("wharf", "spin"), round_trip("ck_ring", "spin"), "le", 0.75),
        ("", round_trip("wharf", "spin"), round_trip("shm_slot", "spin"), "le", 1.2),
        ("round trip 64 B, sleeping, ns", round_trip("wharf", "block"), sleeping("block"), "le", 1.05),
        ("round trip 64 B, default, unpinned, ns", round_trip("wharf", "default/unpinned"),
         sleeping("block/unpinned"), "le", 0.05),
        ("one way 64 B, read, msg/s", rate("wharf", "tp", "spin", 64), rate("openmpi", "tp", "spin", 64), "ge", 3),
        ("one way 4 KiB, read, msg/s", rate("wharf", "tp", "spin", 4096), rate("ck_ring", "tp", "spin", 4096), "ge", 1),
        ("one way 64 KiB, read, msg/s", rate("wharf", "tp", "spin", 65536), rate("ck_ring", "tp", "spin", 65536),
         "ge", 1),
        ("one way 1 MiB in place, header, msg/s", rate("wharf", "tphdr", "spin", 1048576),
         rate("ck_ring", "tphdr", "spin", 1048576), "ge", 1.5),
        ("fan-in of 4, 64 B, msg/s", rate("wharf", "fanin", "block", 64), rate("openmpi", "fanin", "spin", 64),
         "ge", 3),
        ("one core, sleeping, 64 B, ns", round_trip("wharf", "block/onecore"), round_trip("pipe", "block/onecore"),
         "le", 1.5),
        ("the same, mutual trust, ns", round_trip("wharf_trusting", "block/onecore"),
         round_trip("pipe", "block/onecore"), "le", 1.2),
        ("round trip, 100 idle links on the port, ns", f.get("wharf", "idle", "links=100", 64, "p50_ns"),
         f.get("wharf", "idle", "links=0", 64, "p50_ns"), "le", 1.1),
        ("round trip, 2000 idle links on the port, ns", f.get("wharf", "idle", "links=2000", 64, "p50_ns"),
         f.get("wharf", "idle", "links=0", 64, "p50_ns"), "le", 1.1),
        ("blocked for 1 s, CPU ns", f.get("wharf", "idle", "block", 64, "cpu_ns_per_s"),
         f.range_of(KERNEL_PEERS, "idle", "block", 64, "cpu_ns_per_s"), "in", 0),
    ]


def judged(wharf, other, how, limit):
    """(ratio of medians, target, verdict, ratios within rounds) as text."""
    signs = {"le": "<=", "ge": ">="}
    target = "in range" if how == "in" else f"{signs[how]} {limit:g}"
    if wharf is None or other is None:
        return "-", target, "-", ""
    rounds = wharf.ratios_to(other)
    by_round = f"{statistics.median(rounds):.3g} [{min(rounds):.3g}..{max(rounds):.3g}]" if rounds else ""
    ratio = wharf.median / other.median
    if how == "in":
        ok = wharf.median <= other.high
    else:
        ok = ratio <= limit if how == "le" else ratio >= limit
    return f"{ratio:.3g}", target, "PASS" if ok else "SHORT", by_round


def rows_print(rows):
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for r in rows:
        print("  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip())


def reports_print(f):
    rows = [("set up, us (p50)", "wharf", "by hand")]
    for work, name in (("make", "a port made"), ("carry", "a right made, carried and received"),
                       ("first", "first message to a fresh right"), ("first16", "first 16 messages to a fresh right")):
        pair = [f.get(p, work, "setup", 64, "p50_ns") for p in ("wharf", "byhand")]
        for figure in pair:
            if figure:
                figure.median, figure.low, figure.high = (v / 1e3 for v in (figure.median, figure.low, figure.high))
        rows.append((name, shown(pair[0]), shown(pair[1])))
    print()
    rows_print(rows)

    rows = [("rights, us (p50)", "wharf")]
    for work, name in (("mint", "a right made"), ("copy", "a right copied"),
                       ("move", "a right moved in a message, and received"),
                       ("first-minted", "first message over a right that was made"),
                       ("first-copied", "... that was copied"),
                       ("first-moved", "... that was moved: bound anew with it"),
                       ("second-moved", "the next message over it")):
        figure = f.get("wharf", work, "rights", 64, "p50_ns")
        if figure:
            figure.median, figure.low, figure.high = (v / 1e3 for v in (figure.median, figure.low, figure.high))
        rows.append((name, shown(figure)))
    for links in (1, 100, 2000):
        for metric, name in (("move_ns", "a receive right moved with {} attached links"),
                             ("pause_ns", "... longest pause of a sender meanwhile")):
            figure = f.get("wharf", "moves", f"links={links}", 64, metric)
            if figure:
                figure.median, figure.low, figure.high = (v / 1e3 for v in (figure.median, figure.low, figure.high))
            rows.append((name.format(links), shown(figure)))
    for senders in (4, 100):
        rows.append((f"messages a second from {senders} busy senders",
                     shown(f.get("wharf", "busy", f"senders={senders}", 64, "msg_per_s"))))
    print()
    rows_print(rows)

    rows = [("payload there and an answer, us", "copied", "direct", "", "shared", "", "moved", "")]
    for work, name in (("hand", "first word written and read"), ("read", "every byte written and read"),
                       ("reply", "the answer is the payload")):
        for size, label in ((4096, "4 KiB"), (65536, "64 KiB"), (1 << 20, "1 MiB"), (16 << 20, "16 MiB"),
                            (256 << 20, "256 MiB")):
            ways = [f.get("wharf", work, way, size, "p50_ns") for way in ("copied", "direct", "shared", "moved")]
            row = [f"{name}, {label}"]
            for i, figure in enumerate(ways):
                row.append(number(figure.median / 1e3) if figure else "not measured")
                if i:
                    rounds = figure.ratios_to(ways[0]) if figure and ways[0] else []
                    row.append(f"x{statistics.median(rounds):.3g} [{min(rounds):.3g}..{max(rounds):.3g}]"
                               if rounds else "")
            rows.append(tuple(row))
    print()
    rows_print(rows)

    rows = [("occupies, each", "descriptors", "bytes")]
    for of, name in (("port", "a port"), ("idle-holder", "an idle right, its holder"),
                     ("idle-owner", "an idle right, the port's owner"),
                     ("attached-holder", "an attached link, the right's holder"),
                     ("attached-owner", "an attached link, the port's owner")):
        fds, size = (f.get("wharf", "footprint", of, 0, m) for m in ("fds", "bytes"))
        rows.append((name, number(fds.median) if fds else "not measured", number(size.median) if size else ""))
    print()
    rows_print(rows)

    rows = [("instructions, 64 B, warm", "")]
    for call in ("send", "recv"):
        count = f.get("wharf", "calls", "callgrind", 64, f"instructions_per_{call}")
        rows.append((f"wharf_{call}()", number(count.median) if count else "not measured"))
    print()
    rows_print(rows)


def table_print(f):
    print(f"Medians of {f.rounds} rounds [lowest..highest]. ns and CPU: lower is better; msg/s: higher is better.\n")
    rows = [("measure", "wharf", "beside", "", "ratio", "to reach", "", "round by round")]
    for measure, wharf, other, how, limit in targets(f):
        rows.append((measure, shown(wharf), other.peer if other else "", shown(other),
                     *judged(wharf, other, how, limit)))
    rows_print(rows)
    reports_print(f)
    print()
    for line in f.machine + f.load:
        print(line)


def csv_print(f):
    print("peer,workload,mode,size,metric,median,lowest,highest")
    for (peer, work, mode, size, metric), v in f.by_key.items():
        print(f"{peer},{work},{mode},{size},{metric},{v.median:.6g},{v.low:.6g},{v.high:.6g}")


def main(args):
    as_csv = args[:1] == ["--csv"]
    files = args[1:] if as_csv else args
    if len(files) != 1 or files[0].startswith("--"):
        raise SystemExit(__doc__)
    with open(files[0], encoding="utf-8") as lines:
        figures = Figures(lines)
    (csv_print if as_csv else table_print)(figures)


if __name__ == "__main__":
    main(sys.argv[1:])
