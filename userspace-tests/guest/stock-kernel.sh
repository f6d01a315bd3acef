#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# An image attached, written, read and detached, on a stock kernel of Debian's: run by
# scripts/guest --kernel KERNEL. Prints TAP; exits with 1 when something failed. It starts
# few processes, each of which takes its time where the CPU is emulated.
set -u
directory=/dev/shm/stock-kernel
image=$directory/image.qcow2
count=0 failed=0

# check NAME STATUS
check() {
	count=$((count + 1))
	if [ "$2" -eq 0 ]; then
		echo "ok $count $1"
	else
		failed=$((failed + 1))
		echo "not ok $count $1"
	fi
}

# A RAM disk's file system: tmpfs only pretends to do direct I/O.
make_place() {
	mkdir "$directory" && modprobe brd rd_nr=1 rd_size=131072 &&
		mkfs.ext4 -q -F /dev/ram0 && mount /dev/ram0 "$directory"
}

# Text that is compressed, beneath an image that is written.
make_images() {
	seq 600000 | head -c 2M >"$directory/text" &&
		qemu-img convert -c -f raw -O qcow2 "$directory/text" "$directory/base.qcow2" &&
		qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 "$image" 16M &&
		head -c 3M /dev/urandom >"$directory/data"
}

# same DEVICE: the base's start, then what was written at 1 MiB, and zeroes.
same() {
	cmp -n 1048576 "$1" "$directory/text" &&
		cmp -i 1048576:0 -n 3145728 "$1" "$directory/data" &&
		cmp -i 4194304:0 -n 4194304 "$1" /dev/zero
}

case $(uname -r) in
[67].*deb*-amd64 | 6.1.0-*-amd64) true ;;
*) false ;;
esac
check "the kernel is Debian's" $?
[ -d /sys/module/qcow2 ]
check "the module is loaded" $?
make_place && make_images
check "images" $?
device=$(qcowctl attach --direct-io "$image") && [ -b "$device" ]
check "attach" $?
dd if="$directory/data" of="$device" bs=64k seek=16 oflag=direct conv=fsync status=none
check "write" $?
echo 3 >/proc/sys/vm/drop_caches
same "$device"
check "it reads as written, over what is compressed below" $?
qcowctl detach "$device"
check "detach" $?
qemu-img check -q -f qcow2 "$image"
check "qemu-img check finds nothing wrong" $?
qemu-img convert -f qcow2 -O raw "$image" "$directory/raw" && same "$directory/raw"
check "QEMU reads the same" $?
umount "$directory" && rmmod qcow2
check "the module can be unloaded" $?
echo "1..$count"
[ "$failed" -eq 0 ]
