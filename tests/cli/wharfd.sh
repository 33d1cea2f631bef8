#!/bin/sh
# wharfd: many who start it at once, its death, its leaving, ordinary users.
. "$(dirname "$0")/lib.sh"

# A hundred first users. Each gives up when nobody has answered it for ten seconds, so where all of them cannot be started
# in that time, fewer are.
users=100
from=$(date +%s%N)
for i in 1 2 3 4 5 6 7 8 9 10; do
        wharf --version >/dev/null
done
[ $(($(date +%s%N) - from)) -lt 200000000 ] || users=20
i=0
while [ $i -lt $users ]; do
        start wharf recv "n$i"
        i=$((i + 1))
done
await served_n $users
same "$users first users: servers" 1 "$(servers | wc -l)"

# The server killed, with all those names: its keeper starts another, which knows them all.
kill -9 "$(servers)"
run 0 wharf ls --json
same "names after a kill, at the first look" $users "$(echo "$out" | grep -c '"name":')"
same "servers after a kill" 1 "$(servers | wc -l)"

# Its keeper killed as well: the names come back all the same, from their owners.
# shellcheck disable=SC2046
kill -9 $(keepers) $(servers)
await served_n $users
same "servers after both were killed" 1 "$(servers | wc -l)"
same "nobody was lost" $users "$(echo "$pids" | wc -w)"
for p in $pids; do
        slay "$p"
done
pids=
run 0 wharf ls
same "all names are gone with their owners" "" "$out"
await no_wharfd
same "it leaves the lock" lock "$(ls "$WHARF_DOMAIN")"

# Killed with nobody there: the next one cleans up.
start wharf recv x
await served x
server="$(keepers) $(servers)"
slay $!
pids=
# shellcheck disable=SC2086
kill -9 $server
same "a dead socket" "bootstrap lock" "$(ls "$WHARF_DOMAIN" | tr '\n' ' ' | sed 's/ $//')"
run 0 wharf ls

# It leaves and is started again all the time, under four who use it.
cat >"$dir/bin/hasty" <<END
#!/bin/sh
exec "$dir/bin/wharfd" "\$@" --linger 0ms
END
chmod 755 "$dir/bin/hasty"
for k in 1 2 3 4; do
        (
                export WHARFD="$dir/bin/hasty"
                n=0
                while [ $n -lt 50 ]; do
                        timeout 60 wharf ls --json >"$dir/hasty.$k" 2>&1 || exit 1
                        n=$((n + 1))
                done
        ) &
        hasty="${hasty:-} $!"
done
k=0
for p in $hasty; do
        k=$((k + 1))
        wait "$p"
        same "$k of four beside one that always leaves" "0, no error[]" "$?, no error$(cat "$dir/hasty.$k")"
done

# By hand.
await no_wharfd
run 0 wharfd --domain "$WHARF_DOMAIN" --linger forever
same "it is there when the command returns" "bootstrap lock" "$(ls "$WHARF_DOMAIN" | tr '\n' ' ' | sed 's/ $//')"
run 1 wharfd --domain "$WHARF_DOMAIN"
same "twice" "wharfd: a wharfd serves $WHARF_DOMAIN already" "$err"
server=$(keepers)
run 0 wharf ls
kill "$server"
await no_wharfd
same "stopped by a signal" lock "$(ls "$WHARF_DOMAIN")"
run 0 sh -c 'wharfd --foreground --linger 10ms 2>&1 | sed "s/^[0-9:.]* //"'
same "in the foreground" "wharfd: serving $WHARF_DOMAIN
wharfd: nobody needs $WHARF_DOMAIN any more" "$out"
run 2 wharfd --linger 5
same "a duration without a unit" "wharfd: --linger: '5' is no duration; 500ms and 2s are" "$err"
run 2 wharfd x
same "an argument" "usage: wharfd [--domain DIR | --system] [--share] [--config FILE] [--linger DURATION|forever] [--confine yes|kill|no] [--foreground] [--verbose] [--version]" \
        "$err"
run 1 wharfd --domain /proc/wharf

# Limits: 64 descriptors are enough for it, and what is too little is named at the first attempt, by whom it hinders.
no_descriptors="the limit of descriptors (ulimit -n, RLIMIT_NOFILE) is 63; it needs 64"
run 1 sh -c 'ulimit -n 63; exec wharf ls'
same "63 descriptors" "wharf ls: $WHARF_DOMAIN: $dir/bin/wharfd cannot serve: $no_descriptors" "$err"
run 1 sh -c 'ulimit -n 63; exec wharfd'
same "63 descriptors, by hand" "wharfd: $no_descriptors" "$err"
no_file="$WHARF_DOMAIN: the limit of a file's size (ulimit -f, RLIMIT_FSIZE) is 0 bytes, too few"
run 1 sh -c '{ (ulimit -f 0; exec wharf ls) 2>&1; echo $? >&3; } 3>"$0" | cat; exit "$(cat "$0")"' "$dir/rc"
same "no files" "wharf ls: $WHARF_DOMAIN: $dir/bin/wharfd cannot serve: $no_file" "$out"
run 1 sh -c '{ (ulimit -f 0; exec wharfd) 2>&1; echo $? >&3; } 3>"$0" | cat; exit "$(cat "$0")"' "$dir/rc"
same "no files, by hand" "wharfd: in the background: $dir/bin/wharfd cannot serve: $no_file" "$out"
start sh -c 'ulimit -n 64; exec wharf serve up -- tr a-z A-Z'
await served up
run 0 wharf call --data "with 64" up
same "64 descriptors" "WITH 64" "$out"
for p in $pids; do
        slay "$p"
done
pids=
await no_wharfd

# The runtime directory of somebody else: root leaves nothing there, and the user is not locked out.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
        mkdir -m 700 "$dir/run"
        chown 65534:65534 "$dir/run"
        await_gone() { (WHARF_DOMAIN=$1 && no_wharfd); }
        usual=/tmp/wharf-0
        [ -O /run/user/0 ] && usual=/run/user/0/wharf
        if [ ! -e "$usual" ]; then # a domain that is somebody's is not for tests
                run 0 env -u WHARF_DOMAIN XDG_RUNTIME_DIR="$dir/run" wharf ls
                same "what root leaves in a user's directory" "" "$(ls "$dir/run")"
                same "where it went instead" "bootstrap lock" "$(ls $usual | tr '\n' ' ' | sed 's/ $//')"
                await await_gone "$usual"
                rm -rf "$usual"
        fi
        start setpriv --reuid=65534 --regid=65534 --clear-groups env -u WHARF_DOMAIN XDG_RUNTIME_DIR="$dir/run" \
                wharf serve his -- cat
        await setpriv --reuid=65534 --regid=65534 --clear-groups env -u WHARF_DOMAIN XDG_RUNTIME_DIR="$dir/run" \
                wharf call --data x his
        same "what the user has there" wharf "$(ls "$dir/run")"
        for p in $pids; do
                slay "$p"
        done
        pids=
        await await_gone "$dir/run/wharf"
fi
run 0 wharfd --version

# An ordinary user: refused in another's domain, served in one of his own.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
        nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
        run 0 wharf ls
        run 1 $nobody wharf ls
        same "in root's domain" \
                "wharf ls: $WHARF_DOMAIN: the domain $WHARF_DOMAIN belongs to user 0, not to user 65534 who asks" "$err"
        mkdir -m 700 "$dir/his"
        chown 65534:65534 "$dir/his"
        mine=$WHARF_DOMAIN
        WHARF_DOMAIN=$dir/his
        start $nobody wharf serve up -- tr a-z A-Z
        await $nobody wharf call --data x up
        run 0 $nobody wharf call --data "as nobody" up
        same "an ordinary user's own" "AS NOBODY" "$out"
        run 1 wharf ls
        same "root is no exception" \
                "wharf ls: $dir/his: the domain $dir/his belongs to user 65534, not to user 0 who asks" "$err"
        slay $!
        for p in $pids; do
                slay "$p"
        done
        await no_wharfd
        WHARF_DOMAIN=$mine
else
        echo "  skipped cli-wharfd: ordinary users (needs root and setpriv)"
fi
# A name that cannot be registered again is registered once it can be: here something stands where the domain was.
start sh -c "exec wharf serve back -- cat 2>'$dir/back'"
start sh -c "exec wharf recv box 2>'$dir/box'"
await served back
await served box
server=$(servers)
kill -STOP "$server"
mv "$WHARF_DOMAIN" "$dir/away"
: >"$WHARF_DOMAIN"
kill -CONT "$server"
await grep -q 'wharf serve: the name is lost, for now: .*Not a directory' "$dir/back"
await grep -q 'wharf recv: the name is lost, for now: .*Not a directory' "$dir/box"
rm "$WHARF_DOMAIN"
await grep -q 'wharf serve: the name is registered again' "$dir/back"
await grep -q 'wharf recv: the name is registered again' "$dir/box"
run 0 wharf send --data x box
run 0 wharf call --data y back
same "an answer" y "$out"
rm -r "$dir/away"
# Each refusal names the domain once.
mkdir "$dir/small"
chmod 700 "$dir/small"
WHARF_DOMAIN=$dir/small
echo 'limit connections 8' >"$dir/small.conf"
run 0 wharfd --domain "$WHARF_DOMAIN" --config "$dir/small.conf" --linger forever
# The look itself takes a connection for a moment, and may cost a receiver its own: then another one follows.
i=0
refused() {
        wharf ls 2>"$dir/refused" || return 0
        i=$((i + 1))
        start sh -c "exec wharf recv r$i 2>/dev/null"
        return 1
}
await refused
same "more connections than allowed" \
        "wharf ls: $dir/small: this user has its share of names, waiting look-ups, watches or connections" \
        "$(cat "$dir/refused")"
for p in $pids; do # first: a task without a wharfd starts one
        slay "$p"
done
kill $(keepers)
await no_wharfd
WHARF_DOMAIN=$dir/domain
finish
