#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# xfstests.sh DIR TEST…
#
# In a guest of scripts/check-suites: the tests (default: -g quick) on ext4 on loop and on the
# driver. Lines "RESULT DEVICE TEST".
set -u
# shellcheck source=userspace-tests/suites/devices.sh
. "$(dirname "$0")/devices.sh"
suite=$1
shift
[ $# -gt 0 ] || set -- -g quick
names='[a-z0-9]+/[0-9]+'

# Its last lines: "Ran: TEST…", "Not run: TEST…", "Failures: TEST…".
named() {
	sed -n "s/^$1: //p" "$2" | grep -oE "$names" | sort -u
}

results_of() {
	local file=$2

	named 'Not run' "$file" | sed "s@^@skipped $1 @"
	named Failures "$file" | sed "s@^@failed $1 @"
	comm -23 <(named Ran "$file") <(named '\(Not run\|Failures\)' "$file") |
		sed "s@^@passed $1 @"
}

make_place || exit 1
mkdir -p /mnt/test /mnt/scratch
for kind in loop qcow2; do
	test=$(attach "$kind" test 700M) && scratch=$(attach "$kind" scratch 700M) &&
		mkfs.ext4 -q -F "$test" || exit 1
	(cd "$suite" && FSTYP=ext4 TEST_DEV=$test TEST_DIR=/mnt/test SCRATCH_DEV=$scratch \
		SCRATCH_MNT=/mnt/scratch RESULT_BASE=/dev/shm/results-$kind \
		./check "$@") >"xfstests-$kind.out" 2>&1
	results_of "$kind" "xfstests-$kind.out"
	umount /mnt/test /mnt/scratch 2>/dev/null
	detach "$kind" test "$test" && detach "$kind" scratch "$scratch" || exit 1
done
