#!/bin/sh
# wharf send and wharf recv.
. "$(dirname "$0")/lib.sh"

# One receiver for `n` messages, whose output is in $dir/got.
receive() {
        wharf recv "$@" >"$dir/got" 2>"$dir/got.err" &
        receiver=$!
        pids="$pids $receiver"
        await served box
}

receive -n 3 box
run 0 wharf send --data hello box
run 0 sh -c 'printf "two\n" | wharf send box'
run 0 wharf send --data "" box
wait $receiver
same "recv's exit code" 0 $?
same "three messages" "$(printf 'hello\ntwo\n\n.')" "$(cat "$dir/got"; echo .)"
run 3 wharf send --data late box
same "nobody there any more" "wharf send: box: no process serves this name" "$err"

receive --raw -n 2 box
run 0 wharf send --data "a" box
run 0 sh -c 'printf "b\000c" | wharf send box'
wait $receiver
same "--raw" "$(printf 'ab\000c' | od -c)" "$(od -c <"$dir/got")"

receive --json -n 3 box
wharf send --data 'say "hi"' box
sender='"pid":[0-9]*,"uid":'$(id -u)',"known":"bound","introducer":null'
printf '\377\000' | wharf send box
printf 'gr\303\274n' | wharf send box
wait $receiver
same "--json" '{"bytes":8,"text":"say \"hi\""}
{"bytes":2,"base64":"/wA="}
{"bytes":5,"text":"'"$(printf 'gr\303\274n')"'"}' "$(sed "s/$sender,//" "$dir/got")"

# Larger than any buffer on the way.
receive --raw -n 1 box
head -c 20000000 /dev/urandom >"$dir/big"
timeout 60 wharf send box <"$dir/big"
wait $receiver
same "20 MB" "$(cksum <"$dir/big")" "$(cksum <"$dir/got")"
rm "$dir/big"

receive --size-limit 1K -n 1 box
run 1 sh -c 'head -c 2000 /dev/zero | wharf send box'
same "larger than the receiver takes" "wharf send: box: larger than the port takes: at most 1024 bytes (payload_bytes_max)" "$err"
run 1 wharf call --data question box
same "recv answers nobody" "wharf call: box: the server dropped the request without a reply" "$err"
wait $receiver
same "but prints it" question "$(cat "$dir/got")"

# A receiver that is killed with messages unread, and its successor.
receive box
kill -STOP $receiver
run 0 wharf send --data lost box
slay $receiver
run 3 wharf send --data x box
receive -n 1 box
run 0 wharf send --data new box
wait $receiver
same "the successor" new "$(cat "$dir/got")"

# Capacity zero: who sends waits for who receives, or leaves the message, which outlives it.
receive --capacity zero -n 3 box
run 0 wharf send --data met box
kill -STOP $receiver
run 4 wharf send --timeout 2s --data withdrawn box
run 0 wharf send --later --data "left at once" box
same "a message that was left" "wharf send: box: left to be sent later" "$err"
run 0 wharf send --later --timeout 2s --data "left in the end" box
same "another" "wharf send: box: left to be sent later" "$err"
kill -CONT $receiver
wait $receiver
same "what was left comes, and what was withdrawn does not" "left at once
left in the end
met" "$(sort "$dir/got")"

# A capacity of one, and none at all: each sender has a queue of its own, so nobody waits.
for cap in 1 unbounded; do
        receive --capacity $cap -n 2 box
        kill -STOP $receiver
        run 0 wharf send --data one --timeout 5s box
        run 0 wharf send --data two --later box
        same "--capacity $cap: nothing is left" "" "$err"
        kill -CONT $receiver
        wait $receiver
        same "--capacity $cap" "one
two" "$(sort "$dir/got")"
done
for cap in 0 65537 zer -1 1x ""; do
        run 2 wharf recv --capacity "$cap" box
        same "--capacity '$cap'" "wharf recv: --capacity: '$cap' is none of 1 to 65536, zero and unbounded" "$err"
done

run 4 wharf recv --timeout 2s box
same "no message came" "wharf recv: box: no message came in time" "$err"
start wharf recv box
await served box
run 1 wharf recv box
same "a name that is taken" "wharf recv: box: another process serves this name" "$err"
run 2 wharf send
same "send without a name" "usage: wharf send [--data TEXT] [--wait] [--timeout DURATION] [--later] [--size-limit SIZE] NAME" "$err"
run 2 wharf send --timeout 1 box
run 2 wharf recv
same "recv without a name" "usage: wharf recv [-n COUNT] [--timeout DURATION] [--raw | --json] [--capacity N] [--size-limit SIZE] NAME" "$err"
run 2 wharf recv -n 0 box
same "-n 0" "wharf recv: --count: '0' is no number between 1 and 9223372036854775807" "$err"
run 2 wharf recv --size-limit 5X box
run 2 wharf recv --count
same "an option without its value" "wharf recv: '--count': its value is missing; usage: wharf recv [-n COUNT] [--timeout DURATION] [--raw | --json] [--capacity N] [--size-limit SIZE] NAME" "$err"
finish
