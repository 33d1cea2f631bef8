#!/bin/sh
# The completions, in the shells that they are for.
. "$(dirname "$0")/lib.sh"
export WHARF_COMPLETE_TIMEOUT=60 # however busy the machine is
here=$(cd "$(dirname "$0")/../../tools/completions" && pwd)
evil="/dev/shm/wharf-cli-$$\$(touch x)"
trap 'rm -f "$evil" /dev/shm/wharf-cli-$$; for p in $pids; do kill -9 $p 2>/dev/null; done; rm -rf "$dir"' EXIT

# bash: what pressing Tab at the end of a line answers.
in_bash() {
        bash -c '. "$1"; COMP_LINE=$2 COMP_POINT=${#2}; _wharf "${2%% *}"; echo "${COMPREPLY[*]}"' - "$here/wharf.bash" "$1"
}
# zsh: what is given to compadd.
in_zsh() {
        zsh -f -c 'compadd() { shift; print -r -- "${(j: :)@}" }; compset() { : }; fpath=("$1" $fpath); autoload -Uz _wharf
                words=(${(s: :)2}); [[ $2 == *" " ]] && words+=(""); CURRENT=$#words; _wharf' - "$here" "$1"
}
helped() { "$@" --help | sed -n 's/^  \(-.,\|   \) \(--[a-z-]*\) .*/\2/p' | tr '\n' ' ' | sed 's/ $//'; }

start wharf recv port.one
await served port.one
: >"$evil"
: >/dev/shm/wharf-cli-$$
if command -v bash >/dev/null; then
        same "bash: it is for both" "complete -F _wharf wharf complete -F _wharf wharfd" \
                "$(bash -c '. "$1"; complete -p wharf wharfd' - "$here/wharf.bash" | tr '\n' ' ' | sed 's/ $//')"
        same "bash: verbs" "send serve shm" "$(in_bash 'wharf s')"
        same "bash: commands" "create ls stat cat write resize chmod rm" "$(in_bash 'wharf shm ')"
        for c in "wharf ls" "wharf ps" "wharf send" "wharf recv" "wharf call" "wharf serve" "wharf run" "wharf bench" \
                "wharf doctor" "wharf shm ls" "wharf shm create" "wharf heap trace" "wharf heap replay" wharfd; do
                same "bash: options of $c" "$(helped $c)" "$(in_bash "$c -")"
        done
        same "bash: ports" port.one "$(in_bash 'wharf send --data x ')"
        same "bash: ports of that domain" port.one "$(in_bash "wharf --domain $WHARF_DOMAIN call p")"
        same "bash: segments, behind the colon" "wharf-cli-$$" "$(in_bash "wharf shm cat posix:wharf-cli-$$")"
        same "bash: policies" "buddy best" "$(in_bash 'wharf heap trace --policy b')"
        same "bash: a value behind =" "always" "$(in_bash 'wharf ls --color=al')"
        same "bash: behind a value no second name" "" "$(in_bash 'wharf send port.one ')"
        # Typed at a terminal, with the key itself.
        same "bash: Tab" 1 "$(printf '. %s/wharf.bash\n wharf shm res\t--he\t\nexit\n' "$here" |
                INPUTRC=/dev/null script -qec 'bash --norc -i' /dev/null 2>&1 | grep -c 'usage: wharf shm resize NAME SIZE')"
fi
if command -v zsh >/dev/null; then
        same "zsh: commands" "create ls stat cat write resize chmod rm" "$(in_zsh 'wharf shm ')"
        for c in "wharf ls" "wharf call" "wharf shm ls" wharfd; do
                same "zsh: options of $c" "$(helped $c)" "$(in_zsh "$c -")"
        done
        same "zsh: ports" port.one "$(in_zsh 'wharf call --data x ')"
        same "zsh: segments" "posix:wharf-cli-$$" "$(in_zsh "wharf shm cat posix:" | tr ' ' '\n' | grep -F -e "-$$")"
        same "zsh: colours" "auto always never" "$(in_zsh 'wharf ls --color ')"
else
        echo "  skipped cli-complete: zsh (it is not there)"
fi
rm -f "$evil" /dev/shm/wharf-cli-$$
finish
