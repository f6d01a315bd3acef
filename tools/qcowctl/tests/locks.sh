# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2154
#
# Part of test-qcowctl.sh: QEMU's image locks, against real qemu-img, qemu-io and
# qemu-nbd. With FAKE_HOLD=1 the fake kernel keeps the files of a device, and with
# them the locks, until it is detached.

## QEMU's processes

# with_process WORDS... -- COMMAND...: while a program runs that has answered to
# "read 0 512", and ends when told to quit
with_process()
{
	local words=() i

	while [[ $1 != -- ]]; do
		words+=("$1")
		shift
	done
	shift
	# What the one before has answered counts for nothing.
	rm -f commands process.out
	mkfifo commands
	exec 7<>commands
	"${words[@]}" <&7 >process.out 2>&1 &
	holder=$!
	echo "read 0 512" >&7
	for ((i = 0; i < 500; i++)); do
		grep -qs "read 512" process.out && break
		sleep 0.02
	done
	((i < 500)) || bail_out "${words[*]}: $(cat process.out)"
	"$@"
	echo quit >&7
	wait "$holder"
	holder=
	exec 7>&-
}

# with_writer IMAGE COMMAND...: while qemu-io has the image open for writing
with_writer()
{
	with_process qemu-io -f qcow2 "$1" -- "${@:2}"
}

with_reader()
{
	with_process qemu-io -r -f qcow2 "$1" -- "${@:2}"
}

# with_lock BYTE IMAGE COMMAND...: while only that byte is locked
with_lock()
{
	with_process python3 -c '
import fcntl, os, struct, sys
file = open(sys.argv[2], "rb")
fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET,
                                  int(sys.argv[1]), 1, 0))
input()
print("read 512", flush=True)
input()' "$1" "$2" -- "${@:3}"
}

# with_server IMAGE OPTIONS COMMAND...: while qemu-nbd serves it; OPTIONS is a word
with_server()
{
	local image=$1 mode=$2 i

	shift 2
	rm -f socket
	# shellcheck disable=SC2086
	qemu-nbd $mode -f qcow2 -t -k "$tmp/socket" "$image" 2>nbd.err &
	holder=$!
	for ((i = 0; i < 500; i++)); do
		[[ -S socket ]] && break
		sleep 0.02
	done
	# The socket is there before the image is open.
	qemu-img info "nbd+unix:///?socket=$tmp/socket" >/dev/null 2>>nbd.err ||
		i=500
	((i < 500)) || bail_out "qemu-nbd does not open $image: $(cat nbd.err)"
	"$@"
	kill "$holder"
	wait "$holder" 2>/dev/null
	holder=
}

# In rows within with_writer and its like: the number of the process.
busy_with()
{
	local name=$1 text=$2

	shift 2
	fails "$name" 6 "${text//HOLDER/$holder}" "$@"
}

# qemu_refused NAME LOCK COMMAND...: QEMU's own words about the lock
qemu_refused()
{
	local name=$1 lock=$2 verdict=ok

	shift 2
	run "$@"
	if [[ $rc == 0 ]] || ! grep -q "Failed to get $lock lock" out err; then
		explain "a refusal of QEMU" "$lock" "$rc: $(cat out err)"
		verdict=bad
	fi
	result $verdict "$name"
}

# qemu_works NAME COMMAND...
qemu_works()
{
	local name=$1 verdict=ok

	shift
	run "$@"
	if [[ $rc != 0 ]]; then
		explain "exit code" 0 "$rc: $(cat out err)"
		verdict=bad
	fi
	result $verdict "$name"
}

attach_held()
{
	run with FAKE_HOLD=1 "$fake" attach "$@"
	[[ $rc == 0 ]] || bail_out "attach $*: $(cat err)"
}

detach_held()
{
	run "$fake" detach "$1"
	[[ $rc == 0 ]] || bail_out "detach $1: $(cat err)"
}

lock_images()
{
	fresh_machine
	rm -rf locks
	mkdir locks
	truncate -s 1M locks/base.raw
	qemu_create locks/image 1M
	qemu_create -F raw -b base.raw locks/mid 1M
	qemu_create -F qcow2 -b mid locks/one 1M
	qemu_create -F qcow2 -b mid locks/two 1M
	qemu_create -o data_file="$tmp/locks/data" locks/external 1M
}

## Attached images, and QEMU that wants them

test_lock_attached()
{
	local image=locks/image

	lock_images
	attach_held $image
	qemu_refused "attached: qemu-img resize" '"write"' \
		qemu-img resize -f qcow2 $image 2M
	qemu_refused "attached: qemu-io that writes" '"write"' \
		qemu-io -f qcow2 -c "write 0 4k" $image
	qemu_refused "attached: qemu-io that reads" 'shared "write"' \
		qemu-io -r -f qcow2 -c "read 0 4k" $image
	qemu_refused "attached: qemu-img info" 'shared "write"' \
		qemu-img info $image
	qemu_refused "attached: qemu-img check" 'shared "write"' \
		qemu-img check $image
	qemu_refused "attached: qemu-img snapshot -c" '"write"' \
		qemu-img snapshot -c new $image
	qemu_refused "attached: qemu-nbd" '"write"' \
		qemu-nbd -f qcow2 -k "$tmp/socket" $image
	qemu_works "attached: qemu-img info -U" qemu-img info -U $image
	fails "attached: attached once more" 6 \
		"$image: is attached already, as /dev/qcow0" \
		"$fake" attach $image
	fails "attached: attached once more by another name" 6 \
		"./$image: is attached already, as /dev/qcow0" \
		"$fake" attach ./$image
	fails "attached: attached once more, read-only" 6 \
		"$image: is attached already, as /dev/qcow0" \
		"$fake" attach -r $image
	qemu_create -F qcow2 -b image -u locks/over 1M
	fails "attached: as a backing file" 6 \
		"locks/over: its backing file 'image': is attached already, as /dev/qcow0" \
		"$fake" attach locks/over
	detach_held qcow0
	qemu_works "detached: qemu-img resize" \
		qemu-img resize -f qcow2 $image 2M
	qemu_works "detached: qemu-io that writes" \
		qemu-io -f qcow2 -c "write 0 4k" $image
}

test_lock_read_only()
{
	local image=locks/image

	lock_images
	attach_held -r $image
	qemu_refused "read-only: qemu-img resize" '"write"' \
		qemu-img resize -f qcow2 $image 2M
	qemu_works "read-only: qemu-io that reads" \
		qemu-io -r -f qcow2 -c "read 0 4k" $image
	qemu_works "read-only: qemu-img check" qemu-img check $image
	attach_held -r $image
	is "read-only: attached once more" attached 1
	fails "read-only: attached for writing" 6 \
		"$image: is attached already, as /dev/qcow0" \
		"$fake" attach $image
	detach_held qcow0
	qemu_refused "read-only: one of two is left" '"write"' \
		qemu-io -f qcow2 -c "write 0 4k" $image
	detach_held qcow1
	qemu_works "read-only: none is left" \
		qemu-io -f qcow2 -c "write 0 4k" $image
}

test_lock_backing()
{
	lock_images
	qemu_create -o data_file="$tmp/locks/base.raw" locks/wrong 1M
	attach_held locks/one
	qemu_refused "backing file: qemu-img resize" '"write"' \
		qemu-img resize -f qcow2 locks/mid 2M
	qemu_refused "backing file: qemu-io that writes to the lowest" '"write"' \
		qemu-io -f raw -c "write 0 4k" locks/base.raw
	qemu_refused "backing file: qemu-img commit into it" '"write"' \
		qemu-img commit -q locks/two
	qemu_works "backing file: qemu-img info" qemu-img info locks/mid
	qemu_works "backing file: QEMU with another overlay" \
		qemu-io -f qcow2 -c "write 0 4k" locks/two
	attach_held locks/two
	attach_held -r locks/mid
	is "backing file: shared with other overlays, and by itself" attached 2
	run "$fake" attach locks/mid
	is "backing file: not for writing" [ "$rc" = 6 ]
	detach_held qcow2
	run "$fake" attach locks/mid
	is "backing file: not for writing while it is only that" [ "$rc" = 6 ]
	verify "backing file: says whose" 6 "" \
		"qcowctl: locks/mid: is in use by /dev/qcow0, as a backing file (it does not share 'write'); attach it with --read-only, or end that use first$nl"
	detach_held qcow0
	fails "backing file: says who is left" 6 \
		"locks/mid: is in use by /dev/qcow1, as a backing file (it does not share 'write'); attach it with --read-only, or end that use first" \
		"$fake" attach locks/mid
	ln locks/mid locks/hard
	fails "backing file: by another name" 6 \
		"locks/hard: is in use by /dev/qcow1, as a backing file (it does not share 'write'); attach it with --read-only, or end that use first" \
		"$fake" attach locks/hard
	rm locks/hard
	fails "backing file: as a data file, the lowest of the chain" 6 \
		"locks/wrong: its data file '$tmp/locks/base.raw': is in use by /dev/qcow1, as a backing file (it does not share 'write'); attach it with --read-only, or end that use first" \
		"$fake" attach locks/wrong
	rm "$FAKE_ROOT/sys/block/qcow1/qcow2/chain"
	run "$fake" attach locks/mid
	is "backing file: of a driver that lists no chain" \
		grep -q "^qcowctl: locks/mid: is in use by [^/]* (it does not share 'write'); attach it with --read-only, or end that use first$" err
	detach_held qcow1
	attach_held locks/mid
	is "backing file: for writing when all are gone" attached 0
	detach_held qcow0
}

test_lock_data_file()
{
	lock_images
	attach_held locks/external
	qemu_refused "data file: qemu-io that writes" '"write"' \
		qemu-io -f raw -c "write 0 4k" locks/data
	qemu_refused "data file: qemu-img resize" '"write"' \
		qemu-img resize -f raw locks/data 2M
	detach_held qcow0
	attach_held -r locks/external
	qemu_refused "data file, read-only: qemu-io that writes" '"write"' \
		qemu-io -f raw -c "write 0 4k" locks/data
	qemu_works "data file, read-only: qemu-io that reads" \
		qemu-io -r -f qcow2 -c "read 0 4k" locks/external
	detach_held qcow0
	cp locks/external locks/same-data
	attach_held locks/external
	run "$fake" attach locks/same-data
	is "data file: not for two images" [ "$rc" = 6 ]
	verify "data file: says which, and whose" 6 "" \
		"qcowctl: locks/same-data: its data file '$tmp/locks/data': is in use by /dev/qcow0, as a data file (it holds the lock for 'write'); end that use first$nl"
	detach_held qcow0
	# Names in which the kernel escapes something.
	mv locks/base.raw $'locks/a b\\040\n'
	qemu_create -F raw -b $'a b\\040\n' locks/strange 1M
	qemu_create -o data_file=$'locks/a b\\040\n' locks/fourth 1M
	attach_held locks/strange
	run "$fake" attach locks/fourth
	is "backing file: of a strange name" \
		grep -q "is in use by /dev/qcow0, as a backing file (it does not share 'write'); attach it with --read-only, or end that use first$" err
	detach_held qcow0
}

## QEMU's images, and who wants to attach them

while_written()
{
	local by=$1 who="$1, process HOLDER (it holds the lock for 'write'); end that use first"

	busy_with "$by writes: attach" "locks/image: is in use by $who" \
		"$fake" attach locks/image
	busy_with "$by writes: attach -r" "locks/image: is in use by $who" \
		"$fake" attach -r locks/image
	busy_with "$by writes: attach --snapshot" \
		"locks/image: is in use by $who" \
		"$fake" attach --snapshot s locks/image
	busy_with "$by writes: as a backing file" \
		"locks/over: its backing file 'image': is in use by $who" \
		"$fake" attach locks/over
	is "$by writes: nothing is attached" nothing_attached
}

while_read()
{
	local by=$1

	busy_with "$by reads: attach" \
		"locks/image: is in use by $by, process HOLDER (it does not share 'write'); attach it with --read-only, or end that use first" \
		"$fake" attach locks/image
	attach_held -r locks/image
	attach_held --snapshot s locks/image
	attach_held locks/over
	is "$by reads: read-only, a snapshot, and as a backing file" attached 2
	detach_held qcow0
	busy_with "$by reads, as well as a device of a snapshot: attach" \
		"locks/image: is attached already, as /dev/qcow1" \
		"$fake" attach locks/image
	detach_held qcow1
	detach_held qcow2
}

# One permission is not shared, and no device of ours is the reason.
while_locked()
{
	busy_with "$1 is not shared: attach" \
		"locks/image: is in use by python3, process HOLDER (it does not share '$1'); attach it with --read-only, or end that use first" \
		"$fake" attach locks/image
	attach_held -r locks/image
	is "$1 is not shared: attach -r" attached 0
	detach_held qcow0
}

# The process with the higher number has the lock, and is named.
while_waited_for()
{
	: >started
	cp answer err
	wait "$1"
	rc=$?
	: >out
	is "a holder that is younger: is younger" [ "$holder" -gt "$1" ]
	verify "a holder that is younger" 6 "" \
		"qcowctl: locks/image: is in use by qemu-io, process $holder (it holds the lock for 'write'); end that use first$nl"
}

test_lock_foreign()
{
	lock_images
	qemu_create -F qcow2 -b image locks/over 1M
	with_writer locks/image while_written qemu-io
	with_reader locks/image while_read qemu-io
	with_server locks/image "" while_written qemu-nbd
	with_server locks/image "-r" while_read qemu-nbd
	with_server locks/image "--snapshot" while_read qemu-nbd
	with_lock 203 locks/image while_locked "resize"
	with_lock 201 locks/image while_locked "write"
	rm -f started
	mkfifo answer
	"$BASH" -c 'until [[ -e started ]]; do sleep 0.02; done; exec "$@"' bash \
		"$fake" attach locks/image 2>answer &
	with_writer locks/image while_waited_for $!
	fresh_machine
	attach_held locks/image
	is "nobody uses it any more: attach" attached 0
	detach_held qcow0
}

## Snapshots

test_lock_snapshot()
{
	local image=locks/image

	lock_images
	qemu_create -F qcow2 -b image locks/over 1M
	attach_held $image
	attach_held --snapshot s $image
	is "snapshot: while the image is attached for writing" attached 1
	attach_held --snapshot t $image
	is "snapshot: another one as well" attached 2
	detach_held qcow0
	qemu_refused "snapshot: qemu-io that writes" '"resize"' \
		qemu-io -f qcow2 -c "write 0 4k" $image
	qemu_refused "snapshot: qemu-img snapshot -d" '"resize"' \
		qemu-img snapshot -d s $image
	qemu_refused "snapshot: qemu-img resize" '"resize"' \
		qemu-img resize -f qcow2 $image 2M
	qemu_works "snapshot: qemu-io that reads" \
		qemu-io -r -f qcow2 -c "read 0 4k" $image
	attach_held $image
	is "snapshot: the image for writing, afterwards" attached 0
	qemu_refused "snapshot and image: qemu-io that reads" 'shared "write"' \
		qemu-io -r -f qcow2 -c "read 0 4k" $image
	fails "snapshot and image: the image once more" 6 \
		"$image: is attached already, as /dev/qcow0" \
		"$fake" attach $image
	detach_held qcow0
	attach_held -r $image
	fails "snapshot and the image read-only: for writing" 6 \
		"$image: is attached already, as /dev/qcow0" \
		"$fake" attach $image
	detach_held qcow0
	attach_held locks/over
	run "$fake" attach $image
	is "snapshot and backing file: not for writing" [ "$rc" = 6 ]
	detach_held qcow0
	detach_held qcow1
	detach_held qcow2
	qemu_works "no snapshot any more: qemu-io that writes" \
		qemu-io -f qcow2 -c "write 0 4k" $image
}

test_snapshot()
{
	local long

	: >image
	is "--snapshot is read-only" attach_sees \
		"flags=1 mode=ro cache=0 snapshot=before" --snapshot before
	is "--snapshot= with -r" attach_sees \
		"flags=1 mode=ro cache=0 snapshot=a b=c" -r --snapshot="a b=c"
	is "the last --snapshot counts" attach_sees \
		"flags=3 mode=ro cache=1048576 snapshot=2" --snapshot 1 \
		--direct-io --snapshot 2 --cache-size=1M
	long=$(printf 's%.0s' {1..1023})
	is "--snapshot of 1023 bytes" attach_sees \
		"flags=1 mode=ro cache=0 snapshot=$long" --snapshot "$long"
	fresh_machine
	fails "--snapshot of 1024 bytes" 2 \
		"attach: --snapshot is the ID or the name of a snapshot, of 1 to 1023 bytes; see 'qcowctl attach --help'" \
		"$fake" attach --snapshot "s$long" image
	fails "--snapshot of nothing" 2 \
		"attach: --snapshot is the ID or the name of a snapshot, of 1 to 1023 bytes; see 'qcowctl attach --help'" \
		"$fake" attach --snapshot= image
	fails "--snapshot without a value" 2 \
		"attach: option '--snapshot' needs an argument; see 'qcowctl attach --help'" \
		"$fake" attach image --snapshot
	fails "no such snapshot, kernel silent" 1 \
		"image: has no snapshot 'x\\ny'; see 'qemu-img snapshot -l'" \
		with FAKE_ERRNO_ATTACH=2 "$fake" attach --snapshot $'x\ny' image
	fails "no such snapshot, reason of the kernel" 1 \
		"image: no snapshot x" \
		with FAKE_ERRNO_ATTACH=2 FAKE_REASON="no snapshot x" \
		"$fake" attach --snapshot x image
	fails "a kernel that does not know snapshots" 8 \
		"image: the loaded qcow2 module does not know --snapshot; leave it out, or load the module that belongs to this qcowctl" \
		with FAKE_NO_SNAPSHOT=1 "$fake" attach --snapshot x image
	fails "a kernel that knows neither snapshots nor the size of the cache" 8 \
		"image: the loaded qcow2 module does not know --cache-size or --snapshot; leave it out, or load the module that belongs to this qcowctl" \
		with FAKE_NO_SNAPSHOT=1 FAKE_NO_CACHE_SIZE=1 \
		"$fake" attach --snapshot x --cache-size=1M image
	is "and nothing is attached" nothing_attached
}

## Locks that cannot be had

test_lock_errors()
{
	local row

	: >image
	for row in ENOLCK=37 EOPNOTSUPP=95 ENOSYS=38 EINVAL=22; do
		fresh_machine
		succeeds "a file system without locks, ${row%=*}" \
			"/dev/qcow0$nl" \
			with FAKE_ERRNO_LOCK="${row#*=}" "$fake" attach image
	done
	fresh_machine
	for row in EAGAIN=11 EACCES=13; do
		fails "locks of a kind that QEMU has not, ${row%=*}" 6 \
			"image: is locked by another process" \
			with FAKE_ERRNO_LOCK="${row#*=}" "$fake" attach image
	done
	fails "locking fails" 1 \
		"image: cannot be locked: Input/output error" \
		with FAKE_ERRNO_LOCK=5 "$fake" attach image
	is "and nothing is attached" nothing_attached
	succeeds "locking is interrupted" "/dev/qcow0$nl" \
		with FAKE_LOCK_INTERRUPTED=3 "$fake" attach image
	lock_images
	run with FAKE_ERRNO_ATTACH=5 "$fake" attach locks/image
	qemu_works "a refused attach leaves no lock" \
		qemu-io -f qcow2 -c "write 0 4k" locks/image
}
