#!/bin/sh
# wharf call and wharf serve: the example of the manual, what they refuse, and what a death leaves.
. "$(dirname "$0")/lib.sh"

start wharf serve wc -- wc -l
server=$!
await served wc
run 0 sh -c 'ls / | wharf call wc'
same "ls / | wharf call wc" "$(ls / | wc -l)" "$out"
run 0 wharf call --data "$(printf 'a\nb\n.')" wc
same "--data" 2 "$out"
run 0 wharf call wc </dev/null
same "an empty request" 0 "$out"

slay "$server"
run 3 wharf call --data x wc
same "who is not there" "wharf call: wc: no process serves this name" "$err"
same "nothing is printed" "" "$out"

# A server that dies while it works.
start wharf serve stuck -- sleep 1000
server=$!
await served stuck
wharf call --data x stuck >"$dir/out" 2>"$dir/err" &
client=$!
await has_child "$server" 'sleep 1000'
slay "$server"
wait $client
same "the server died: exit code" 1 $?
same "the server died" "wharf call: stuck: the server died before it replied" "$(cat "$dir/err")"
await gone "$child"

start wharf serve slow -- sleep 1000
await served slow
run 4 wharf call --timeout 2s --data x slow
same "--timeout" "wharf call: slow: no reply came until the deadline" "$err"

run 2 wharf call
same "no name" "usage: wharf call [--data TEXT] [--wait] [--timeout DURATION] [--size-limit SIZE] NAME" "$err"
run 2 wharf call a b
run 2 wharf call --timeout 5 x
same "a duration without a unit" "wharf call: --timeout: '5' is no duration; 250ms and 2s are" "$err"
run 2 wharf call --nonsense x
same "an unknown option" "wharf call: '--nonsense': no such option; usage: wharf call [--data TEXT] [--wait] [--timeout DURATION] [--size-limit SIZE] NAME" "$err"
run 2 wharf call --data x 'a b'
same "no name at all" "wharf call: a b: a name is 1 to 128 letters, digits and . _ - / : @" "$err"
run 1 sh -c 'head -c 2000 /dev/zero | wharf call --size-limit 1K slow'
same "--size-limit" "wharf call: standard input: more than the limit of 1 KiB" "$err"
run 4 wharf call --wait --timeout 2s --data x nobody
same "--wait" "wharf call: nobody: no process has served this name in time" "$err"
(sleep 0.2; exec wharf serve late -- cat >/dev/null) &
pids="$pids $!"
run 0 wharf call --wait --data "came late" late
same "--wait for a server that comes" "came late" "$out"
finish
