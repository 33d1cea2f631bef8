#!/usr/bin/env python3
"""Tests of `wharf bench`: the shape of what it prints, what it refuses, and that a kill leaves nothing behind.

    bench_test.py WHARF      WHARF is the command

No test looks at how fast anything is. All but one run on one core, so that a machine with one can run them.
"""
import json
import os
import signal
import subprocess
import sys
import time
import traceback

WHARF = sys.argv[1]
PEERS = ["wharf", "pipe", "unix_seqpacket", "posix_mq"]
SHORT = ("--time", "2ms", "--rounds", "1", "--cores", "one")


def bench(*options, before=(), **more):
    return subprocess.run([*before, WHARF, "bench", *options], capture_output=True, text=True, check=False, timeout=120, **more)


def equal(got, expected):
    assert got == expected, f"{got!r} is not {expected!r}"


def rows_of(output, heading):
    """The fields of the lines below that heading and its column names, up to an empty line."""
    lines = output.splitlines()
    at = lines.index(heading) + 2
    return [line.split() for line in lines[at:lines.index("", at)]]


def test_the_tables_have_a_row_for_every_peer_at_every_size():
    done = bench(*SHORT, "--size", "64,4K")
    equal((done.returncode, done.stderr), (0, ""))
    for heading in ("There and back, one message at a time", "One way, every byte written and read"):
        rows = rows_of(done.stdout, heading)
        equal([row[:2] for row in rows if "wharf" in row], [["64", "B"], ["4", "KiB"]])
        equal([word for row in rows for word in row if word in PEERS], PEERS * 2)
        assert all("-" not in row for row in rows), done.stdout
    equal(done.stdout.splitlines()[0],
          "Two processes, on one core. wharf waits as it does by default; the others sleep. 1 round of 2 ms.")


def test_json_says_what_was_asked_and_what_was_found():
    done = bench("--time", "2ms", "--rounds", "2", "--cores", "one", "--sleep", "--size", "61", "--json")
    equal((done.returncode, done.stderr), (0, ""))
    found = json.loads(done.stdout)
    equal([found[k] for k in ("wait", "cores", "rounds", "time_ms")], ["sleep", "one", 2, 2])
    equal([(r["peer"], r["size_bytes"]) for r in found["results"]], [(p, 64) for p in PEERS])
    for r in found["results"]:
        figures = (r["round_trip"]["p50_ns"], r["round_trip"]["p99_ns"], r["one_way"]["messages_per_s"],
                   r["one_way"]["gigabytes_per_s"])
        assert all(0 < f["lowest"] <= f["median"] <= f["highest"] for f in figures), r
        assert r["round_trip"]["speed"] > 0 and r["one_way"]["speed"] > 0, r
    for way in ("round_trip", "one_way"):
        equal(max(r[way]["speed"] for r in found["results"] if r["peer"] != "wharf"), 1)


def within_limits():
    """What a command is begun with, so that it does not stand above the limits of POSIX queues (CAP_SYS_RESOURCE)."""
    with open("/proc/self/status", encoding="ascii") as status:
        capabilities = int(next(line for line in status if line.startswith("CapEff:")).split()[1], 16)
    return ["setpriv", "--bounding-set=-sys_resource"] if capabilities >> 24 & 1 else []


def test_what_a_peer_cannot_do_is_a_gap_with_a_reason():
    before = within_limits()
    done = bench(*SHORT, "--sleep", "--size", "2M", before=before)
    equal(done.returncode, 0)
    assert "posix_mq, 2 MiB: the limits of fs.mqueue" in done.stdout, done.stdout
    row = next(line.split() for line in done.stdout.splitlines() if "posix_mq  " in line)
    equal(row, ["posix_mq", "-", "-", "-", "-"])
    found = json.loads(bench(*SHORT, "--sleep", "--size", "2M", "--json", before=before).stdout)
    equal([(r["peer"], r["one_way"] is None, r["why"] is None) for r in found["results"]],
          [("wharf", False, True), ("pipe", False, True), ("unix_seqpacket", False, True), ("posix_mq", True, False)])


def test_it_runs_wherever_the_scheduler_puts_it():
    done = bench("--time", "2ms", "--rounds", "1", "--cores", "free", "--size", "64", "--default")
    equal((done.returncode, done.stderr), (0, ""))
    assert done.stdout.startswith("Two processes, where the scheduler puts them."), done.stdout


def test_it_spins_on_two_cores_only():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        done = bench("--time", "2ms", "--rounds", "1", "--spin", "--size", "64", "--json")
        equal((done.returncode, json.loads(done.stdout)["cores"]), (0, "pinned"))
    alone = {"preexec_fn": lambda: os.sched_setaffinity(0, cores[-1:])}
    done = bench("--spin", **alone)
    equal((done.returncode, done.stderr), (1, "wharf bench: --spin: there is one core only, and spinning needs two\n"))
    done = bench("--cores", "pinned", **alone)
    equal((done.returncode, done.stderr),
          (1, "wharf bench: --cores pinned: there is one core only; try --cores one\n"))
    done = bench(*SHORT[:4], "--size", "64", "--json", **alone)
    equal((done.returncode, json.loads(done.stdout)["cores"]), (0, "one"))


def test_an_ordinary_user_can_run_it():
    def become_nobody():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)

    with open(WHARF, "rb") as program:  # by descriptor, since others may not get at the folder of the build
        done = subprocess.run([f"/proc/self/fd/{program.fileno()}", "bench", *SHORT, "--size", "64"], text=True,
                              capture_output=True, check=False, timeout=120, preexec_fn=become_nobody,
                              pass_fds=[program.fileno()], cwd="/")
    equal((done.returncode, done.stderr), (0, ""))
    equal([word for line in done.stdout.splitlines()[4:8] for word in line.split() if word in PEERS], PEERS)


def test_wrong_arguments_are_refused_before_anything_is_measured():
    for option, value, why in (
            ("--size", "7", ""), ("--size", "", ""), ("--size", "64,", ""), ("--size", "64,,64", ""), ("--size", "65M", ""),
            ("--size", ",".join(["64"] * 17), ""), ("--time", "100", "is no duration between 1ms and 60s"),
            ("--time", "2m", "is no duration between 1ms and 60s"), ("--rounds", "0", "is no number between 1 and 99"),
            ("--rounds", "1K", "is no number between 1 and 99"), ("--cores", "two", "is none of pinned, free and one")):
        done = bench(option, value)
        why = why or "is no list of 1 to 16 sizes between 8 and 64M; 64,4K is"
        equal((done.returncode, done.stdout, done.stderr), (2, "", f"wharf bench: {option}: '{value}' {why}\n"))
    done = bench("--spin", "--cores", "one")
    equal((done.returncode, done.stderr), (2, "wharf bench: --spin --cores one: spinning needs two cores\n"))
    for options in (("--fast",), ("word",), ("--size",)):
        done = bench(*options)
        equal((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1))
        assert "usage: wharf bench [--size N,...]" in done.stderr, done.stderr


def test_help_is_a_result():
    done = bench("--help")
    equal((done.returncode, done.stderr), (0, ""))
    assert done.stdout.startswith("usage: wharf bench [--size N,...]"), done.stdout


def test_a_full_disk_is_a_failure():
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([WHARF, "bench", *SHORT, "--size", "64"], stdout=full, stderr=subprocess.PIPE, text=True,
                              check=False, timeout=120)
    equal((done.returncode, done.stderr), (1, "wharf bench: standard output: No space left on device\n"))


def test_a_kill_leaves_neither_processes_nor_names():
    def ours(pid):
        """The processes of that group, dead ones left out."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == pid and fields[0] != "Z":
                found.append(entry)
        return found

    def names():
        return {n for n in os.listdir("/tmp") if n.startswith("wharf-bench-")}

    before = names()
    with subprocess.Popen([WHARF, "bench", "--time", "30s", "--cores", "one", "--size", "64"], text=True,
                          start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        while len(ours(running.pid)) < 3:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
        while ours(running.pid):
            time.sleep(0.01)
    # Other tests may be making theirs at this moment; only what stays was left behind.
    seen = names() - before
    for _ in range(500):
        seen &= names()
        if seen:
            time.sleep(0.01)
    equal(seen, set())


def main():
    passed = failed = 0
    for name, run in sorted(globals().items()):
        if not name.startswith("test_"):
            continue
        try:
            run()
            passed += 1
        except Exception:
            failed += 1
            print(f"{name} failed", file=sys.stderr)
            traceback.print_exc()
    print(f"cli-bench: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
