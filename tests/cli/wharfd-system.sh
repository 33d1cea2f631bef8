#!/bin/sh
# wharfd for all users by hand, and started by systemd's own socket activation.
. "$(dirname "$0")/lib.sh"
export WHARF_SYSTEM_DOMAIN=$dir/system

run 1 wharf --system ls
run 0 wharfd --system --linger forever
run 0 wharf --system ls
same "modes" "755 666" "$(stat -c %a "$dir/system" "$dir/system/bootstrap" | tr '\n' ' ' | sed 's/ $//')"
printf 'own\n' >"$dir/conf"
run 1 wharfd --domain "$dir/other" --share --config "$dir/conf"
same "wrong rules" "wharfd: $dir/conf:1: a rule is: own PATTERN WHO..." "$err"
WHARF_DOMAIN=$dir/system
kill "$(keepers)"
await no_wharfd
same "stopped" lock "$(ls "$dir/system")"
WHARF_DOMAIN=$dir/domain

if command -v systemd-socket-activate >/dev/null; then
        mkdir -m 700 "$WHARF_DOMAIN"
        systemd-socket-activate --seqpacket -l "$WHARF_DOMAIN/bootstrap" "$dir/bin/wharfd" --domain "$WHARF_DOMAIN" \
                --linger 300ms 2>/dev/null &
        activator=$!
        await test -S "$WHARF_DOMAIN/bootstrap"
        run 0 wharf ls
        same "the activator became wharfd" wharfd "$(cat /proc/$activator/comm)"
        wait $activator
        same "it left" 0 $?
        same "the socket is not its own to remove" bootstrap "$(ls "$WHARF_DOMAIN")"
        rm "$WHARF_DOMAIN/bootstrap"
        : >"$WHARF_DOMAIN/lock"
else
        echo "  skipped cli-wharfd-system: activation (needs systemd-socket-activate)"
fi
finish
