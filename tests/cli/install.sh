#!/bin/sh
# What others build with: installed by pkg-config and CMake, and not installed at all, as a subproject of Meson. Then all is
# removed, and nothing is left.
. "$(dirname "$0")/lib.sh"
source=$(cd "$(dirname "$0")/../.." && pwd)
prefix=$(meson introspect "$build" --buildoptions | tr '{' '\n' |
        sed -n 's/.*"name": "prefix", "value": "\([^"]*\)".*/\1/p')
export DESTDIR="$dir/a stage"
mkdir -p "$DESTDIR/etc" # somebody else's
mkdir "$dir/program"
cat >"$dir/program/main.c" <<'END'
#include <wharf/wharf.h>
#include <stdio.h>
int main(void)
{
        wharf_task *task;
        wharf_name port, right;
        char text[8];
        if (wharf_task_open(NULL, &task) < 0 || wharf_port_new(task, NULL, &port) < 0 ||
            wharf_right_new(task, port, &right) < 0 || wharf_send(task, right, "ahoy", 5, 0) < 0 ||
            wharf_recv(task, port, text, sizeof text, NULL, WHARF_FOREVER) < 0)
                return 1;
        puts(text);
        return wharf_task_close(task) != NULL;
}
END
says() { # what, program
        run 0 "$2"
        same "what a program says that was built $1" ahoy "$out"
}

# ---- installed ----

run 0 "$source/scripts/install" "$build" "$prefix"
[ "$failed" = 0 ] || printf '%s\n%s\n' "$out" "$err" >&2
root=$DESTDIR$prefix
same "the command" "$(wharf --version)" "$("$root/bin/wharf" --version)"
lib=$(dirname "$(find "$DESTDIR" -name libwharf.so)")
export LD_LIBRARY_PATH="$lib"
for page in man3/wharf_send.3 man3/wharf_msg.3 man1/wharf.1 man8/wharfd.8; do
        same "$page" yes "$([ -s "$root/share/man/$page" ] && echo yes)"
done

# The staged tree is a system root: pkg-config puts it before what is in it.
export PKG_CONFIG_LIBDIR="$lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$DESTDIR"
flags() { pkg-config "$@" wharf | sed 's/\\ / /g'; }
same "the version" "$(wharf --version | grep -o '[0-9][0-9.]*' | head -n 1)" "$(pkg-config --modversion wharf)"
(
        # Names with spaces come back quoted for a shell.
        eval "set -- $(pkg-config --cflags --libs wharf)"
        cc -o "$dir/shared" "$dir/program/main.c" "$@"
        eval "set -- $(pkg-config --static --cflags --libs wharf)"
        cc -static -o "$dir/static" "$dir/program/main.c" "$@"
) 2>&1
says "with pkg-config" "$dir/shared"
says "with pkg-config, statically" "$dir/static"
unset PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR

if command -v cmake >/dev/null; then
        cat >"$dir/program/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.13)
project(program C)
find_package(wharf ${WANTED} REQUIRED)
add_executable(by-cmake main.c)
target_link_libraries(by-cmake wharf::wharf)
add_executable(by-cmake-static main.c)
target_link_libraries(by-cmake-static wharf::static)
END
        version=$(wharf --version | grep -o '[0-9][0-9.]*' | head -n 1)
        # Moved: what is installed says nothing of where it was.
        mv "$DESTDIR" "$dir/moved"
        run 0 cmake -S "$dir/program" -B "$dir/by-cmake" "-DCMAKE_PREFIX_PATH=$dir/moved$prefix" "-DWANTED=${version%.*}"
        run 0 cmake --build "$dir/by-cmake"
        export LD_LIBRARY_PATH="$dir/moved${lib#"$DESTDIR"}"
        says "with CMake" "$dir/by-cmake/by-cmake"
        unset LD_LIBRARY_PATH
        says "with CMake, statically" "$dir/by-cmake/by-cmake-static"
        rm "$dir/by-cmake/CMakeCache.txt"
        run 1 cmake -S "$dir/program" -B "$dir/by-cmake" "-DCMAKE_PREFIX_PATH=$dir/moved$prefix" -DWANTED=99.0
        same "a version that is not there" 1 "$(echo "$err" | grep -c 'wharfConfig.cmake, version: ')"
        mv "$dir/moved" "$DESTDIR"
else
        echo "  skipped cli-install: CMake's find_package() (needs cmake)"
fi
unset LD_LIBRARY_PATH

run 0 "$source/scripts/install" --remove "$build" "$prefix"
same "what is left after make uninstall" "$DESTDIR $DESTDIR/etc" "$(find "$DESTDIR" | sort | tr '\n' ' ' | sed 's/ $//')"
unset DESTDIR

# ---- PREFIX, of a folder that was made for another ----

prefix_of() { sed -n 's|^prefix=||p' "$dir/folder/meson-private/wharf.pc"; }
few="-Dtests=disabled -Dbench=disabled" # so that it takes a moment
# shellcheck disable=SC2086
run 0 "$source/scripts/configure" "$dir/folder" $few
same "without PREFIX" /usr/local "$(prefix_of)"
# shellcheck disable=SC2086
run 0 "$source/scripts/configure" "$dir/folder" "--prefix=$dir/there" $few
same "PREFIX of a folder that was made before" "$dir/there" "$(prefix_of)"
# shellcheck disable=SC2086
run 0 "$source/scripts/configure" "$dir/folder" $few
same "which stays" "$dir/there" "$(prefix_of)"
for verb in install uninstall; do
        same "make $verb passes it on" 1 \
                "$(make -s -n -C "$source" B="$dir/folder" PREFIX=/there $verb | grep -c "scripts/install.* $dir/folder /there$")"
done

# ---- as a subproject of Meson ----

mkdir -p "$dir/program/subprojects"
ln -s "$source" "$dir/program/subprojects/wharf"
cat >"$dir/program/meson.build" <<'END'
project('program', 'c', default_options: ['default_library=static', 'optimization=0'])
executable('by-meson', 'main.c', dependencies: dependency('wharf', fallback: 'wharf'))
END
run 0 meson setup -Dwharf:optimization=0 -Dwharf:debug=false "$dir/by-meson" "$dir/program"
[ "$rc" = 0 ] || printf '%s\n%s\n' "$out" "$err" >&2
run 0 ninja -C "$dir/by-meson"
says "as a subproject" "$dir/by-meson/by-meson"
same "and nothing beside the library" "" "$(find "$dir/by-meson" -type f '(' -name 'wharf' -o -name 'test-*' -o -name wharfd -o -name '*wharfd*.a' ')')"
finish
