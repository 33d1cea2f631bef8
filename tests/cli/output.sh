#!/bin/sh
# Standard output that cannot be written is an error, and nothing is taken that could not be printed; the same for a
# standard input that is closed.
. "$(dirname "$0")/lib.sh"
full="standard output: No space left on device"
closed="standard output: it is not open"

told() { grep -v 'could not be looked at$' "$dir/err"; } # that is so for ordinary users

start wharf serve up -- tr a-z A-Z
await served up
: >/dev/shm/wharf-cli-$$
trap 'rm -f /dev/shm/wharf-cli-$$; for p in $pids; do kill -9 $p 2>/dev/null; done; rm -rf "$dir"' EXIT
while read -r command; do
        verb=$(echo "$command" | cut -d' ' -f2)
        run 1 sh -c "$command >/dev/full"
        same "$command >/dev/full" "wharf $verb: $full" "$(told)"
        run 1 sh -c "$command >&-"
        same "$command >&-" "wharf $verb: $closed" "$(told)"
done <<END
wharf ls
wharf ls --json
wharf ls --help
wharf ps
wharf ps --json
wharf shm ls
wharf shm ls --json
wharf shm ls --help
wharf shm stat posix:wharf-cli-$$
wharf doctor
wharf doctor --json
wharf heap trace --demo
wharf heap trace --demo --json
END
rm /dev/shm/wharf-cli-$$
for command in "wharf help" "wharf --version" "wharfd --version" "wharfd --help"; do
        run 1 sh -c "$command >/dev/full"
        same "$command >/dev/full" "${command%% *}: $full" "$err"
done
run 0 wharf shm create "file:$dir/segment" 100
run 1 sh -c "wharf shm cat file:$dir/segment >&-"
same "shm cat" "wharf shm: file:$dir/segment: $closed" "$err"
run 0 sh -c 'wharf send --data x up >&-' # which prints nothing
run 0 sh -c 'wharf ls >/dev/null 2>&-'   # and this has nothing to say
run 3 sh -c 'wharf send --data x nobody 2>&-'

# A call is not made when its reply could not be printed; a reply that is lost is told.
start wharf serve count -- sh -c "echo called >>'$dir/called'; echo reply"
await served count
run 1 sh -c 'wharf call --data x count >&-'
same "call >&-" "wharf call: $closed" "$err"
run 1 sh -c 'wharf call --data x count </dev/null 1<&0'
same "call with an output for reading" "wharf call: $closed" "$err"
same "nothing was called" "no" "$([ -e "$dir/called" ] && echo yes || echo no)"
run 1 sh -c 'wharf call --data x count >/dev/full'
same "call >/dev/full" "wharf call: count: its reply of 6 bytes is lost: $full" "$err"
run 1 sh -c 'wharf call count <&-'
same "call <&-" "wharf call: standard input: it is not open" "$err"
run 1 sh -c 'wharf send up <&-'
same "send <&-" "wharf send: standard input: it is not open" "$err"

run 1 sh -c "wharf shm write file:$dir/segment <&-"
same "shm write <&-" "wharf shm: standard input: it is not open" "$err"
run 1 sh -c 'wharf heap trace <&-'
same "heap trace <&-" "wharf heap: the script: it is not open" "$err"

# recv takes no message that it could not print.
run 1 sh -c 'wharf recv box >&-'
same "recv >&-" "wharf recv: $closed" "$err"
mkfifo "$dir/fifo"
wharf recv box >"$dir/fifo" 2>"$dir/recv.err" &
receiver=$!
pids="$pids $receiver"
exec 7<"$dir/fifo"
await served box
run 0 wharf send --data one box
read -r line <&7
same "while somebody reads" one "$line"
exec 7<&-
wait $receiver
same "recv ends with its reader, without a message" 1 $?
same "recv ends with its reader" "wharf recv: standard output: Broken pipe" "$(cat "$dir/recv.err")"
wharf recv box >/dev/full 2>"$dir/recv.err" &
receiver=$!
pids="$pids $receiver"
await served box
run 1 wharf call --data hello box
same "who asked learns that there is no answer" "wharf call: box: the server dropped the request without a reply" "$err"
wait $receiver
same "recv >/dev/full" 1 $?
same "recv says what is lost" "wharf recv: box: a message of 5 bytes from process N is lost: $full" \
        "$(sed 's/process [0-9]*/process N/' "$dir/recv.err")"

# The reader of a pipe that goes away ends other verbs without a word, as it does every command.
run 0 sh -c 'wharf help | head -n 1'
same "head" "" "$err"
# What is started finds closed what was closed, and not what this command put there.
run 0 sh -c 'wharf run -- sh -c "[ ! -e /proc/self/fd/0 ]" <&-'
finish
