# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# With --help a script that begins by this one prints what stands at its head, and does
# nothing.

case ${1-} in
-h | --help)
	sed -n '4,$ { /^#/!q; s/^# \{0,1\}//p }' "$0"
	exit 0
	;;
esac
