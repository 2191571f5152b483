# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For scripts that try what people do on fresh root file systems of Debian with a
# kernel and its headers. To be sourced at the top of the project, with root= set to
# that; it takes root to enter the file systems, which are below
# ~/.cache/dm-clone/install. What try() says counts for say_summary.
#
# for_each_root KIND COMMAND: run the command for each of $ROOTS, with
#
#   $name     which one it is
#   $dir      the directory for it, one of that kind
#   $log      where try() has output go

# shellcheck source=scripts/summary.sh
. scripts/summary.sh
# shellcheck source=scripts/apt-aside.sh
. scripts/apt-aside.sh

version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' dkms.conf)
arch=$(dpkg --print-architecture)
cache=$aside_cache/install
passed=0
failed=0

as_root()
{
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# inside COMMAND...: with $dir as the root directory, and its own name space: what is
# mounted there and what runs on end with it. The sh is to expand the arguments.
inside()
{
	# shellcheck disable=SC2016
	as_root unshare --mount --pid --fork env -i PATH="$PATH" HOME=/root LC_ALL=C \
		DEBIAN_FRONTEND=noninteractive INITRD=No \
		${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
		sh -c 'set -e
		       mount --rbind /dev "$0/dev"
		       mount -t proc proc "$0/proc"
		       exec chroot "$0" "$@"' "$dir" "$@" </dev/null
}

# install PACKAGE...: there; the suite's, if it is one of backports
install()
{
	inside apt-get -q -y --no-install-recommends -t "$name" install "$@"
}

# A release as debootstrap leaves it, made once. What it writes need not survive a
# power cut.
base()
{
	local base=$cache/base-$1
	[ ! -e "$base" ] || return 0
	as_root rm -rf "$base.new"
	as_root debootstrap --variant=minbase "$1" "$base.new" "$mirror" &&
		echo force-unsafe-io | as_root tee "$base.new/etc/dpkg/dpkg.cfg.d/dm-clone" &&
		as_root mv "$base.new" "$base"
}

# fresh_root PACKAGE...: a machine with a kernel, its headers, and these packages;
# without its boot loader
fresh_root()
{
	local release=${name%-backports} suites
	base "$release" || return
	as_root rm -rf "$dir"
	as_root cp -a "$cache/base-$release" "$dir"
	as_root cp /etc/resolv.conf "$dir/etc/resolv.conf"
	suites=$release
	[ "$name" = "$release" ] || suites="$release $name"
	for suite in $suites; do
		echo "deb $mirror $suite main"
	done | as_root tee "$dir/etc/apt/sources.list"
	inside apt-get -q update &&
		install "linux-image-$arch" "linux-headers-$arch" "$@"
}

# newest_release [EXCEPT]: which kernel there are headers for
newest_release()
{
	for build in "$dir"/lib/modules/*/build; do
		basename "$(dirname "$build")"
	done | grep -vxF "${1:-nothing}" | sort -V | tail -n 1
}

# A kernel later than $release, which is in $later then. One of another flavour is as good,
# and always there. Headers alone do not do: no depmod is run before a kernel comes.
install_later_kernel()
{
	install "linux-image-cloud-$arch" "linux-headers-cloud-$arch" &&
		later=$(newest_release "$release")
}

# finds RELEASE PATTERN: modprobe, there
finds()
{
	local found
	found=$(inside modinfo -k "$1" -n dm-clone) || return
	echo "$found"
	# A pattern it is.
	# shellcheck disable=SC2053
	[[ $found == $2 ]] && [ "$(inside modinfo -k "$1" -F version dm-clone)" = "$version" ] &&
		inside modprobe -S "$1" --show-depends dm-clone | grep -F "$found"
}

# machine COMMAND...: a command that starts a virtual machine does so with that kernel
machine()
{
	env KERNEL="$dir/boot/vmlinuz-$release" \
		MODULES="$(realpath "$dir/lib/modules/$release")" "$@"
}

# for_each_root KIND COMMAND
for_each_root()
{
	local roots
	read -ra roots <<<"${ROOTS-bookworm bookworm-backports trixie trixie-backports}"
	mkdir -p "$cache" "$root/build/install"
	mirror=$(aside_mirror)
	if [ -z "$mirror" ]; then
		echo "It is not known where Debian is: set DEBIAN_MIRROR" >&2
		exit 1
	fi
	for name in "${roots[@]}"; do
		dir=$cache/$1-$name
		log=$root/build/install/$1-$name.log
		: >"$log"
		"$2"
	done
}
