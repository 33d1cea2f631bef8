# wharf shm, and plain programs that share segments with it in both directions.
. "$(dirname "$0")/says.sh"
ME=wharf-cli-$$
KEY=$(printf '0x%x' $((0x50000000 + $$)))
cleanup='$W shm rm "posix:$ME" "posix:$ME-2" "sysv:$KEY" "sysv:$dir#82"'
# What differs between machines: who runs this, and whether every task may be looked at.
same() {
        sed -e "s/$ME/ME/g" -e "s/$KEY/KEY/g" -e "s/ $(id -un)\( \|\$\)/ USER\1/g" \
                -e "s/\"uid\":$(id -u),\"gid\":$(id -g)/UID/g" -e 's/orphan?/orphan/g' -e 's/"changed_s":[0-9]*/CHANGED/g' \
                -e 's/"unseen_tasks":[0-9]*/UNSEEN/g' -e '/could not be looked at/d' -e 's/^\(id\|creator\)  *[0-9]*/\1 N/' \
                -e 's/"id":[0-9]*/ID/' -e 's/"creator_pid":[0-9]*/CREATOR/' -e 's/"key":[0-9]*/KEY/' -e 's/  */ /g'
}

says 0 '$W shm create posix:$ME 8K --mode 640' </dev/null
says 1 '$W shm create posix:$ME 8K 2>&1 | same; $W shm create posix:$ME 8K 2>/dev/null' <<'END'
wharf shm: posix:ME: the name is taken
END
says 0 '$W shm write posix:$ME --data Hello --offset 1K' </dev/null
says 0 '$W shm write posix:$ME --data "World!" --string --offset 1029' </dev/null
says 0 '$W shm cat posix:$ME --offset 1K --string' <<'END'
HelloWorld!
END
says 0 '$W shm cat posix:$ME --bytes 8 --offset 1020 | od -An -c' <<'END'
  \0  \0  \0  \0   H   e   l   l
END
says 0 'printf "abc" | $W shm write posix:$ME; $W shm cat posix:$ME --bytes 3; $W shm cat posix:$ME | wc -c' <<'END'
abc8192
END
says 1 'head -c 8193 /dev/zero | $W shm write posix:$ME 2>&1 | same; $W shm write posix:$ME --offset 8K --data x 2>/dev/null' <<'END'
wharf shm: posix:ME: it does not fit: 8192 bytes from offset 0
END
says 2 '$W shm cat posix:$ME --offset 8000 --bytes 200 2>&1 | same; $W shm cat posix:$ME --bytes 9000 2>/dev/null' <<'END'
wharf shm: posix:ME: [8000, +200) is outside: it has 8192 bytes
END
says 0 '$W shm create sysv:$KEY 1000' </dev/null
says 0 '$W shm ls "*$ME" "sysv:$KEY" 2>&1 | same' <<'END'
NAME SIZE OWNER MODE STATE ATTACHED BY
posix:ME 8 KiB USER 0640 orphan -
sysv:KEY 1000 B USER 0600 orphan -
END
says 0 '$W shm ls --json "*$ME" "sysv:$KEY" 2>&1 | same' <<'END'
[{"name":"posix:ME","kind":"posix","bytes":8192,"allocated_bytes":8192,UID,"mode":"0640",CHANGED,"state":"orphan",UNSEEN,"users":[]},{"name":"sysv:KEY","kind":"sysv","bytes":1000,"allocated_bytes":1000,UID,"mode":"0600",KEY,ID,"attached":0,CREATOR,CHANGED,"state":"orphan",UNSEEN,"users":[]}]
END
says 0 '$W shm stat sysv:$KEY | same' <<'END'
name sysv:KEY
size 1000 bytes (1000 B)
allocated 1000 B
owner USER
mode 0600
key KEY
id N
creator N
state orphan
END
says 1 '$W shm resize sysv:$KEY 2000 2>&1 | same; $W shm resize sysv:$KEY 2000 2>/dev/null' <<'END'
wharf shm: sysv:KEY: System V segments never change their size
END
says 0 '$W shm resize posix:$ME 100000 && $W shm chmod 600 posix:$ME && $W shm stat posix:$ME | same' <<'END'
name posix:ME
size 100000 bytes (97.7 KiB)
allocated 100 KiB
owner USER
mode 0600
state orphan
END
says 0 '$W shm create file:$dir/f 4K && printf "plain file" | $W shm write file:$dir/f && head -c 10 f; wc -c <f' <<'END'
plain file4096
END
says 0 '$W shm rm posix:$ME sysv:$KEY file:$dir/f' </dev/null
says 3 '$W shm rm posix:$ME 2>&1 | same; $W shm rm posix:$ME 2>/dev/null' <<'END'
wharf shm: posix:ME: there is none of that name
END
says 3 '$W shm cat posix:$ME 2>&1 | same; $W shm stat posix:$ME 2>/dev/null' <<'END'
wharf shm: posix:ME: there is none of that name
END

# Refusals, each in one line, with nothing left behind.
says 1 '$W shm create posix:$ME 4000000G 2>&1 | same; $W shm create posix:$ME 4000000G 2>/dev/null' <<'END'
wharf shm: posix:ME: more than the memory that is left on this machine
END
# A full /dev/shm: all or nothing, and what nobody wrote to reads as zeroes without a page. In one of its own, as root.
full() {
        unshare -m sh -c 'mount -t tmpfs -o size=1m tmpfs /dev/shm && mount -t tmpfs tmpfs /run && sh -c "$1"' full "$1"
}
if full true 2>/dev/null; then
        export W
        says 1 'full "\$W shm create posix:s 4M --sparse; head -c 2M /dev/zero | \$W shm write posix:s 2>&1"' <<'END'
wharf shm: posix:s: not enough room there
END
        says 0 'full "\$W shm create posix:s 4M --sparse; head -c 2M /dev/zero | \$W shm write posix:s 2>/dev/null; \$W shm cat posix:s | wc -c; \$W shm stat posix:s | grep alloc; \$W shm cat posix:s --string"' <<'END'
4194304
allocated  0 B

END
        says 0 'full "\$W shm create posix:s 4M --sparse; echo hello | \$W shm write posix:s --offset 8K; \$W shm cat posix:s --offset 8K --bytes 6"' <<'END'
hello
END
else
        echo "shm.sh: skipped the full /dev/shm: it takes a mount namespace"
fi
says 2 '$W shm create posix:$ME 0' <<'END'
wharf shm: '0' is no size: a number above 0, with K, M or G if you like
END
says 2 '$W shm create posix:$ME 1 --mode 9' <<'END'
wharf shm create: --mode: '9' is no mode: octal, 1 to 777
END
says 2 '$W shm create OS 100' <<'END'
wharf shm: OS: malformed: posix:NAME, sysv:KEY, sysv:PATH#ID, sysv:id=N or file:PATH, and a size above 0
END
says 2 '$W shm create anon:x 100' <<'END'
wharf shm: anon:x: an anonymous segment would be gone with this command
END
says 2 '$W shm ls --mode 1' <<'END'
wharf shm ls: '--mode': no such option; usage: wharf shm ls [PATTERN...] [--orphans] [--json] [--color WHEN]
END
says 2 '$W shm stat' <<'END'
usage: wharf shm stat NAME [--json]
END

# The textbook's programs, which know nothing of wharf, in both directions.
T=$B/examples
says 0 '$T/posix_producer $ME && $W shm cat posix:$ME --string && $T/posix_consumer $ME' <<'END'
HelloWorld!
HelloWorld!
END
says 0 '$W shm create posix:$ME 4K && $W shm write posix:$ME --data "Hello from wharf" --string && $T/posix_consumer $ME' <<'END'
Hello from wharf
END
says 3 '$W shm stat posix:$ME 2>&1 | same; $W shm stat posix:$ME 2>/dev/null' <<'END'
wharf shm: posix:ME: there is none of that name
END
says 0 '$T/sysv_notice $dir "a notice" && $W shm cat "sysv:$dir#82" --string' <<'END'
writing to segment: "a notice"
a notice
END
says 0 '$W shm write "sysv:$dir#R" --data "written by wharf" --string && $T/sysv_notice $dir' <<'END'
segment contains: "written by wharf"
END
says 0 '$W shm rm "sysv:$dir#R"' </dev/null
says 0 '$W shm create "sysv:$dir#R" 1024 --mode 644 && $T/sysv_notice $dir "into a segment that wharf made" &&
        $W shm cat "sysv:$dir#R" --string && $W shm rm "sysv:$dir#R"' <<'END'
writing to segment: "into a segment that wharf made"
into a segment that wharf made
END
verdict
