#!/bin/sh
# wharf serve: commands that fail, large messages both ways, many at once.
. "$(dirname "$0")/lib.sh"

start wharf serve cat -- cat
start wharf serve false -- false 2>"$dir/false.err"
start wharf serve -j 4 env -- sh -c 'echo "$WHARF_SERVED_NAME $WHARF_SENDER_UID"'
start wharf serve head -- head -c 3
start wharf serve --size-limit 1M yes -- yes 2>"$dir/yes.err"
start wharf serve killed -- sh -c 'kill -9 $$' 2>"$dir/killed.err"
await served_n 6

# Larger than a pipe, a block and a lane; the command writes while it reads, so both directions are full at once.
head -c 50000000 /dev/urandom >"$dir/big"
timeout 60 wharf call cat <"$dir/big" >"$dir/back"
same "50 MB there and back" "$(cksum <"$dir/big")" "$(cksum <"$dir/back")"
run 0 sh -c 'wharf call head <"$1"' sh "$dir/big"
same "a command that does not read all" "$(head -c 3 "$dir/big" | od -c)" "$(od -c <"$dir/out")"
rm "$dir/big" "$dir/back"

run 1 wharf call --data x false
same "a command that fails" "wharf call: false: the server dropped the request without a reply" "$err"
same "what serve says of it" "wharf serve: false: false: exited with status 1" "$(cat "$dir/false.err")"
run 1 wharf call --data x killed
same "what serve says of a killed one" "wharf serve: killed: sh: killed by signal 9" "$(cat "$dir/killed.err")"
run 1 wharf call --data x yes
same "too much output" "wharf serve: yes: yes: its output exceeds 1 MiB" "$(cat "$dir/yes.err")"
run 0 wharf call --data x env
same "what a command knows" "env $(id -u)" "$out"
run 0 wharf send --data x cat
run 0 wharf call --data after cat
same "after a message that wants no answer" after "$out"

# Requests and answers without any queue between.
start wharf serve --capacity zero face -- cat
await served face
run 0 wharf call --data "face to face" face
same "--capacity zero" "face to face" "$out"
run 2 wharf serve --capacity none x -- cat
same "--capacity none" "wharf serve: --capacity: 'none' is none of 1 to 65536, zero and unbounded" "$err"

# Many at once through four jobs, each with an answer of its own.
start wharf serve -j 4 echo -- sh -c 'read -r x; echo "<$x>"'
await served echo
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        wharf call --data "$i" echo >"$dir/many.$i" &
        callers="${callers:-} $!"
done
for p in $callers; do
        wait "$p"
done
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        same "call $i" "<$i>" "$(cat "$dir/many.$i")"
done

# Two that wait for each other: only a server that runs them at the same time gets both done.
mkfifo "$dir/meet"
start wharf serve -j 2 meet -- sh -c "read -r x; if [ \$x = a ]; then echo met >'$dir/meet'; else cat '$dir/meet'; fi"
await served meet
wharf call --data a meet >/dev/null &
run 0 wharf call --data b meet
same "two at once" met "$out"

run 1 wharf serve cat -- cat
same "a name that is taken" "wharf serve: cat: another process serves this name" "$err"
run 3 wharf serve x -- /no/such/command
same "no command" "wharf serve: /no/such/command: there is no such command" "$err"
run 2 wharf serve
same "no arguments" "usage: wharf serve [-j N] [--capacity N] [--size-limit SIZE] NAME -- CMD [ARG...]" "$err"
run 2 wharf serve x
run 2 wharf serve x --
run 2 wharf serve -j 0 x -- cat
same "-j 0" "wharf serve: --jobs: '0' is no number between 1 and 256" "$err"
run 2 wharf serve 'a b' -- cat
finish
