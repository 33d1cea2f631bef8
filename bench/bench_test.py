#!/usr/bin/env python3
"""Tests of the benchmarks themselves: what the table concludes from known figures, and what one peer prints.

    bench_test.py TABLE PROGRAMS      TABLE is table.py; PROGRAMS the folder of the built benchmarks

No test looks at how fast anything is.
"""
import os
import subprocess
import sys
import tempfile
import traceback

TABLE, PROGRAMS = sys.argv[1], sys.argv[2]


def table(text, *options):
    """(exit status, standard output) of the table for that raw file."""
    with tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False) as raw:
        raw.write(text)
    try:
        done = subprocess.run([sys.executable, TABLE, *options, raw.name], capture_output=True, text=True, check=False)
    finally:
        os.unlink(raw.name)
    return done.returncode, done.stdout


def line_of(output, measure):
    return next(line for line in output.splitlines() if line.startswith(measure))


def verdict_of(output, measure):
    """The only word of that line that can be one."""
    return [word for word in line_of(output, measure).split() if word in ("PASS", "SHORT", "-")][-1]


def equal(got, expected):
    assert got == expected, f"{got!r} is not {expected!r}"


def test_median_and_spread_are_over_the_rounds():
    _, out = table("pipe,pp,spin,64,p50_ns,30\npipe,pp,spin,64,p50_ns,10\npipe,pp,spin,64,p50_ns,20\n", "--csv")
    equal(out.splitlines()[1], "pipe,pp,spin,64,p50_ns,20,10,30")


def test_even_rounds_take_the_middle_of_two():
    _, out = table("".join(f"pipe,pp,spin,64,p50_ns,{v}\n" for v in (40, 10, 30, 20)), "--csv")
    equal(out.splitlines()[1], "pipe,pp,spin,64,p50_ns,25,10,40")


def test_lower_is_better_at_the_limit_and_beyond():
    at_limit = "wharf,pp,spin,64,p50_ns,75\nck_ring,pp,spin,64,p50_ns,100\n"
    equal(verdict_of(table(at_limit)[1], "round trip 64 B, spinning"), "PASS")
    beyond = "wharf,pp,spin,64,p50_ns,76\nck_ring,pp,spin,64,p50_ns,100\n"
    equal(verdict_of(table(beyond)[1], "round trip 64 B, spinning"), "SHORT")


def test_higher_is_better_at_the_limit_and_below():
    at_limit = "wharf,tp,spin,64,msg_per_s,3e6\nopenmpi,tp,spin,64,msg_per_s,1e6\n"
    equal(verdict_of(table(at_limit)[1], "one way 64 B"), "PASS")
    below = "wharf,tp,spin,64,msg_per_s,2.99e6\nopenmpi,tp,spin,64,msg_per_s,1e6\n"
    equal(verdict_of(table(below)[1], "one way 64 B"), "SHORT")


def test_ratios_within_rounds_ignore_a_machine_that_changes_its_speed():
    raw = "".join(f"# round {r}\nwharf,pp,spin,64,p50_ns,{w}\nck_ring,pp,spin,64,p50_ns,{c}\n"
                  for r, (w, c) in enumerate(((50, 100), (500, 1000), (60, 100)), 1))
    line = line_of(table(raw)[1], "round trip 64 B, spinning")
    assert line.endswith("PASS  0.5 [0.5..0.6]"), line


def test_the_best_kernel_peer_is_the_one_compared_with():
    raw = "wharf,pp,block,64,p50_ns,100\npipe,pp,block,64,p50_ns,101\nposix_mq,pp,block,64,p50_ns,90\n"
    _, out = table(raw)
    assert "posix_mq" in line_of(out, "round trip 64 B, sleeping"), out
    equal(verdict_of(out, "round trip 64 B, sleeping"), "SHORT")


def test_idle_is_judged_by_the_range_of_the_kernel_peers():
    kernel = "pipe,idle,block,64,cpu_ns_per_s,30\nposix_mq,idle,block,64,cpu_ns_per_s,60\n"
    equal(verdict_of(table(kernel + "wharf,idle,block,64,cpu_ns_per_s,60\n")[1], "blocked"), "PASS")
    equal(verdict_of(table(kernel + "wharf,idle,block,64,cpu_ns_per_s,61\n")[1], "blocked"), "SHORT")


def test_what_was_not_measured_is_not_judged():
    status, out = table("pipe,pp,block,64,p50_ns,1\n")
    equal(status, 0)
    equal(verdict_of(out, "round trip 64 B, sleeping"), "-")
    assert "PASS" not in out and "SHORT" not in out, out


def test_remarks_are_skipped_and_the_machine_is_named():
    status, out = table("# machine: two cores\n# pipe,pp,spin,8 failed\n")
    equal(status, 0)
    equal(out.splitlines()[-1], "two cores")


def test_a_damaged_line_is_refused():
    for line in ("pipe,pp,spin,64,p50_ns", "pipe,pp,spin,64,p50_ns,fast", "pipe,pp,spin,x,p50_ns,1",
                 "pipe,pp,spin,64,p50_ns,1,2"):
        status, out = table(line + "\n")
        assert status == 1 and not out, line


def program(name, *options):
    return subprocess.run([os.path.join(PROGRAMS, name), *options], capture_output=True, text=True, check=False,
                          timeout=60)


def peer(*options, name="peer_pipe"):
    """All on one core, so that a machine with one can run the tests."""
    return program(name, "-t", "0.01", "-1", *options)


def test_a_peer_prints_what_was_asked_for():
    done = peer("-w", "pp,tp", "-m", "block", "-s", "8,61")
    equal(done.returncode, 0)
    lines = [line.split(",") for line in done.stdout.splitlines()]
    equal([line[:5] for line in lines],
          [["pipe", "pp", "block/onecore", size, m] for size in ("8", "64")
           for m in ("min_ns", "p50_ns", "p99_ns", "p999_ns")] +
          [["pipe", "tp", "block/onecore", size, m] for size in ("8", "64") for m in ("msg_per_s", "GB_per_s")])
    assert all(float(line[5]) > 0 for line in lines), done.stdout


def test_four_clients_are_all_received():
    done = peer("-w", "fanin", "-m", "block", "-t", "0.2")
    equal(done.returncode, 0)
    equal([line.split(",")[4] for line in done.stdout.splitlines()], ["msg_per_s", "GB_per_s"])


def test_bad_options_are_refused():
    for options in (("-w", "nothing"), ("-m", "fast"), ("-s", "0"), ("-s", "64,x"), ("-t", "0"), ("-x",), ("word",)):
        done = peer(*options)
        assert done.returncode == 1 and not done.stdout and "usage:" in done.stderr, options


def test_wharf_takes_part_in_every_workload():
    for mode in ("block", "default"):
        done = peer("-w", "pp,tp,tphdr", "-m", mode, "-s", "8,64,1000,65536", name="peer_wharf")
        equal((done.returncode, done.stderr), (0, ""))
        # Clients that take turns on one core need time in which each of them has sent.
        many = peer("-w", "fanin", "-m", mode, "-t", "0.2", name="peer_wharf")
        equal((many.returncode, many.stderr), (0, ""))
        measured = {tuple(line.split(",")[1:4]) for line in (done.stdout + many.stdout).splitlines()}
        equal(measured, {(work, f"{mode}/onecore", size) for work in ("pp", "tp", "tphdr")
                         for size in ("8", "64", "1000", "65536")} | {("fanin", f"{mode}/onecore", "64")})


def test_setting_up_is_measured_for_wharf_and_by_hand():
    for name in ("byhand", "setup_wharf"):
        done = peer(name=name)
        equal((done.returncode, done.stderr), (0, ""))
        equal([line.split(",")[1] for line in done.stdout.splitlines() if "p50_ns" in line],
              ["make", "carry", "first", "first16"])


def test_large_payloads_go_every_way():
    done = peer("-s", "4096,1048576", name="transfer")
    equal((done.returncode, done.stderr), (0, ""))
    equal([line.split(",")[1:4] for line in done.stdout.splitlines()],
          [[work, way, size] for size in ("4096", "1048576") for work in ("hand", "read")
           for way in ("copied", "direct", "shared", "moved")] +
          [["reply", way, size] for size in ("4096", "1048576") for way in ("copied", "direct")])


def test_links_end_up_in_shared_memory():
    done = program("footprint")
    equal((done.returncode, done.stderr), (0, ""))
    assert "wharf,footprint,attached-holder,0,attached,1\n" in done.stdout, done.stdout


def test_the_program_that_is_counted_runs_by_itself_too():
    for call in ("send", "recv"):
        equal(program("calls", call).returncode, 0)


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
    print(f"bench: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
