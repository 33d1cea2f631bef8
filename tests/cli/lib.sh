# Sourced by every script here: a private domain, commands compared exactly, and proof that nothing is left behind.
#
#       run RC [--] COMMAND...      runs it; $out and $err are what it printed. Its input is that of `run`.
#       same WHAT WANT GOT          one comparison
#       start COMMAND...            in the background, ended with the script; $! is its process id
#       finish                      ends what was started, compares the world, prints `NAME: N passed, N failed`
#
# A script is called with the directory of the build.
set -u
# Where that is allowed, with a /dev/shm of its own: what is found there afterwards is then ours.
if [ "${WHARF_TEST_SHM:-}" != own ] && unshare -m mount -t tmpfs tmpfs /dev/shm 2>/dev/null; then
        export WHARF_TEST_SHM=own
        exec unshare -m sh -c 'mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec sh "$0" "$@"' "$0" "$@"
fi
build=$(cd "$1" && pwd)
name=$(basename "$0" .sh)
dir=$(mktemp -d "${TMPDIR:-/tmp}/wharf-cli-$name-XXXXXX")
chmod 711 "$dir"
mkdir "$dir/bin" "$dir/tmp"
chmod 1777 "$dir/tmp"
cp "$build/wharf" "$build/wharfd" "$dir/bin" # where an ordinary user can reach them too
PATH=$dir/bin:$PATH
unset WHARFD XDG_RUNTIME_DIR
export WHARF_DOMAIN="$dir/domain" TMPDIR="$dir/tmp" LC_ALL=C
passed=0
failed=0
pids=
shm_before=$(ls -A /dev/shm)

same() {
        if [ "$2" = "$3" ]; then
                passed=$((passed + 1))
        else
                failed=$((failed + 1))
                printf '%s: %s:\n  wanted |%s|\n  got    |%s|\n' "$name" "$1" "$2" "$3" >&2
        fi
}

run() {
        want=$1
        shift
        timeout 900 "$@" >"$dir/out" 2>"$dir/err" # a machine may be slow
        rc=$?
        out=$(cat "$dir/out")
        err=$(cat "$dir/err")
        same "exit code of: $*" "$want" "$rc"
        [ "$rc" = "$want" ] || printf '  it said |%s|\n' "$err" >&2
}

start() {
        "$@" </dev/null >/dev/null &
        pids="$pids $!"
}

# Ends one that was started, at once, and waits until it is gone.
slay() {
        kill -9 "$1" 2>/dev/null
        wait "$1" 2>/dev/null
}

# Until `$*` succeeds; a time limit only so that a mistake ends.
await() {
        n=0
        until "$@" >/dev/null 2>&1; do
                n=$((n + 1))
                [ $n -gt 600 ] && {
                        same "waiting for: $*" success "time is over"
                        return 1
                }
                sleep 0.05
        done
}
served() { wharf ls --json | grep -q "\"name\":\"$1\""; }
served_n() { [ "$(wharf ls --json | grep -c '"name":')" = "$1" ]; }
no_socket() { ! [ -e "$WHARF_DOMAIN/bootstrap" ]; }
# "PID PROGRAM ARG..." of each process with this domain among its arguments.
of_domain() {
        grep -alsF -e "$WHARF_DOMAIN" /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ pid _; do
                echo "$pid $(tr '\0' ' ' <"/proc/$pid/cmdline")"
        done 2>/dev/null
}
# A wharfd is two processes.
keepers() { of_domain | awk -v d="$WHARF_DOMAIN" '$2 ~ /wharfd$/ && $3 == "--domain" && $4 == d { print $1 }'; }
servers() { of_domain | awk -v d="$WHARF_DOMAIN" '$2 ~ /wharfd$/ && $3 == "--server" && $5 == d { print $1 }'; }
no_wharfd() { [ -z "$(keepers)$(servers)" ]; }
# Into $child: the child of process $1 that runs exactly `$2`.
has_child() {
        for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
                [ "$(tr '\0' ' ' <"/proc/$child/cmdline")" = "$2 " ] && return
        done 2>/dev/null
        return 1
}
# Also of one that died and that nobody has waited for yet.
gone() { ! grep -qs . "/proc/$1/cmdline"; }

finish() {
        for p in $pids; do
                slay "$p"
        done
        await no_wharfd
        if [ -d "$WHARF_DOMAIN" ]; then
                same "what wharfd leaves behind" lock "$(ls "$WHARF_DOMAIN")"
        fi
        same "what is left in \$TMPDIR" "" "$(ls -A "$TMPDIR")"
        if [ "${WHARF_TEST_SHM:-}" = own ]; then
                same "/dev/shm" "$shm_before" "$(ls -A /dev/shm)"
        fi
        rm -rf "$dir"
        echo "cli-$name: $passed passed, $failed failed"
        [ "$failed" = 0 ]
        exit
}
# However the script ends: what it started, and the servers that this started, end too.
end_all() {
        for p in $pids; do
                kill -9 "$p" 2>/dev/null
        done
        for WHARF_DOMAIN in "$dir/domain" "$dir/system" "$WHARF_DOMAIN"; do
                for p in $(keepers) $(servers); do
                        kill -9 "$p" 2>/dev/null
                done
        done
        rm -rf "$dir"
}
trap end_all EXIT
trap 'exit 1' HUP INT TERM
