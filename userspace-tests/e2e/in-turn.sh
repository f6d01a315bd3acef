#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# in-turn.sh SECONDS NAME…
#
# Run scenarios one after the other in one guest, where booting takes longer than most of
# them (scripts/check-e2e --kernel). Each has a kernel log of its own, and as long as
# it passes and all that it leaves can be removed, the next one has a guest as good as
# new. Lines tell scripts/check-e2e where one begins and how it ended:
#
#	# begin NAME
#	# end NAME STATUS
#
# After one that failed, or left something that stays, no other one is run.
set -u
seconds=$1
shift
here=$(dirname "$0")

# What scenarios make by other means than qcowctl, and their modules with parameters.
remove_leftovers() {
	for mount in $(awk '$1 ~ "^/dev/(ram|loop|nullb|mapper|dm-|qcow)" { print $2 }' \
		/proc/mounts | sort -r); do
		umount "$mount" || return
	done
	if [ -e /dev/mapper/control ]; then
		dmsetup remove_all || return
	fi
	losetup -D || return
	for module in brd null_blk scsi_debug; do
		if [ -d "/sys/module/$module" ] && ! rmmod "$module"; then
			# Configured ones hold it.
			return 1
		fi
	done
	rm -rf /dev/shm/*
	[ -z "$(ls -d /sys/block/qcow* 2>/dev/null)" ]
}

for name; do
	echo "# begin $name"
	dmesg --clear
	echo "e2e: $name" >/dev/kmsg
	timeout "$seconds" "$here/$name.py"
	status=$?
	echo "# end $name $status"
	[ "$status" -eq 0 ] && remove_leftovers || exit 0
done
