#!/bin/sh
# wharf doctor: what it finds, and what it finds when something is taken away.
. "$(dirname "$0")/lib.sh"

run 0 wharf doctor
same "what is looked at" "kernel memfd sealing scm_rights pidfd so_peerpidfd membarrier epoll_pwait2 rlimit_nofile \
rlimit_fsize memory dev_shm yama user_namespaces cores wharfd domain" \
        "$(printf '%s\n' "$out" | awk '{ printf "%s%s", (NR > 1 ? " " : ""), $2 }')"
same "verdicts" "" "$(printf '%s\n' "$out" | awk '$1 != "ok" && $1 != "warn"')"
same "every warning says what to do" "" "$(printf '%s\n' "$out" | awk '$1 == "warn" && !/: /')"
same "the domain" "ok    domain           $WHARF_DOMAIN, made on first use" "$(printf '%s\n' "$out" | tail -n 1)"
same "it only looks" "" "$(ls "$WHARF_DOMAIN" 2>/dev/null)"
run 0 wharf doctor --json
same "JSON has as many" 17 "$(printf '%s\n' "$out" | grep -c '"check":')"
run 1 sh -c 'ulimit -n 100; exec wharf doctor'
same "few descriptors" "fail  rlimit_nofile    soft 100, hard 100: every right is a descriptor: raise it with ulimit -n, LimitNOFILE= or limits.conf" \
        "$(printf '%s\n' "$out" | grep rlimit_nofile)"
run 0 sh -c '(ulimit -f 0; exec wharf doctor) | cat' # through a pipe: the limit is for its output, too
same "small files" "fail  rlimit_fsize     0 bytes: it limits shared memory too: ulimit -f unlimited" \
        "$(printf '%s\n' "$out" | grep rlimit_fsize)"
mkdir -m 777 "$WHARF_DOMAIN"
chmod 777 "$WHARF_DOMAIN"
run 1 wharf doctor
same "a domain for everybody" "fail  domain           the domain $WHARF_DOMAIN is open to others (mode 0777); it must be 0700: let WHARF_DOMAIN name a directory of this user, mode 0700, or unset it" \
        "$(printf '%s\n' "$out" | tail -n 1)"
rmdir "$WHARF_DOMAIN"
# Where a user's names live.
run 0 env -u WHARF_DOMAIN XDG_RUNTIME_DIR="$dir" wharf doctor
same "XDG_RUNTIME_DIR" "ok    domain           $dir/wharf, made on first use" "$(printf '%s\n' "$out" | tail -n 1)"
usual=/tmp/wharf-$(id -u)
[ -O "/run/user/$(id -u)" ] && usual=/run/user/$(id -u)/wharf
same "neither variable" "$usual" \
        "$(env -u WHARF_DOMAIN wharf doctor | sed -n 's/^[a-z]* *domain *\([^,: ]*\).*/\1/p')"
domain_of() { printf '%s\n' "$out" | sed -n 's/^\([a-z]*\) *domain *\(.*\)/\1 \2/p'; }
for not in /nonexistent relative /dev/null; do
        run 0 env -u WHARF_DOMAIN XDG_RUNTIME_DIR=$not wharf doctor
        same "XDG_RUNTIME_DIR=$not" "warn $usual: used instead of what is not this user's: XDG_RUNTIME_DIR=$not" \
                "$(domain_of | sed 's/, made on first use//; s/\(XDG_RUNTIME_DIR=[^ ]*\).*/\1/')"
done
run 1 env WHARF_DOMAIN=/proc/wharf/domain wharf doctor
run 1 env WHARF_DOMAIN=/etc/hostname/domain wharf doctor
same "WHARF_DOMAIN in a file" "fail" "$(domain_of | cut -d' ' -f1)"

# A domain for sharing works for all; one that nobody serves does not.
run 0 wharfd --domain "$dir/shared" --share --linger forever
run 0 env WHARF_DOMAIN="$dir/shared" wharf doctor
same "a shared domain" "ok $dir/shared, shared by user $(id -u)" "$(domain_of)"
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
        run 0 setpriv --reuid=65534 --regid=65534 --clear-groups env WHARF_DOMAIN="$dir/shared" wharf doctor
        same "a shared domain of another" "ok $dir/shared, shared by user 0" "$(domain_of)"
else
        echo "  skipped cli-doctor: a shared domain of another (needs root and setpriv)"
fi
same "its wharfd" "ok    wharfd           held by its keeper; gave up privileges" \
        "$(WHARF_DOMAIN=$dir/shared wharf doctor | sed -n 's/^\(.* wharfd .*privileges\).*/\1/p')"
mine=$WHARF_DOMAIN
WHARF_DOMAIN=$dir/shared
kill -9 "$(keepers)"
keeper_gone() { wharf doctor | grep -q 'warn *wharfd *nobody holds its 0 names'; }
await keeper_gone
# shellcheck disable=SC2046
kill -9 $(keepers) $(servers)
await no_wharfd
unserved() { ! wharf doctor >/dev/null 2>&1; } # a process that was killed lets go of its socket last
await unserved
run 1 wharf doctor
same "a shared domain that nobody serves" \
        "fail $dir/shared, shared: no wharfd answers: let its owner start wharfd(8) there with --share" "$(domain_of)"
WHARF_DOMAIN=$mine
run 2 wharf doctor x
same "an argument" "usage: wharf doctor [--json] [--color WHEN]" "$err"
finish
