#!/bin/sh
# wharf ls, and the command as a whole.
. "$(dirname "$0")/lib.sh"

run 0 wharf ls
same "an empty domain" "" "$out"
same "an empty domain is told" "wharf ls: $WHARF_DOMAIN: no name is registered" "$err"
run 0 wharf ls --json
same "an empty domain in JSON" "[]" "$out"

start wharf serve count -- wc -c
server=$!
await served count
run 0 wharf call --data 12345 count
run 0 wharf ls
same "the table" "NAME OWNER USER SENDERS QUEUED RECEIVED BYTES
count $server $(id -un) N 0 1 5 B" \
        "$(printf '%s\n' "$out" | tr -s ' ' | sed 's/^\(count [0-9]* [^ ]* \)[0-9]* /\1N /')"
await sh -c 'wharf ls --json | grep -q "\"senders\":0"'
run 0 wharf ls --json
same "JSON" "[
  {
    \"name\":\"count\",
    \"pid\":$server,
    \"uid\":$(id -u),
    \"known\":\"connected\",
    \"port_id\":\"ID\",
    \"senders\":0,
    \"receivers_waiting\":0,
    \"queued_messages\":0,
    \"received_messages\":1,
    \"received_bytes\":5
  }
]" "$(printf '%s\n' "$out" | sed 's/"port_id":"[0-9a-f]\{16\}"/"port_id":"ID"/')"
start wharf recv b
start wharf recv a/1
await served_n 3
run 0 wharf ls
same "sorted" "NAME a/1 b count" "$(printf '%s\n' "$out" | awk '{ printf "%s%s", (NR > 1 ? " " : ""), $1 }')"
slay "$server"
run 0 wharf ls
same "a killed one is gone at once" "NAME a/1 b" "$(printf '%s\n' "$out" | awk '{ printf "%s%s", (NR > 1 ? " " : ""), $1 }')"

run 2 wharf ls x
same "an argument" "usage: wharf ls [--json] [--color WHEN] [--watch [PATTERN]]" "$err"
run 2 wharf ls --jason
run 1 sh -c 'wharf ls >/dev/full'
same "a full disk" "wharf ls: standard output: No space left on device" "$err"

run 0 wharf --version
same "--version" "wharf $(wharfd --version | sed 's/wharfd //')" "$out"
run 0 wharf help
same "help lists the verbs" "ls send recv call serve doctor" \
        "$(printf '%s\n' "$out" | awk '/^  / { printf "%s%s", (n++ ? " " : ""), $1 }' | tr ' ' '\n' |
                grep -x -e ls -e send -e recv -e call -e serve -e doctor | tr '\n' ' ' | sed 's/ $//')"
for v in ls send recv call serve doctor; do
        run 0 wharf $v --help
        same "$v --help" "usage: wharf $v" "$(printf '%s\n' "$out" | head -n 1 | cut -d' ' -f1-3)"
done
run 2 wharf
run 2 wharf frobnicate
same "an unknown verb" "wharf: there is no verb 'frobnicate'; \`wharf help\` lists them" "$err"

# A domain that will not do.
WHARF_DOMAIN=relative
run 2 wharf ls
same "a relative domain" "wharf ls: WHARF_DOMAIN: 'relative' is not an absolute path" "$err"
WHARF_DOMAIN=$dir/open
mkdir -m 755 "$WHARF_DOMAIN"
run 1 wharf ls
same "an open domain" "wharf ls: $dir/open: the domain $dir/open is open to others (mode 0755); it must be 0700" "$err"
rm -r "$dir/open"
WHARF_DOMAIN=$dir/domain
# Watching: what is, and what changes; a wharfd that is killed changes nothing.
wharf ls --watch "w." >"$dir/watch" &
watcher=$!
pids="$pids $watcher"
seen() { [ "$(sed 's/  [0-9]*  /  PID  /' "$dir/watch")" = "$1" ]; }
start wharf recv w.1
one=$!
me=$(id -un)
await seen "+ w.1  PID  $me"
# shellcheck disable=SC2046
kill -9 $(servers)
slay $one
await seen "+ w.1  PID  $me
- w.1"
slay $watcher
run 0 wharf --domain "$WHARF_DOMAIN" ls
run 2 wharf --domain x ls
same "a relative domain" "wharf: --domain: 'x' is not an absolute path" "$err"
finish
