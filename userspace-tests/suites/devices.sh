# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For the scripts that run a public suite in a guest: devices of both kinds, with their files
# on ext4 on a RAM disk.

files=/mnt/suites

make_place() {
	modprobe loop && modprobe brd rd_nr=1 rd_size=2097152 && mkdir -p "$files" &&
		mkfs.ext4 -q -F -E nodiscard /dev/ram0 && mount /dev/ram0 "$files"
}

# attach loop|qcow2 NAME SIZE: prints the device.
attach() {
	case $1 in
	loop)
		truncate -s "$3" "$files/$2.raw" &&
			losetup --find --show --direct-io=on "$files/$2.raw"
		;;
	qcow2)
		qemu-img create -q -f qcow2 "$files/$2.qcow2" "$3" &&
			qcowctl attach --direct-io "$files/$2.qcow2"
		;;
	esac
}

# detach loop|qcow2 NAME DEVICE: what is left of an image must be sound.
detach() {
	case $1 in
	loop) losetup --detach "$3" && rm "$files/$2.raw" ;;
	qcow2)
		qcowctl detach "$3" && qemu-img check -q -f qcow2 "$files/$2.qcow2" &&
			rm "$files/$2.qcow2"
		;;
	esac
}
