# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For scripts that fetch Debian's packages to unpack them aside: apt with lists of
# its own, to which nothing is installed. To be sourced.

aside_cache=${XDG_CACHE_HOME:-$HOME/.cache}/dm-clone
aside_keys=/usr/share/keyrings/debian-archive-keyring.gpg

# Where this machine has Debian from; its lists tell, once there are any.
aside_mirror()
{
	if [ -n "${DEBIAN_MIRROR:-}" ]; then
		echo "$DEBIAN_MIRROR"
		return
	fi
	# apt is to expand that.
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' \
		'Component: main' | sed -n 1p
}

# aside COMMAND...: one of apt's, on those lists. Ten minutes are more than enough for
# each, also where a server sends a byte now and then.
aside()
{
	timeout --foreground -k 10 600 "$1" -q -o Dir::Etc::SourceList="$aside_dir/sources.list" \
		-o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o Dir::State="$aside_dir/state" -o Dir::State::status="$aside_dir/status" \
		-o Dir::Cache="$aside_dir/cache" -o APT::Architecture="$aside_arch" \
		-o APT::Architectures="$aside_arch,$(dpkg --print-architecture)" \
		-o APT::Install-Recommends=false -o APT::Sandbox::User= \
		-o Acquire::Retries=3 "${@:2}"
}

# aside_fetch COMMAND...: the same, for what comes over the network. apt tries again what
# fails, for seconds; a network that is down may take longer to come back. One that
# stays silent is given up after minutes.
aside_fetch()
{
	local try start=$SECONDS
	for try in 1 2 3; do
		! aside "$@" >&2 || return 0
		if [ "$try" -eq 3 ] || [ $((SECONDS - start)) -gt 240 ]; then
			break
		fi
		echo "Trying again in $((try * 15)) seconds" >&2
		sleep $((try * 15))
	done
	echo "Debian's packages cannot be fetched: see what apt says above" >&2
	return 1
}

# aside_open DIR ARCH SUITE: the lists are kept in DIR, and are those of today
aside_open()
{
	local arch mirror
	aside_dir=$1
	aside_arch=$2
	mirror=$(aside_mirror)
	if [ -z "$mirror" ]; then
		echo "No list of packages says where Debian is to be fetched from: set DEBIAN_MIRROR" >&2
		return 1
	fi
	mkdir -p "$aside_dir"/{state/lists/partial,cache/archives/partial}
	: >"$aside_dir/status"
	for arch in $(printf '%s\n' "$aside_arch" "$(dpkg --print-architecture)" | sort -u); do
		echo "deb [arch=$arch signed-by=$aside_keys] $mirror $3 main"
	done >"$aside_dir/sources.list"
	aside_fetch apt-get -o APT::Update::Error-Mode=any update
}

# aside_unpack DEST DEB...: what is unpacked is removed
aside_unpack()
{
	local deb
	for deb in "${@:2}"; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$1"
		rm "$deb"
	done
}
