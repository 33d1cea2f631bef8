# Sourced by every script here: a private domain, commands compared exactly, and proof that nothing is left behind.
#
#       run RC [--] COMMAND...      runs it; $out and $err are what it printed. Its input is that of `run`.
#       same WHAT WANT GOT          one comparison
#       start COMMAND...            in the background, ended with the script; $! is its process id
#       finish                      ends what was started, compares the world, prints `NAME: N passed, N failed`
#
# A script is called with the directory of the build.
set -u
build=$(cd "$1" && pwd)
name=$(basename "$0" .sh)
dir=$(mktemp -d "${TMPDIR:-/tmp}/wharf-cli-$name-XXXXXX")
chmod 711 "$dir"
mkdir "$dir/bin"
cp "$build/wharf" "$build/wharfd" "$dir/bin" # where an ordinary user can reach them too
PATH=$dir/bin:$PATH
unset WHARFD XDG_RUNTIME_DIR
export WHARF_DOMAIN=$dir/domain LC_ALL=C
passed=0
failed=0
pids=
shm_before=$(ls /dev/shm)

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
        timeout 60 "$@" >"$dir/out" 2>"$dir/err"
        rc=$?
        out=$(cat "$dir/out")
        err=$(cat "$dir/err")
        same "exit code of: $*" "$want" "$rc"
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
# A wharfd is two processes.
keepers() { ps -eo pid,args | awk -v d="$WHARF_DOMAIN" '$2 ~ /wharfd$/ && $3 == "--domain" && $4 == d { print $1 }'; }
servers() {
        ps -eo pid,args |
                awk -v d="$WHARF_DOMAIN" '$2 ~ /wharfd$/ && $3 == "--server" && $5 == d { print $1 }'
}
no_wharfd() { [ -z "$(keepers)$(servers)" ]; }

finish() {
        for p in $pids; do
                slay "$p"
        done
        await no_wharfd
        if [ -d "$WHARF_DOMAIN" ]; then
                same "what wharfd leaves behind" lock "$(ls "$WHARF_DOMAIN")"
        fi
        # With a /dev/shm of our own (scripts/test), or on a quiet machine.
        if [ "${WHARF_TEST_SHM:-}" = own ]; then
                same "/dev/shm" "$shm_before" "$(ls /dev/shm)"
        fi
        rm -rf "$dir"
        echo "cli-$name: $passed passed, $failed failed"
        [ "$failed" = 0 ]
        exit
}
trap 'for p in $pids; do kill -9 $p 2>/dev/null; done; rm -rf "$dir"' EXIT
