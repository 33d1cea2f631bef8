#!/bin/sh
# The exit codes that wharf(1) lists, for every verb, and what each says: what, which, why.
. "$(dirname "$0")/lib.sh"
PATH=$dir/bin:/usr/bin:/bin # a directory in it that may not be searched makes "not there" a "not allowed"
man=$(dirname "$0")/../../docs/man

start wharf recv box # so that a wharfd is there, and a time-out is one of what is asked
await served box
# CODE|TEXT|COMMAND; an empty TEXT: nothing is said.
while IFS='|' read -r code text command; do
        run "$code" sh -c "$command" </dev/null
        same "$command" "$text" "$err"
done <<END
0||wharf help
0||wharf help ls
2|wharf: there is no verb 'bogus'; \`wharf help\` lists them|wharf help bogus
2|wharf: help: 'ps' is one argument too many|wharf help ls ps
2|wharf: there is no verb 'bogus'; \`wharf help\` lists them|wharf bogus
2|wharf: '--bogus': no such option; \`wharf help\` lists them|wharf --bogus
2|wharf: --version: 'x' is one argument too many|wharf --version x
2|wharf: --domain: 'x' is not an absolute path|wharf --domain x ls
2|wharf ps: WHARF_DOMAIN: 'x' is not an absolute path|WHARF_DOMAIN=x wharf ps
2|wharf shm: there is no command 'bogus'; \`wharf shm --help\` lists them|wharf shm bogus
2|wharf heap: there is no command 'bogus'; \`wharf heap --help\` lists them|wharf heap bogus
2|wharf ps: '--jason': no such option; usage: wharf ps [--json] [--color WHEN]|wharf ps --jason
2|wharf ps: '--json=x': it takes no value; usage: wharf ps [--json] [--color WHEN]|wharf ps --json=x
2|wharf ps: '--color': its value is missing; usage: wharf ps [--json] [--color WHEN]|wharf ps --color
2|wharf ls: '-x': no such option; usage: wharf ls [--json] [--color WHEN] [--watch [PATTERN]]|wharf ls -wxy
2|wharf send: '-d': its value is missing; usage: wharf send [--data TEXT] [--wait] [--timeout DURATION] [--later] [--size-limit SIZE] NAME|wharf send -d
2|wharf ls: --color: 'red' is none of auto, always and never|wharf ls --color red
3|wharf send: nobody: no process serves this name|wharf send --data x nobody
4|wharf send: nobody: no process has served this name in time|wharf send --wait --timeout 2s --data x nobody
3|wharf call: nobody: no process serves this name|wharf call --data x nobody
4|wharf call: nobody: no process has served this name in time|wharf call --wait --timeout 2s --data x nobody
3|wharf run: nobody: no process serves this name|wharf run --send nobody true
4|wharf run: nobody: no process has served this name in time|wharf run --wait --timeout 2s --send nobody true
4|wharf recv: other: no message came in time|wharf recv --timeout 2s other
3|wharf run: no-such-program: there is no such program, or what runs it is missing|wharf run no-such-program
3|wharf serve: no-such-program: there is no such command|wharf serve x no-such-program
1|wharf serve: /: it cannot be executed: Is a directory|wharf serve x /
2|wharf run: --fd: descriptor 99 is not open|wharf run --fd 99 true
2|wharf run: --fd: descriptor 99 is not open|wharf run --fd out=99 true
2|wharf run: --fd: descriptor 0 is not open|wharf run --fd 0 true <&-
2|wharf run: --fd: 'x' is no number between 0 and 2147483647|wharf run --fd x true
3|wharf shm: posix:wharf-cli-none: there is none of that name|wharf shm rm posix:wharf-cli-none
3|wharf heap: /nowhere: No such file or directory|wharf heap trace /nowhere
2|wharf heap: line 1: 'a\\x01b' is no name that can be printed|printf 'a\\001b 1\\n' | wharf heap trace
2|wharfd: --domain: 'relative' is not an absolute path|wharfd --domain relative
2|wharfd: WHARF_DOMAIN: 'relative' is not an absolute path|WHARF_DOMAIN=relative wharfd
2|wharfd: --config: 'relative' is not an absolute path|wharfd --config relative
2|wharfd: --domain and --system exclude each other|wharfd --domain /tmp --system
2|wharfd: --socket-fd: descriptor 99 is not open|wharfd --socket-fd 99
END
run 7 wharf run sh -c 'exit 7'
run 1 wharf recv box
same "a name that is taken" "wharf recv: box: another process serves this name" "$err"

# What a shell says of a command that a signal has ended.
for signal in INT:130 TERM:143; do
        # What a shell without job control starts in the background ignores SIGINT.
        env --default-signal=INT wharf recv "b${signal#*:}" >/dev/null &
        receiver=$!
        pids="$pids $receiver"
        await served "b${signal#*:}"
        kill -"${signal%:*}" $receiver
        wait $receiver
        same "ended by SIG${signal%:*}" "${signal#*:}" $?
done

# No other page has a table of its own.
same "pages with codes of their own" "" "$(grep -l -e '0 done, 1 refused' "$man"/*.[18])"
for page in "$man"/wharf-*.1 "$man"/wharfd.8; do
        same "$(basename "$page") leads to the table" yes \
                "$(sed -n '/^\.Sh EXIT STATUS/,/^\.Sh [A-DF-Z]/p' "$page" | grep -q '^\.Xr wharf 1' && echo yes)"
done
for code in 0 1 2 3 4 "128 + Ar n"; do
        same "wharf(1) has $code" 1 "$(sed -n '/^\.Sh EXIT STATUS/,/^\.Sh EXAMPLES/p' "$man/wharf.1" | grep -c -x "\.It $code")"
done
finish
