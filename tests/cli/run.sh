#!/bin/sh
# wharf run: a program that holds rights by name.
. "$(dirname "$0")/lib.sh"
child=$build/tests/cli/run-child

run 3 wharf run --send upper -- "$child" upper hello
same "who is not there" "wharf run: upper: no process serves this name" "$err"

start wharf serve upper -- tr a-z A-Z
await served upper
run 0 wharf run --send upper -- "$child" upper hello
same "under its own name" HELLO "$out"
run 0 wharf run --send loud=upper "$child" loud hello
same "under another" HELLO "$out"
run 0 wharf run --send loud=upper --send upper "$child" upper hello
same "several" HELLO "$out"
run 1 wharf run --send loud=upper "$child" upper hello
same "only under that" "nobody has registered that name (ENOENT); nothing was given as 'upper', or it was taken" "$out"
run 0 wharf run --fd out=1 -- "$child" out text
same "a descriptor" text "$out"

# Not for a process that was not meant; a wrapper hands them on.
run 1 wharf run --send upper -- sh -c "$child upper hello; exit \$?"
run 0 wharf run --wrapped --send upper -- sh -c "$child upper hello; exit \$?"
same "behind a wrapper" HELLO "$out"

# Whoever was given a right by another user may say that one's words: the command is told of nobody.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
        start wharf serve who -- sh -c 'echo "$WHARF_SENDER_UID"'
        await served who
        cp "$child" "$dir/bin/run-child"
        cp "$build/libwharf.so.0" "$dir/bin"
        run 0 wharf run --wrapped --send who -- env LD_LIBRARY_PATH="$dir/bin" setpriv --reuid 65533 --regid 65533 --clear-groups "$dir/bin/run-child" who x
        same "given by another user" -1 "$out"
        run 0 wharf run --wrapped --send who -- env LD_LIBRARY_PATH="$dir/bin" setpriv --reuid 0 --clear-groups "$dir/bin/run-child" who x
        same "given by the same user" 0 "$out"
fi

# After the lookup neither wharfd nor its domain is needed.
run 0 wharf run --wrapped --send upper -- env WHARF_DOMAIN=/nowhere WHARFD=/nowhere "$child" upper again
same "without wharfd" AGAIN "$out"

run 2 wharf run
same "usage" "usage: wharf run [--send [AS=]NAME]... [--fd [AS=]N]... [--wait] [--timeout DURATION] [--wrapped] [--] PROGRAM [ARG]..." "$err"
run 2 wharf run --fd x -- true
run 3 wharf run -- ./no-such-program
same "no program" "wharf run: ./no-such-program: there is no such program, or what runs it is missing" "$err"
run 7 wharf run -- sh -c 'exit 7'
finish
