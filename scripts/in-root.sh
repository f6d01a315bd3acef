# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Commands in a root that scripts/kernel made.

# in_root ROOT COMMAND…: with that release's environment. Of the machine it sees /dev/null and
# /proc, which are mounted for it alone; who is not root becomes root there.
in_root() {
	local root=$1 user=
	shift

	[ "$(id -u)" -eq 0 ] || user=--map-root-user
	# shellcheck disable=SC2016 # for the inner shell
	env -i PATH="$PATH" LC_ALL=C.UTF-8 unshare $user --mount sh -c '
		mount --bind /dev/null "$0/dev/null" && mount --rbind /proc "$0/proc" &&
			PATH=/usr/sbin:/usr/bin exec chroot "$0" "$@"' "$root" "$@"
}
