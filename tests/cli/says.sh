# What the scripts of this folder share. Each is run as `sh SCRIPT BUILD_DIR` and compares what commands print, exactly:
#
#       says CODE 'COMMAND' <<'END'     standard output and standard error together, and the exit code
#       ...
#       END
#
# In COMMAND, $W is the command under test. The scripts run in a directory of their own, which is removed at the end.
set -u
B=$(cd "$1" && pwd)
W=$B/wharf
suite=cli-$(basename "$0" .sh)
passed=0 failed=0
dir=$(mktemp -d "${TMPDIR:-/tmp}/wharf-cli-XXXXXX")
cd "$dir" || exit 1
finish() {
        [ -z "${cleanup:-}" ] || eval "$cleanup" >/dev/null 2>&1
        cd / && rm -rf "$dir"
}
trap finish EXIT

ok() {
        passed=$((passed + 1))
}

wrong() {
        failed=$((failed + 1))
        echo "wrong: $1"
}

says() {
        cat >"$dir/.want"
        eval "$2" >"$dir/.got" 2>&1 </dev/null
        code=$?
        if [ "$code" != "$1" ]; then
                wrong "$2: exit code $code, not $1"
                cat "$dir/.got"
        elif ! diff -u "$dir/.want" "$dir/.got"; then
                wrong "$2"
        else
                ok
        fi
}

verdict() {
        echo "$suite: $passed passed, $failed failed"
        [ "$failed" = 0 ]
        exit
}
