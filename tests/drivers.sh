#!/usr/bin/env bash
# Unpacks the Vulkan drivers of the test matrix, and tools for packages, out of Debian packages,
# without installing anything, and prints how each is used. tests/README.md says what they are for.
#
#   tests/drivers.sh FOLDER [swiftshader | lavapipe-25 | lavapipe-sid | amdhip | cargo-tools]...
#
# Without a name: all drivers.
#
# Downloads go through the mirror apt is configured with (or $DEBIAN_MIRROR and
# $DEBIAN_SECURITY_MIRROR). Every file is checked: the release file by Debian's key, the
# package list by the release file's sum, each package by the list's. A driver that is
# there already is left alone; remove its folder to have it again.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- swiftshader lavapipe-25 lavapipe-sid amdhip
arch=amd64
keyring=${DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}

die() { echo "drivers.sh: $*" >&2; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] || die "these packages are for x86-64 Linux"
for tool in curl xz dpkg-deb sha256sum gpgv awk; do
    command -v "$tool" > /dev/null || die "needs $tool"
done
[ -r "$keyring" ] || die "needs Debian's keys: install debian-archive-keyring, or name them in DEBIAN_KEYRING"

# The address apt has for an archive: `debian` or `debian-security`.
mirror_of() {
    command -v apt-get > /dev/null || return 0
    apt-get indextargets --format '$(SITE)' 2> /dev/null |
        grep -E "/$1/?\$" | head -n 1 | sed 's,/$,,' || true
}
mirror=${DEBIAN_MIRROR:-$(mirror_of debian)}
security=${DEBIAN_SECURITY_MIRROR:-$(mirror_of debian-security)}
[ -n "$mirror" ] && [ -n "$security" ] ||
    die "apt knows no mirror of Debian: name two in DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR"

# download URL FILE SHA256: leaves FILE alone if it has that sum already.
download() {
    echo "$3  $2" | sha256sum --check --status 2> /dev/null && return
    curl --fail --silent --show-error --location --retry 3 --output "$2.part" "$1" || die "cannot get $1"
    echo "$3  $2.part" | sha256sum --check --status || die "$1 is not what its index says"
    mv "$2.part" "$2"
}

# package_list MIRROR SUITE: brings the suite's package list and prints its path.
package_list() {
    local lists=$folder/lists sum
    local file=$lists/$2
    mkdir -p "$lists"
    curl --fail --silent --show-error --location --retry 3 --output "$file.signed" "$1/dists/$2/InRelease" ||
        die "cannot get $1/dists/$2/InRelease"
    gpgv --quiet --keyring "$keyring" --output "$file.release" "$file.signed" 2> "$file.gpgv" ||
        { cat "$file.gpgv" >&2; die "the release file of $2 is not signed by Debian"; }
    sum=$(awk -v name="main/binary-$arch/Packages.xz" \
        '/^[A-Z]/ { sums = /^SHA256:/ } sums && $3 == name { print $1 }' "$file.release")
    [ -n "$sum" ] || die "$2 lists no packages for $arch"
    download "$1/dists/$2/main/binary-$arch/by-hash/SHA256/$sum" "$file.xz" "$sum"
    xz --decompress --stdout "$file.xz" > "$file"
    echo "$file"
}

# closure LIST PACKAGE...: `name file sum` of the packages and of all they depend on, as far
# as the list has them; of alternatives the first that it has.
closure() {
    local list=$1
    shift
    awk -v roots="$*" '
        function note() {
            if (name == "" || name in file) return
            file[name] = path; sum[name] = hash; needs[name] = depends
            count = split(provides, parts, / *, */)
            for (i = 1; i <= count; i++) {
                sub(/[ (].*/, "", parts[i])
                if (!(parts[i] in provider)) provider[parts[i]] = name
            }
        }
        /^$/ { note(); name = path = hash = depends = provides = "" }
        /^Package: / { name = $2 }
        /^Filename: / { path = $2 }
        /^SHA256: / { hash = $2 }
        /^(Pre-)?Depends: / { sub(/^[^:]*: /, ""); depends = depends (depends == "" ? "" : ", ") $0 }
        /^Provides: / { sub(/^[^:]*: /, ""); provides = $0 }
        END {
            note()
            last = split(roots, queue, " ")
            for (at = 1; at <= last; at++) {
                name = queue[at]
                if (!(name in file)) name = provider[name]
                if (name == "" || name in taken) continue
                taken[name] = 1
                print name, file[name], sum[name]
                many = split(needs[name], wants, / *, */)
                for (i = 1; i <= many; i++) {
                    options = split(wants[i], either, / *[|] */)
                    for (j = 1; j <= options; j++) {
                        sub(/[ (:].*/, "", either[j])
                        if (either[j] in file || either[j] in provider) {
                            queue[++last] = either[j]
                            break
                        }
                    }
                }
            }
        }' "$list"
}

# unpack MIRROR LIST NAME PACKAGE...: the packages and what they need into FOLDER/NAME.
unpack() {
    local from=$1 list=$2 name=$3 package path sum
    shift 3
    local target=$folder/$name debs=$folder/debs
    rm -rf "$target.part"
    mkdir -p "$target.part" "$debs"
    # Since /lib is /usr/lib, packages that still say /lib go where the others are.
    mkdir -p "$target.part/usr/lib" "$target.part/usr/lib64"
    ln -s usr/lib usr/lib64 "$target.part/"
    closure "$list" "$@" > "$target.part/packages.txt"
    [ -s "$target.part/packages.txt" ] || die "no package named $* in $list"
    while read -r package path sum; do
        download "$from/$path" "$debs/${path##*/}" "$sum"
        dpkg-deb --fsys-tarfile "$debs/${path##*/}" | tar -x -C "$target.part" --no-same-owner --keep-directory-symlink
    done < "$target.part/packages.txt"
}

# done_with NAME: what was unpacked is whole now.
done_with() {
    rm -rf "${folder:?}/$1"
    mv "$folder/$1.part" "$folder/$1"
    rm -rf "$folder/debs" "$folder/lists"
}

# icd NAME LIBRARY: a driver description that names the library by its full path.
icd() {
    local version
    version=$(sed -n 's/.*"api_version": *"\([^"]*\)".*/\1/p' "$(find "$folder/$1.part" -name '*icd*.json' | grep -E 'lvp|swift' | head -n 1)")
    cat > "$folder/$1.part/icd.json" << JSON
{"file_format_version": "1.0.0", "ICD": {"library_path": "$folder/$1/$2", "api_version": "${version:-1.1.0}"}}
JSON
}

swiftshader() {
    local list
    list=$(package_list "$security" bookworm-security)
    # Chromium itself needs half a desktop; the driver in chromium-common needs libc alone.
    awk 'BEGIN { RS = ""; ORS = "\n\n" } /^Package: chromium-common\n/' "$list" |
        sed '/^\(Pre-\)\?Depends:/d' > "$list.chromium"
    unpack "$security" "$list.chromium" swiftshader chromium-common
    local part=$folder/swiftshader.part
    mv "$part/usr/lib/chromium/libvk_swiftshader.so" "$part/usr/lib/chromium/vk_swiftshader_icd.json" "$part/"
    rm -r "$part/usr" "$part/lib" "$part/lib64" "$part/etc" 2> /dev/null || true
    icd swiftshader libvk_swiftshader.so
    done_with swiftshader
}

lavapipe-25() {
    grep -q bookworm /etc/os-release 2> /dev/null ||
        die "lavapipe-25 uses the libraries of Debian 12, which this is not; lavapipe-sid brings its own"
    local list
    list=$(package_list "$mirror" bookworm-backports)
    # Only what backports has newer; LLVM and the rest are Debian 12's own.
    unpack "$mirror" "$list" lavapipe-25 mesa-vulkan-drivers
    icd lavapipe-25 usr/lib/x86_64-linux-gnu/libvulkan_lvp.so
    done_with lavapipe-25
}

lavapipe-sid() {
    local list
    list=$(package_list "$mirror" sid)
    unpack "$mirror" "$list" lavapipe-sid mesa-vulkan-drivers libvulkan1 libgcc-s1 \
        vulkan-validationlayers glslang-tools spirv-tools vulkan-tools
    icd lavapipe-sid usr/lib/x86_64-linux-gnu/libvulkan_lvp.so
    rm -rf "$folder/lavapipe-sid.part/usr/share/doc" "$folder/lavapipe-sid.part/usr/share/locale"
    done_with lavapipe-sid
}

# AMD's own library as Debian 12 has it, without a device: what a machine with ROCm and no GPU
# has.
amdhip() {
    grep -q bookworm /etc/os-release 2> /dev/null ||
        die "amdhip uses the libraries of Debian 12, which this is not"
    local list
    list=$(package_list "$mirror" bookworm)
    # The rest is on every machine, or came with Mesa.
    sed '/^\(Pre-\)\?Depends:/d' "$list" > "$list.alone"
    unpack "$mirror" "$list.alone" amdhip libamdhip64-5 libhsa-runtime64-1 libhsakmt1 \
        libamd-comgr2 libnuma1 libelf1 libdrm-amdgpu1 libdrm2
    done_with amdhip
}

# Tools that cargo finds on the PATH and that would take minutes to compile. They start the
# machine's own cargo and rustc, so each is started by its own loader alone.
cargo-tools() {
    local list tool
    list=$(package_list "$mirror" sid)
    # Debian's own cargo is not needed.
    sed '/^Package: cargo-cyclonedx$/,/^$/s/, cargo$//' "$list" > "$list.tools"
    unpack "$mirror" "$list.tools" cargo-tools cargo-c cargo-cyclonedx libgcc-s1
    mkdir "$folder/cargo-tools.part/bin"
    for tool in cargo-cinstall cargo-cyclonedx; do
        cat > "$folder/cargo-tools.part/bin/$tool" << TOOL
#!/bin/sh
root=$folder/cargo-tools
exec "\$root/usr/lib64/ld-linux-x86-64.so.2" --argv0 $tool \\
    --library-path "\$root/usr/lib/x86_64-linux-gnu" "\$root/usr/bin/$tool" "\$@"
TOOL
        chmod +x "$folder/cargo-tools.part/bin/$tool"
    done
    rm -rf "$folder/cargo-tools.part/usr/share"
    done_with cargo-tools
}

# A program built here runs on the newer libc if that libc's own loader starts it. Programs
# it starts in turn would not: they find the way in HADAL_RUNNER.
runner() {
    cat > "$folder/run-with-lavapipe-sid" << 'RUNNER'
#!/bin/sh
# Starts a program on the libraries and the driver of Debian sid.
here=$(dirname "$(readlink -f "$0")")
root=$here/lavapipe-sid
export VK_ICD_FILENAMES="$root/icd.json" VK_LAYER_PATH="$root/usr/share/vulkan/explicit_layer.d"
export NODEVICE_SELECT=1 HADAL_RUNNER="$here/run-with-lavapipe-sid"
program=$(command -v "$1") || { echo "$0: no program named $1" >&2; exit 127; }
shift
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --argv0 "$program" \
    --library-path "$root/usr/lib/x86_64-linux-gnu" "$program" "$@"
RUNNER
    chmod +x "$folder/run-with-lavapipe-sid"
}

usage() {
    case $1 in
    swiftshader) echo "VK_ICD_FILENAMES=$folder/swiftshader/icd.json" ;;
    lavapipe-25)
        echo "VK_ICD_FILENAMES=$folder/lavapipe-25/icd.json LD_LIBRARY_PATH=$folder/lavapipe-25/usr/lib/x86_64-linux-gnu"
        ;;
    amdhip) echo "LD_LIBRARY_PATH=$folder/amdhip/usr/lib/x86_64-linux-gnu" ;;
    cargo-tools) echo "PATH=$folder/cargo-tools/bin:\$PATH" ;;
    lavapipe-sid) echo "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$folder/run-with-lavapipe-sid" ;;
    esac
}

for driver in "$@"; do
    case $driver in
    swiftshader | lavapipe-25 | lavapipe-sid | amdhip | cargo-tools) ;;
    *) die "nothing is named $driver: swiftshader, lavapipe-25, lavapipe-sid, amdhip, cargo-tools" ;;
    esac
    [ -f "$folder/$driver/packages.txt" ] || "$driver" >&2
    [ "$driver" != lavapipe-sid ] || runner
    printf '%s: %s\n' "$driver" "$(usage "$driver")"
done
