#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# blktests.sh DIR TEST…
#
# In a guest of scripts/check-suites: the tests (default: those of block, dm and throtl that
# want a device) on loop and on the driver. Lines "RESULT DEVICE TEST".
set -u
# shellcheck source=userspace-tests/suites/devices.sh
. "$(dirname "$0")/devices.sh"
suite=$1
shift
results=/dev/shm/results
device_only=0
[ $# -gt 0 ] || {
	device_only=1
	set -- block dm throtl
}

# blktests says "block/001 (what it does)  [passed]", with the device in between.
results_of() {
	sed -nE 's@^([a-z]+/[0-9]+) .*\[(passed|failed|not run)\].*@\2 '"$1"' \1@p' "$2" |
		sed 's/^not run/skipped/'
}

make_place || exit 1
for kind in loop qcow2; do
	device=$(attach "$kind" disk 1G) || exit 1
	printf 'TEST_DEVS=(%s)\nDEVICE_ONLY=%s\nTIMEOUT=20\nQUICK_RUN=1\n' "$device" \
		"$device_only" >/dev/shm/config
	(cd "$suite" && ./check -c /dev/shm/config -o "$results-$kind" "$@") >"blktests-$kind.out" 2>&1
	results_of "$kind" "blktests-$kind.out"
	detach "$kind" disk "$device" || exit 1
done
