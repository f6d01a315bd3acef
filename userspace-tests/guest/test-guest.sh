#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# shellcheck disable=SC2016 # what is quoted is for the guest's shell
#
# What scripts/guest promises to the tests that use it. Prints TAP; exits with 1
# when something failed. No qcow2.ko is needed.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# A caller's descriptor that the guests must not read from.
exec </dev/null

count=0 failed=0

# check NAME STATUS: a line of TAP; what the guest said on stderr goes with a
# failure.
check() {
	count=$((count + 1))
	if [ "$2" -eq 0 ]; then
		echo "ok $count $1"
	else
		failed=$((failed + 1))
		echo "not ok $count $1"
		sed 's/^/# /' stderr
	fi
}

# guest ARGUMENT…: with stdout, stderr and $status to look at.
guest() {
	"$top/scripts/guest" --no-module --timeout 120 "$@" >stdout 2>stderr
	status=$?
}

guest_with_few_descriptors() {
	(
		ulimit -S -n 256
		guest "$@"
		exit "$status"
	)
	status=$?
}

is() {
	[ "$1" = "$2" ]
}

test_status() {
	local wanted

	for wanted in 0 1 77 124 255; do
		guest -- sh -c "exit $wanted"
		is "$status" "$wanted"
		check "exit status $wanted" $?
	done
	guest -- sh -c 'kill -TERM $$'
	is "$status" 143
	check "a signal is 128 and its number" $?
	guest -- /no/such/command
	is "$status" 127
	check "no such command" $?
}

test_arguments() {
	local arguments=('a b' "it's" '"' '' $'two\nlines' "\$HOME" '*' '\n' '-x' 'ü')

	guest -- printf '[%s]' "${arguments[@]}"
	is "$(cat stdout)" "$(printf '[%s]' "${arguments[@]}")"
	check "arguments arrive as they were" $?
	TEST_VARIABLE=$'a b\n"c" ' guest -- sh -c 'printf %s "$TEST_VARIABLE"'
	is "$(cat stdout)" $'a b\n"c" '
	check "the environment is passed" $?
	guest -- pwd
	is "$(cat stdout)" "$work"
	check "the directory is the caller's" $?
}

test_streams() {
	# All byte values, and more than any buffer on the way.
	head -c 3000000 /dev/urandom >bytes
	guest -- cat bytes
	cmp -s bytes stdout && [ ! -s stderr ]
	check "stdout is exact" $?
	guest -- sh -c 'cat bytes >&2'
	cmp -s bytes stderr && [ ! -s stdout ]
	check "stderr is exact, and apart" $?
	guest --stdin -- sh -c 'cat; cat' <bytes
	cmp -s bytes stdout
	check "--stdin is exact" $?
	guest -- cat
	[ "$status" -eq 0 ] && [ ! -s stdout ]
	check "stdin is empty otherwise" $?
	guest -- sh -c 'test ! -t 1 && test ! -t 2'
	check "the command has no terminal" "$status"
	guest -- sh -c 'sleep 200 & exit 3'
	is "$status" 3
	check "a process left behind holds nothing up" $?
}

# What the kernel logs decides, and only that.
test_kernel_log() {
	local line

	for line in 'WARNING: CPU: 0 PID: 1 at test' 'BUG: KASAN: slab-use-after-free' \
		'INFO: task fio:1 blocked for more than 60 seconds.' \
		'UBSAN: shift-out-of-bounds in test' \
		'WARNING: possible circular locking dependency detected' \
		'kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)'; do
		guest -- sh -c "echo '$line' >/dev/kmsg"
		[ "$status" -eq 125 ] && grep -qF "$line" stderr
		check "fails for a log with: $line" $?
	done
	guest -- sh -c 'echo "[    1.000000] WARNING: mine"; echo "BUG: mine" >&2
		echo "the WARNING: of a test" >/dev/kmsg'
	is "$status" 0
	check "the command's output is not the kernel's" $?
	guest -- sh -c 'echo c >/proc/sysrq-trigger; sleep 100'
	[ "$status" -eq 125 ] && grep -q 'Kernel panic' stderr
	check "a panic ends it, with the log" $?
	guest --log kernel.log -- sh -c 'echo kept-for-later >/dev/kmsg'
	[ "$status" -eq 0 ] && grep -q 'kept-for-later' kernel.log &&
		grep -q 'Linux version' kernel.log
	check "--log keeps the whole log" $?
}

test_ends() {
	local guest_pid

	guest --timeout 5 -- sh -c 'echo before; echo in-the-log >/dev/kmsg; sleep 100'
	[ "$status" -eq 124 ] && grep -q 'in-the-log' stderr && is "$(cat stdout)" before
	check "a timeout is 124, with the log's end and the output so far" $?

	"$top/scripts/guest" --no-module -- sh -c 'touch started; sync; sleep 100' \
		>stdout 2>stderr &
	guest_pid=$!
	for _ in $(seq 50); do
		[ ! -e started ] || break
		sleep 0.2
	done
	pgrep -P "$guest_pid" >children
	kill -TERM "$guest_pid"
	wait "$guest_pid"
	status=$?
	[ "$status" -eq 143 ] && [ -s children ] && ! ps -p "$(paste -sd, children)" >/dev/null
	check "a signal to it ends the guest" $?
}

test_tree() {
	guest -- sh -c 'echo x >/etc/qcow2-guest-test && cat /etc/qcow2-guest-test &&
		rm /etc/hostname && echo x >/tmp/qcow2-guest-test'
	[ "$status" -eq 0 ] && [ ! -e /etc/qcow2-guest-test ] && [ -e /etc/hostname ] &&
		[ ! -e /tmp/qcow2-guest-test ]
	check "the host's tree is there, and stays as it is" $?
	echo from the host >shared
	guest -- sh -c 'cat shared && mkdir dir && echo from the guest >dir/file'
	[ "$status" -eq 0 ] && is "$(cat stdout)" 'from the host' &&
		is "$(cat dir/file)" 'from the guest'
	check "the start directory is shared" $?
	guest -- sh -c 'for dir in /run /dev/shm; do
			test "$(stat -f -c %T "$dir")" = tmpfs || exit 1
		done
		test -d /sys/kernel/debug/block && test -c /dev/null && test -w /proc/sysrq-trigger'
	check "/run, /dev, /proc, /sys are the guest's" "$status"
}

test_machine() {
	guest --cpus 2 --mem 1G -- sh -c 'nproc; awk "/MemTotal/ { print \$2 }" /proc/meminfo'
	is "$(head -n 1 stdout)" 2
	check "--cpus" $?
	[ "$(tail -n 1 stdout)" -gt 900000 ] && [ "$(tail -n 1 stdout)" -le 1048576 ]
	check "--mem" $?
	# Each file that the guest knows is open on the machine too.
	guest_with_few_descriptors -- \
		sh -c 'find /usr/share -type f 2>/dev/null | head -n 1000 | xargs cat >/dev/null && ls /'
	check "the caller's limit of open files is raised" "$status"
	guest --kernel nonsense -- true
	[ "$status" -eq 2 ] && grep -q 'there are uml' stderr
	check "an unknown kernel is refused with those there are" $?
}

test_modules() {
	local module

	for module in loop nbd brd null_blk dm-snapshot dm-thin-pool dm-log-writes \
		dm-flakey ext4 xfs xts zstd_compress zlib_deflate; do
		echo "modprobe $module || exit 1"
	done >load
	guest -- sh ./load
	check "modprobe finds the kernel's modules" "$status"
	guest -- sh -c 'modprobe loop && modprobe null_blk && test -b /dev/nullb0 &&
		truncate -s 64M /tmp/image && mkfs.ext4 -q /tmp/image &&
		mount -o loop /tmp/image /mnt && cp "$0" /mnt && cmp "$0" "/mnt/$(basename "$0")"' \
		"$top/scripts/guest"
	check "a file system on loop" "$status"
}

test_status
test_arguments
test_streams
test_kernel_log
test_ends
test_tree
test_machine
test_modules
echo "1..$count"
[ "$failed" -eq 0 ]
