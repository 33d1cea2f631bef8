#!/bin/sh
# wharf doctor: what it finds, and what it finds when something is taken away.
. "$(dirname "$0")/lib.sh"

run 0 wharf doctor
same "what is looked at" "kernel memfd sealing scm_rights pidfd so_peerpidfd membarrier epoll_pwait2 rlimit_nofile \
rlimit_fsize memory dev_shm yama user_namespaces cores domain" \
        "$(printf '%s\n' "$out" | awk '{ printf "%s%s", (NR > 1 ? " " : ""), $2 }')"
same "verdicts" "" "$(printf '%s\n' "$out" | awk '$1 != "ok" && $1 != "warn"')"
same "every warning says what to do" "" "$(printf '%s\n' "$out" | awk '$1 == "warn" && !/: /')"
same "the domain" "ok    domain           $WHARF_DOMAIN, made on first use" "$(printf '%s\n' "$out" | tail -n 1)"
same "it only looks" "" "$(ls "$WHARF_DOMAIN" 2>/dev/null)"
run 0 wharf doctor --json
same "JSON has as many" 16 "$(printf '%s\n' "$out" | grep -c '"check":')"
run 1 sh -c 'ulimit -n 100; exec wharf doctor'
same "few descriptors" "fail  rlimit_nofile    soft 100, hard 100: every right is a descriptor: raise it with ulimit -n, LimitNOFILE= or limits.conf" \
        "$(printf '%s\n' "$out" | grep rlimit_nofile)"
run 0 sh -c '(ulimit -f 0; exec wharf doctor) | cat' # through a pipe: the limit is for its output, too
same "small files" "fail  rlimit_fsize     0 bytes: it limits shared memory too: ulimit -f unlimited" \
        "$(printf '%s\n' "$out" | grep rlimit_fsize)"
mkdir -m 777 "$WHARF_DOMAIN"
chmod 777 "$WHARF_DOMAIN"
run 1 wharf doctor
same "a domain for everybody" "fail  domain           $WHARF_DOMAIN: user $(id -u), mode 0777: it must be a directory of this user with mode 0700; remove it, or set WHARF_DOMAIN" \
        "$(printf '%s\n' "$out" | tail -n 1)"
rmdir "$WHARF_DOMAIN"
# Where a user's names live.
run 0 env -u WHARF_DOMAIN XDG_RUNTIME_DIR="$dir" wharf doctor
same "XDG_RUNTIME_DIR" "ok    domain           $dir/wharf, made on first use" "$(printf '%s\n' "$out" | tail -n 1)"
same "neither variable" "/tmp/wharf-$(id -u)" \
        "$(env -u WHARF_DOMAIN wharf doctor | sed -n 's/^[a-z]* *domain *\([^,: ]*\).*/\1/p')"
run 2 wharf doctor x
same "an argument" "usage: wharf doctor [--json]" "$err"
finish
