#!/bin/sh
# Tables on a terminal and elsewhere.
. "$(dirname "$0")/lib.sh"
long=$(printf 'a%.0s' 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0)
start wharf recv "$long"
await served "$long"

# The output of a command on a terminal of so many columns, line ends as in a file.
on_terminal() {
        columns=$1
        shift
        TERM=xterm script -qec "stty cols $columns; $*" /dev/null </dev/null | tr -d '\r'
}
widest() { sed "s/$(printf '\033')\[[0-9]*m//g" | sed 's/…/./g' | awk '{ n = length($0); if (n > w) w = n } END { print w + 0 }'; }
colours() { grep -c "$(printf '\033')"; }
fits() { [ "$1" -le "$2" ] && echo yes || echo "$1 columns on $2"; }

for columns in 40 60 80; do
        same "ls on $columns columns" yes "$(fits "$(on_terminal $columns wharf ls | widest)" $columns)"
        same "ps on $columns columns" yes "$(fits "$(on_terminal $columns wharf ps | widest)" $columns)"
done
same "ls on 40 columns: what is cut is marked" 1 "$(on_terminal 40 wharf ls | grep -c '^aaa*…')"
same "ls on 200 columns: nothing is cut" 1 "$(on_terminal 200 wharf ls | grep -c "^$long ")"
same "a terminal is coloured" 1 "$(on_terminal 200 wharf ls | colours)"
same "NO_COLOR" 0 "$(on_terminal 200 env NO_COLOR=1 wharf ls | colours)"
same "--color=never" 0 "$(on_terminal 200 wharf ls --color=never | colours)"
same "a dumb terminal" 0 "$(on_terminal 200 env TERM=dumb wharf ls | colours)"
same "no terminal: nothing is cut" 1 "$(COLUMNS=40 wharf ls | grep -c "^$long ")"
same "no terminal: no colours" 0 "$(wharf ls | colours)"
same "no terminal, --color=always" 1 "$(wharf ls --color=always | colours)"
same "the columns" "NAME OWNER USER SENDERS QUEUED RECEIVED BYTES" "$(wharf ls | head -n 1 | tr -s ' ')"
same "heap replay on 80 columns" yes \
        "$(fits "$(on_terminal 80 wharf heap replay --runs 1 "$(dirname "$0")/../../bench/traces/git.trace.gz" |
                sed '1,2d' | widest)" 80)"
same "doctor on 60 columns" yes "$(fits "$(on_terminal 60 wharf doctor | widest)" 60)"

# Where there is nothing, it is said, and not on standard output.
slay $!
run 0 wharf ls
same "ls" "|wharf ls: $WHARF_DOMAIN: no name is registered" "$out|$err"
run 0 wharf ps
same "ps" "|wharf ps: $WHARF_DOMAIN: no task is known here" "$out|$err"
run 0 wharf shm ls "posix:wharf-cli-none"
same "shm ls" "|wharf shm: there is no segment of that name" "$out|$(grep -v 'could not be looked at' "$dir/err")"
run 0 wharf shm ls --json "posix:wharf-cli-none"
same "shm ls --json" "[]|" "$out|$err"
run 0 wharf ls --json
same "ls --json" "[]|" "$out|$err"
finish
