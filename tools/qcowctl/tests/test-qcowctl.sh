#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Tests of qcowctl, in TAP.  No kernel module is needed: $fake is qcowctl linked
# with tests/fake-node.c, which plays the kernel and is stricter than it.
#
# Each row compares exit code, stdout and stderr with what they must be, to the
# last character.

set -u
export LC_ALL=C.UTF-8
# A report of a sanitizer must not look like an exit code of qcowctl.
export ASAN_OPTIONS=exitcode=99
export UBSAN_OPTIONS=exitcode=99

PLAN=548

here=$(cd "$(dirname "$0")" && pwd) || exit 1
tool_dir=$here/..
real=$tool_dir/qcowctl
fake=$here/qcowctl-fake
version=${QCOWCTL_VERSION:-0.1}

count=0
failed=0

bail_out()
{
	echo "Bail out! $*"
	exit 1
}

for command in qemu-img qemu-io qemu-nbd python3; do
	command -v $command >/dev/null ||
		bail_out "no $command; scripts/setup installs it"
done
make -s -C "$tool_dir" programs >&2 || bail_out "qcowctl does not build"

tmp=$(mktemp -d) || bail_out "no directory for temporary files"
# A process of QEMU that a test waits for.
holder=
trap 'rm -rf "$tmp"; [[ -z $holder ]] || kill "$holder"' EXIT
cd "$tmp" || bail_out "cannot enter $tmp"

export FAKE_ROOT=$tmp/root

## Rows

result()
{
	local verdict=$1 name=$2

	count=$((count + 1))
	if [[ $verdict == ok ]]; then
		echo "ok $count - $name"
	else
		echo "not ok $count - $name"
		failed=$((failed + 1))
	fi
}

# Run a command; leave its exit code in rc, its output in files out and err.
run()
{
	rc=0
	"$@" >"$tmp/out" 2>"$tmp/err" </dev/null || rc=$?
}

text_is()
{
	# An x at the end keeps the newlines there.
	[[ $(cat "$1"; echo x) == "$2x" ]]
}

explain()
{
	echo "# $1, wanted:"
	printf '%s' "$2" | sed 's/^/#   /'
	echo
	echo "# got:"
	printf '%s' "$3" | sed 's/^/#   /'
	echo
}

# verify NAME RC OUT ERR: judge what run() left
verify()
{
	local name=$1 want_rc=$2 want_out=$3 want_err=$4 verdict=ok

	if [[ $rc != "$want_rc" ]]; then
		explain "exit code" "$want_rc" "$rc"
		verdict=bad
	fi
	if ! text_is "$tmp/out" "$want_out"; then
		explain stdout "$want_out" "$(cat "$tmp/out")"
		verdict=bad
	fi
	if ! text_is "$tmp/err" "$want_err"; then
		explain stderr "$want_err" "$(cat "$tmp/err")"
		verdict=bad
	fi
	result $verdict "$name"
}

nl=$'\n'

# succeeds NAME OUT COMMAND...: exit code 0, stdout is OUT, stderr is empty
succeeds()
{
	local name=$1 out=$2

	shift 2
	run "$@"
	verify "$name" 0 "$out" ""
}

# fails NAME RC TEXT COMMAND...: stderr is the one line "qcowctl: TEXT"
fails()
{
	local name=$1 want=$2 text=$3

	shift 3
	run "$@"
	verify "$name" "$want" "" "qcowctl: $text$nl"
}

# is NAME COMMAND...: the command is true
is()
{
	local name=$1

	shift
	if "$@"; then
		result ok "$name"
	else
		echo "# false: $*"
		result bad "$name"
	fi
}

skip()
{
	count=$((count + 1))
	echo "ok $count - $1 # SKIP $2"
}

## The fake machine

fresh_machine()
{
	rm -rf "$FAKE_ROOT"
	mkdir -p "$FAKE_ROOT/dev" "$FAKE_ROOT/sys/dev/block" \
		"$FAKE_ROOT/sys/block" "$FAKE_ROOT/attached" "$FAKE_ROOT/shown"
	: >"$FAKE_ROOT/dev/qcow-control"
}

# device N STATE SIZE CLUSTER VERSION OPENERS PATH
device()
{
	printf '%s %s %s %s %s\n%s' "$2" "$3" "$4" "$5" "$6" "$7" \
		>"$FAKE_ROOT/attached/$1"
	node "qcow$1" 240 "$1" "virtual/block/qcow$1"
}

# node NAME MAJOR MINOR SYSFS: a block device node and its link in sysfs
node()
{
	echo "block $2:$3" >"$FAKE_ROOT/dev/$1"
	ln -sfn "../../devices/$4" "$FAKE_ROOT/sys/dev/block/$2:$3"
}

nothing_attached()
{
	[[ -z $(ls "$FAKE_ROOT/attached") ]]
}

attached()
{
	[[ -e $FAKE_ROOT/attached/$1 ]]
}

# with NAME=VALUE... COMMAND...: as env, and COMMAND may be a function
with()
(
	while [[ $1 == *=* ]]; do
		export "${1?}"
		shift
	done
	"$@"
)

## The rows must be able to fail

self_check()
{
	local before_failed=$failed before_count=$count

	fails "self check" 3 "something else" "$real" --version >/dev/null
	succeeds "self check" "wrong" "$real" --version >/dev/null
	succeeds "self check" "qcowctl 0.1" "$real" list --nonsense >/dev/null
	is "self check" false >/dev/null
	[[ $((failed - before_failed)) == 4 ]] || bail_out "the rows cannot fail"
	failed=$before_failed
	count=$before_count
}

## Usage

test_help()
{
	local command

	run "$real" --help
	is "--help exits 0" [ "$rc" = 0 ]
	is "--help is on stdout only" [ ! -s "$tmp/err" ]
	for command in attach detach list; do
		is "--help names $command" grep -q "^ $command " "$tmp/out"
	done
	is "--help has all nine exit codes" \
		[ "$(grep -c '^ [0-8]  [a-z]' "$tmp/out")" = 9 ]
	for command in attach detach list; do
		run "$real" "$command" --help
		is "$command --help begins with its usage" \
			grep -q "^Usage: qcowctl $command " "$tmp/out"
		is "$command --help exits 0, stderr empty" \
			[ "$rc$(cat "$tmp/err")" = 0 ]
	done
	succeeds "--version" "qcowctl $version$nl" "$real" --version
	succeeds "-V" "qcowctl $version$nl" "$real" -V
}

test_usage()
{
	fails "no command" 2 \
		"usage: a command is missing; see 'qcowctl --help'" "$real"
	fails "unknown command" 2 \
		"usage: unknown command 'mount'; see 'qcowctl --help'" \
		"$real" mount
	fails "unknown long option before the command" 2 \
		"usage: unknown option '--foo'; see 'qcowctl --help'" \
		"$real" --foo attach
	fails "unknown letter before the command" 2 \
		"usage: unknown option '-x'; see 'qcowctl --help'" \
		"$real" -x attach
	fails "attach without an image" 2 \
		"attach: IMAGE is missing; see 'qcowctl attach --help'" \
		"$real" attach -r
	fails "attach of two images" 2 \
		"attach: one IMAGE is enough, 'b' is too much; see 'qcowctl attach --help'" \
		"$real" attach a b
	fails "attach with an unknown option" 2 \
		"attach: unknown option '--rw'; see 'qcowctl attach --help'" \
		"$real" attach --rw a
	fails "an unknown letter in a group after a long option" 2 \
		"attach: unknown option '-x'; see 'qcowctl attach --help'" \
		"$real" attach --direct-io -xr a
	fails "an argument to a long option that has a letter" 2 \
		"attach: option takes no argument: '--read-only=1'; see 'qcowctl attach --help'" \
		"$real" attach --read-only=1 a
	fails "an argument to a long option that has no letter" 2 \
		"attach: option takes no argument: '--direct-io=1'; see 'qcowctl attach --help'" \
		"$real" attach --direct-io=1 a
	fails "a switch that is neither on nor off" 2 \
		"attach: --pass-discard is on or off, not 'ON'; see 'qcowctl attach --help'" \
		"$real" attach --pass-discard=ON a
	fails "a switch with an empty value" 2 \
		"attach: --discard-no-unref is on or off, not ''; see 'qcowctl attach --help'" \
		"$real" attach --discard-no-unref= a
	fails "--pass-discard without a value" 2 \
		"attach: option '--pass-discard' needs an argument; see 'qcowctl attach --help'" \
		"$real" attach a --pass-discard
	fails "--cache-size without a value" 2 \
		"attach: option '--cache-size' needs an argument; see 'qcowctl attach --help'" \
		"$real" attach a --cache-size
	fails "detach without a device" 2 \
		"detach: DEV is missing; see 'qcowctl detach --help'" \
		"$real" detach
	fails "detach of two devices" 2 \
		"detach: one DEV is enough, 'qcow1' is too much; see 'qcowctl detach --help'" \
		"$real" detach qcow0 qcow1
	fails "list of two devices" 2 \
		"list: one DEV is enough, 'qcow1' is too much; see 'qcowctl list --help'" \
		"$real" list qcow0 qcow1
	fails "list with an unknown column" 2 \
		"list: unknown column 'COLOUR'; see 'qcowctl list --help'" \
		"$real" list -o NAME,COLOUR
	fails "list with an empty column" 2 \
		"list: unknown column ''; see 'qcowctl list --help'" \
		"$real" list -o NAME,
	fails "list with a column twice" 2 \
		"list: column 'name' is named twice; see 'qcowctl list --help'" \
		"$real" list -o NAME,name
	fails "-o without an argument" 2 \
		"list: option '-o' needs an argument; see 'qcowctl list --help'" \
		"$real" list -o
	fails "--json with --raw" 2 \
		"list: --json and --raw exclude each other; see 'qcowctl list --help'" \
		"$real" list --json --raw
}

test_cache_size_usage()
{
	local value

	for value in "" K 1MM 1KiB '64M,' " 1M" +1M -1M 0x100000 1.5M 1P 1e6 on \
		99999999999999999999 18014398509481985K 16777216T \
		DEFAULT; do
		fails "--cache-size '$value' is no size" 2 \
			"attach: --cache-size is a size such as 64M, or 'default', not '$value'; see 'qcowctl attach --help'" \
			"$real" attach --cache-size "$value" a
	done
	for value in 1 255K 262143 65G 68719476737 1T; do
		fails "--cache-size $value is out of range" 2 \
			"attach: --cache-size is from 256K to 64G, not $value; see 'qcowctl attach --help'" \
			"$real" attach --cache-size="$value" a
	done
}

## Images that cannot be opened

test_image_open()
{
	mkdir -p directory
	mkfifo fifo
	ln -s loop loop
	: >file
	fails "image missing" 3 "missing: no such file; check the name" \
		"$real" attach missing
	fails "image with an empty name" 3 "'': no such file; check the name" \
		"$real" attach ""
	fails "image below a file" 3 "file/x: no such file; check the name" \
		"$real" attach file/x
	fails "image is a directory" 3 \
		"directory: is a directory; name an image file" \
		"$real" attach directory
	fails "image is a pipe, read-only" 3 \
		"fifo: is neither a file nor a block device; name an image file" \
		timeout 10 "$real" attach -r fifo
	fails "image is a character device" 3 \
		"/dev/null: is neither a file nor a block device; name an image file" \
		"$real" attach /dev/null
	fails "image is a loop of links" 3 \
		"loop: cannot open: Too many levels of symbolic links" \
		"$real" attach loop
	fails "image name with control characters" 3 \
		"a\\x1b[31m\\nb\\t\\\\\\x7f\\xc2\\x9b\\xff: no such file; check the name" \
		"$real" attach $'a\e[31m\nb\t\\\x7f\xc2\x9b\xff'
	fails "image name with letters beyond ASCII" 3 \
		"größe 镜像: no such file; check the name" \
		"$real" attach "größe 镜像"
	fails "broken UTF-8 is escaped" 3 \
		"\\xc0\\xaf\\xed\\xa0\\x80é\\xf4\\x90\\x80\\x80\\xe9: no such file; check the name" \
		"$real" attach $'\xc0\xaf\xed\xa0\x80é\xf4\x90\x80\x80\xe9'
	fails "image name with a dash after --" 3 \
		"-r: no such file; check the name" "$real" attach -- -r
}

unprivileged()
{
	if [[ $(id -u) == 0 ]]; then
		setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
	else
		"$@"
	fi
}

test_permission()
{
	: >secret
	chmod 0 secret
	chmod 755 "$tmp"
	cp "$real" "$tmp/qcowctl-copy"
	if ! unprivileged true 2>/dev/null; then
		skip "image not writable" "cannot give up root here"
		skip "image not readable" "cannot give up root here"
		return
	fi
	chmod 444 secret
	fails "image not writable" 3 \
		"secret: no permission to write it; check its owner and mode, or attach it with --read-only" \
		unprivileged "$tmp/qcowctl-copy" attach secret
	chmod 0 secret
	fails "image not readable" 3 \
		"secret: no permission to read it; check its owner and mode" \
		unprivileged "$tmp/qcowctl-copy" attach -r secret
}

## The control node

test_control_node()
{
	local missing="/dev/qcow-control: the qcow2 module is not loaded; try 'modprobe qcow2' or 'insmod qcow2.ko'"
	local denied="/dev/qcow-control: no permission to control qcow2 devices; try again as root"

	: >image
	if [[ -e /dev/qcow-control ]]; then
		skip "attach, no driver on this machine" "there is one"
	else
		fails "attach, no driver on this machine" 8 "$missing" \
			"$real" attach image
	fi
	fresh_machine
	rm "$FAKE_ROOT/dev/qcow-control"
	fails "attach without the control node" 8 "$missing" \
		"$fake" attach image
	fails "detach without the control node" 8 "$missing" \
		"$fake" detach qcow0
	fails "list without the control node" 8 "$missing" "$fake" list
	fails "a node whose module is gone" 8 "$missing" \
		with FAKE_ERRNO_OPEN=19 "$fake" list
	fails "no permission for the control node" 8 "$denied" \
		with FAKE_ERRNO_OPEN=13 "$fake" attach image
	fails "the control node fails otherwise" 1 \
		"/dev/qcow-control: cannot open: Too many open files" \
		with FAKE_ERRNO_OPEN=24 "$fake" list
}

## attach

# attach_sees TEXT OPTIONS...: what the kernel sees
attach_sees()
{
	local want=$1

	shift
	fresh_machine
	rm -f log
	run with FAKE_ATTACH_LOG=log "$fake" attach "$@" image
	[[ $rc == 0 && $(cat log) == "$want" ]]
}

# attach_with FLAGS MODE OPTIONS...: with a cache of the default size
attach_with()
{
	attach_sees "flags=$1 mode=$2 cache=0" "${@:3}"
}

# attach_cache BYTES OPTIONS...: without flags
attach_cache()
{
	attach_sees "flags=0 mode=rw cache=$1" "${@:2}"
}

test_attach()
{
	: >image
	: >image2
	: >-dash
	fresh_machine
	succeeds "attach prints the device" "/dev/qcow0$nl" "$fake" attach image
	succeeds "the next image gets the next device" "/dev/qcow1$nl" \
		"$fake" attach -- -dash
	fails "an image that is attached" 6 "image: image is attached already" \
		"$fake" attach image
	is "plain attach: no flags, open for writing" attach_with 0 rw
	is "-r: read-only, open for reading" attach_with 1 ro -r
	is "--read-only" attach_with 1 ro --read-only
	is "--direct-io" attach_with 2 rw --direct-io
	is "-r --direct-io" attach_with 3 ro --direct-io -r
	is "-r twice" attach_with 1 ro -r -r
	is "--pass-discard=off" attach_with 4 rw --pass-discard=off
	is "--pass-discard off" attach_with 4 rw --pass-discard off
	is "--pass-discard=on is the default" attach_with 0 rw --pass-discard=on
	is "--discard-no-unref" attach_with 8 rw --discard-no-unref
	is "--discard-no-unref=on" attach_with 8 rw --discard-no-unref=on
	is "--discard-no-unref=off is the default" \
		attach_with 0 rw --discard-no-unref=off
	is "the last of a switch counts: on" attach_with 8 rw \
		--pass-discard=off --discard-no-unref=off \
		--pass-discard=on --discard-no-unref
	is "the last of a switch counts: off" attach_with 4 rw \
		--pass-discard=on --discard-no-unref \
		--pass-discard=off --discard-no-unref=off
	is "all flags" attach_with 15 ro --discard-no-unref -r \
		--pass-discard=off --direct-io
	fresh_machine
	succeeds "an option after the image" "/dev/qcow0$nl" \
		"$fake" attach image -r
	is "an option after the image: it counts" \
		[ "$(head -c 2 "$FAKE_ROOT/attached/0")" = "1 " ]
	fresh_machine
	succeeds "the node appears a little later" "/dev/qcow0$nl" \
		with FAKE_NODE_AFTER=4 "$fake" attach image
	fresh_machine
	fails "the node never appears" 1 \
		"image: the node of the device does not appear: something else has its name, or /dev is no devtmpfs; /dev/qcow0 is detached again" \
		with FAKE_NODE_AFTER=1000000 "$fake" attach image
	is "and nothing is left" nothing_attached
}

test_cache_size()
{
	local row

	: >image
	for row in 0=0 0=default 0=0K 262144=262144 262144=256K 1048576=1M \
		33554432=32m 4294967296=4G 68719476736=64g 68719476736=65536M; do
		is "--cache-size=${row#*=} is ${row%=*} bytes" \
			attach_cache "${row%=*}" --cache-size="${row#*=}"
	done
	is "--cache-size 1M" attach_cache 1048576 --cache-size 1M
	is "the last --cache-size counts" \
		attach_cache 0 --cache-size 1M --cache-size default
	fresh_machine
	fails "a kernel that does not know the size of the cache" 8 \
		"image: the loaded qcow2 module does not know --cache-size; leave it out, or load the module that belongs to this qcowctl" \
		with FAKE_NO_CACHE_SIZE=1 "$fake" attach --cache-size=1M image
	is "and nothing is attached" nothing_attached
	succeeds "such a kernel, and the default" "/dev/qcow0$nl" \
		with FAKE_NO_CACHE_SIZE=1 \
		"$fake" attach --cache-size=default image
}

# attach_refused NAME EXIT ERRNO TEXT: without a reason of the kernel
attach_refused()
{
	fails "attach, $1, kernel silent" "$2" "image: $4" \
		with FAKE_ERRNO_ATTACH="$3" "$fake" attach image
	fails "attach, $1, reason of the kernel" "$2" \
		"image: L1 table: offset 7 is not aligned" \
		with FAKE_ERRNO_ATTACH="$3" \
		FAKE_REASON="L1 table: offset 7 is not aligned" \
		"$fake" attach image
}

test_attach_refused()
{
	: >image
	fresh_machine
	attach_refused EPERM 8 1 \
		"no permission to control qcow2 devices; try again as root"
	attach_refused EIO 1 5 "Input/output error"
	attach_refused ENOMEM 1 12 "Cannot allocate memory"
	attach_refused EACCES 3 13 "Permission denied"
	attach_refused EBUSY 6 16 \
		"in use; see 'qcowctl list' and what is mounted"
	attach_refused EINVAL 1 22 "Invalid argument"
	attach_refused EOPNOTSUPP 5 95 \
		"the image needs a feature that the driver lacks; see 'qemu-img info'"
	attach_refused EUCLEAN 4 117 \
		"not a valid qcow2 image, or damaged; see 'qemu-img check'"
	attach_refused E2BIG 8 7 \
		"the loaded qcow2 module does not know this request; load the module that belongs to this qcowctl"
	attach_refused ENOTTY 8 25 \
		"the loaded qcow2 module does not know this request; load the module that belongs to this qcowctl"
	is "nothing is attached after all that" nothing_attached
	fails "control characters in a reason" 4 "image: a\\nb\\x1b[2J" \
		with FAKE_ERRNO_ATTACH=117 FAKE_REASON=$'a\nb\e[2J' \
		"$fake" attach image
	fails "a reason that fills its buffer" 4 \
		"image: $(printf 'x%.0s' {1..255})" \
		with FAKE_ERRNO_ATTACH=117 \
		FAKE_REASON="$(printf 'x%.0s' {1..400})" "$fake" attach image
}

## attach, when its output does not reach anybody

to_full() { "$@" >/dev/full; }
to_closed() { "$@" >&-; }
all_closed() { "$@" >&- 2>&- <&-; }

to_broken_pipe()
{
	local ret

	[[ -p broken ]] || mkfifo broken
	# shellcheck disable=SC2094
	exec 8<>broken 9>broken 8<&-
	"$@" >&9
	ret=$?
	exec 9>&-
	return $ret
}

to_limited_file()
{
	head -c 1024 /dev/zero >limited
	(
		ulimit -f 1
		"$@" >>limited
	)
}

# taken_back NAME WHERE WHY: attach, its stdout at WHERE, must leave nothing
taken_back()
{
	fresh_machine
	fails "attach, stdout is $1" 1 \
		"image: cannot print the name of the device: $3; /dev/qcow0 is detached again" \
		"$2" "$fake" attach image
	is "stdout is $1: nothing is left" nothing_attached
}

test_take_back()
{
	local cannot="image: cannot print the name of the device: No space left on device"

	echo "the image" >image
	taken_back "a full disk" to_full "No space left on device"
	taken_back "closed" to_closed "Bad file descriptor"
	taken_back "a broken pipe" to_broken_pipe "Broken pipe"
	taken_back "a file at its limit" to_limited_file "File too large"
	fresh_machine
	run all_closed "$fake" attach image
	is "attach, all closed: exits 1" [ "$rc" = 1 ]
	is "all closed: nothing is left" nothing_attached
	is "all closed: nothing is written to the image" \
		[ "$(cat image)" = "the image" ]
	fresh_machine
	fails "a device that is busy for a moment" 1 \
		"$cannot; /dev/qcow0 is detached again" \
		with FAKE_DETACH_BUSY=3 to_full "$fake" attach image
	is "busy for a moment: nothing is left" nothing_attached
	fresh_machine
	fails "a device that stays busy is named" 1 \
		"$cannot; detaching /dev/qcow0 failed too, see 'qcowctl list': device is open" \
		with FAKE_DETACH_BUSY=1000 to_full "$fake" attach image
	is "stays busy: it is left" attached 0
}

ignoring_hup()
(
	trap '' HUP
	"$@"
)

test_interrupt()
{
	: >image
	fresh_machine
	# Who started this may have SIGINT ignored, as a shell does for its jobs.
	fails "SIGINT while attaching" 130 \
		"image: interrupted; /dev/qcow0 is detached again" \
		with FAKE_RAISE=2 env --default-signal=INT "$fake" attach image
	is "SIGINT: nothing is left" nothing_attached
	fresh_machine
	succeeds "an ignored SIGHUP while attaching" "/dev/qcow0$nl" \
		with FAKE_RAISE=1 ignoring_hup "$fake" attach image
}

## detach

# detaches NAME DEV: DEV means qcow3 and nothing else
detaches()
{
	fresh_machine
	device 3 0 1024 512 3 0 /image
	device 33 0 1024 512 3 0 /other
	node sda 8 0 pci/block/sda
	node qcow3p1 259 1 virtual/block/qcow3/qcow3p1
	node disguised 240 3 virtual/block/qcow3
	node qcow5 240 3 virtual/block/qcow3
	ln -sfn "$FAKE_ROOT/dev/qcow3" link
	ln -sfn link link2
	succeeds "detach $1" "" "$fake" detach "$2"
	is "detach $1: the right one is gone" \
		[ "$(ls "$FAKE_ROOT/attached")" = 33 ]
}

# does_not_detach NAME DEV TEXT: refused with exit code 7
does_not_detach()
{
	fresh_machine
	device 3 0 1024 512 3 0 /image
	node sda 8 0 pci/block/sda
	node qcow3p1 259 1 virtual/block/qcow3/qcow3p1
	node stale 240 99 virtual/block/qcow99
	rm "$FAKE_ROOT/sys/dev/block/240:99"
	: >regular
	fails "detach $1" 7 "${2:-''}: $3" "$fake" detach "$2"
	attached 3 || bail_out "a refused detach detached"
}

test_detach_names()
{
	local none="no such device; see 'qcowctl list'"

	detaches "by name" qcow3
	detaches "by path" /dev/qcow3
	detaches "by another node of it" /dev/disguised
	detaches "by links" link2
	detaches "goes by the number of the node, not its name" /dev/qcow5
	does_not_detach "a partition by name" qcow3p1 \
		"is a partition; name the whole device, /dev/qcow3"
	does_not_detach "a partition by path" /dev/qcow3p1 \
		"is a partition; name the whole device, /dev/qcow3"
	does_not_detach "another driver's device" /dev/sda \
		"is not a qcow2 device; see 'qcowctl list'"
	does_not_detach "a regular file" regular \
		"is not a block device; see 'qcowctl list'"
	does_not_detach "a device that is not there" qcow4 "$none"
	does_not_detach "a path that is not there" /dev/qcow4 "$none"
	does_not_detach "a node that belongs to nothing" /dev/stale "$none"
	does_not_detach "a name with a leading zero" qcow03 "$none"
	does_not_detach "a name with a sign" qcow+3 "$none"
	does_not_detach "a name with something behind" qcow3x "$none"
	does_not_detach "a number beyond all numbers" qcow4294967299 "$none"
	does_not_detach "an empty name" "" "$none"
}

test_detach_without_node()
{
	fresh_machine
	device 3 0 1024 512 3 0 /image
	rm "$FAKE_ROOT/dev/qcow3"
	succeeds "detach by a path whose node is missing" "" \
		"$fake" detach /dev/qcow3
	fresh_machine
	device 3 0 1024 512 3 0 /image
	rm "$FAKE_ROOT/sys/dev/block/240:3"
	succeeds "detach by path without sysfs" "" "$fake" detach /dev/qcow3
}

test_detach_refused()
{
	fresh_machine
	device 0 0 1024 512 3 0 /image
	fails "detach, busy, reason of the kernel" 6 "qcow0: device is open" \
		with FAKE_DETACH_BUSY=1 "$fake" detach qcow0
	fails "detach, busy, kernel silent" 6 \
		"qcow0: in use; see 'qcowctl list' and what is mounted" \
		with FAKE_ERRNO_DETACH=16 "$fake" detach qcow0
	fails "detach, last commit failed" 9 \
		"/dev/qcow0: last commit failed" \
		with FAKE_ERRNO_DETACH=5 FAKE_REASON="last commit failed" \
		"$fake" detach /dev/qcow0
	fails "detach, no space for the last changes" 1 "qcow0: no space left" \
		with FAKE_ERRNO_DETACH=28 FAKE_REASON="no space left" \
		"$fake" detach qcow0
	fails "detach, no space, kernel silent" 1 \
		"qcow0: No space left on device" \
		with FAKE_ERRNO_DETACH=28 "$fake" detach qcow0
	fails "detach, no memory for the last changes" 1 "qcow0: no memory" \
		with FAKE_ERRNO_DETACH=12 FAKE_REASON="no memory" \
		"$fake" detach qcow0
	fails "detach, no memory, kernel silent" 1 \
		"qcow0: Cannot allocate memory" \
		with FAKE_ERRNO_DETACH=12 "$fake" detach qcow0
	fails "detach, no permission" 8 \
		"qcow0: no permission to control qcow2 devices; try again as root" \
		with FAKE_ERRNO_DETACH=1 "$fake" detach qcow0
}

## list

two_devices()
{
	fresh_machine
	device 0 0 1073741824 65536 3 2 /images/a.qcow2
	device 12 15 1610612736 512 2 0 "/images/b c.qcow2"
}

# shows N ID NAME: device N is that of a snapshot
shows()
{
	printf '%s\n%s\n' "$2" "$3" >"$FAKE_ROOT/shown/$1"
}

test_list()
{
	fresh_machine
	succeeds "an empty list prints nothing" "" "$fake" list
	succeeds "an empty list in raw form prints nothing" "" "$fake" list --raw
	two_devices
	succeeds "list" "\
NAME        SIZE CLUSTER RO DIO PASS NOUNREF STATE       VERSION USED SNAPID SNAPSHOT IMAGE
/dev/qcow0    1G     64K  0   0    1       0 ok                3    2                 /images/a.qcow2
/dev/qcow12 1.5G    512B  1   1    0       0 needs-check       2    0                 /images/b c.qcow2
" "$fake" list
	succeeds "list -n -b -o" "\
/images/a.qcow2   /dev/qcow0  1073741824
/images/b c.qcow2 /dev/qcow12 1610612736
" "$fake" list -n -b -o image,Name,SIZE
	succeeds "list --raw" "\
NAME CLUSTER IMAGE
/dev/qcow0 64K /images/a.qcow2
/dev/qcow12 512B /images/b\\x20c.qcow2
" "$fake" list --raw -o NAME,CLUSTER,IMAGE
	succeeds "a later -o replaces an earlier one" "\
USED
   2
   0
" "$fake" list -o NAME -o USED
	succeeds "list of one device" "/dev/qcow12$nl" \
		"$fake" list -n -o NAME /dev/qcow12
	fails "list of a device that is not there" 7 \
		"qcow5: no such device; see 'qcowctl list'" "$fake" list qcow5
	fails "list of a device behind the last" 7 \
		"qcow50: no such device; see 'qcowctl list'" "$fake" list qcow50
	fails "list without permission" 8 \
		"/dev/qcow-control: no permission to control qcow2 devices; try again as root" \
		with FAKE_ERRNO_QUERY=1 "$fake" list
	fails "list to a full disk" 1 \
		"standard output: cannot write: No space left on device" \
		to_full "$fake" list
	fails "--help to a full disk" 1 \
		"standard output: cannot write: No space left on device" \
		to_full "$fake" --help
	fails "list to a closed descriptor" 1 \
		"standard output: cannot write: Bad file descriptor" \
		to_closed "$fake" list
	succeeds "a path that fits in no buffer is an empty field" "\
 /dev/qcow0
 /dev/qcow12
" with FAKE_LONG_PATHS=1 "$fake" list --raw -n -o IMAGE,NAME
}

# Each bit of the state shows in its column only.
test_list_states()
{
	local row

	fresh_machine
	for row in "0:0 0 1 0 ok" "1:1 0 1 0 read-only" "2:0 1 1 0 ok" \
		"4:0 0 1 0 needs-check" "5:1 0 1 0 needs-check" \
		"8:0 0 0 0 ok" "16:0 0 1 1 ok" "31:1 1 0 1 needs-check" \
		"32:0 0 1 0 ok" "33:1 0 1 0 read-only"; do
		device 0 "${row%%:*}" 1024 512 3 0 /i
		succeeds "state ${row%%:*}" "${row#*:}$nl" \
			"$fake" list -n --raw -o RO,DIO,PASS,NOUNREF,STATE
	done
}

# What a device shows is told by its ID and name, in which anything can be.
test_list_snapshots()
{
	two_devices
	shows 12 3 "before upgrade"
	succeeds "a device of a snapshot" "\
NAME        SNAPID SNAPSHOT       IMAGE
/dev/qcow0                        /images/a.qcow2
/dev/qcow12 3      before upgrade /images/b c.qcow2
" "$fake" list -o name,snapid,snapshot,image
	succeeds "a device of a snapshot, raw" "\
/dev/qcow0   /images/a.qcow2
/dev/qcow12 3 before\\x20upgrade /images/b\\x20c.qcow2
" "$fake" list -n --raw -o name,snapid,snapshot,image
	json_is "JSON of a snapshot" "data['qcowdevices']" \
		"[{'snapid': None, 'snapshot': None}, {'snapid': '3', 'snapshot': 'before upgrade'}]" \
		-o snapid,snapshot
	shows 12 "" ""
	json_is "JSON of a snapshot without a name" "data['qcowdevices'][1]" \
		"{'snapid': None, 'snapshot': None}" -o snapid,snapshot
	shows 12 7 $'a\e\xff"'
	json_is "JSON of a strange snapshot" "data['qcowdevices'][1]" \
		"{'snapid': '7', 'snapshot': 'a\\x1b\\\\xff\"'}" -o snapid,snapshot
	run "$fake" list -n -o SNAPSHOT
	is "list shows no control character of a snapshot" \
		[ "$(tr -d '\n' <"$tmp/out" | LC_ALL=C grep -c '[[:cntrl:]]')" = 0 ]
	shows 12 "$(printf 'i%.0s' {1..1022})" "$(printf 'n%.0s' {1..1022})"
	run "$fake" list -n --raw -o SNAPID,SNAPSHOT qcow12
	is "a snapshot with long names" [ "$(wc -c <"$tmp/out")" = 2046 ]
	succeeds "a kernel that cannot tell snapshots" "\
/dev/qcow0 ok   /images/a.qcow2
/dev/qcow12 needs-check   /images/b\\x20c.qcow2
" with FAKE_NO_SNAPSHOT_QUERY=1 "$fake" list -n --raw \
		-o NAME,STATE,SNAPID,SNAPSHOT,IMAGE
	succeeds "one that can tell neither that nor the path" "\
/dev/qcow0   
/dev/qcow12   
" with FAKE_NO_SNAPSHOT_QUERY=1 FAKE_LONG_PATHS=1 "$fake" list -n --raw \
		-o NAME,SNAPID,SNAPSHOT,IMAGE
	succeeds "one that can tell that, but not the path" "\
$(printf 'i%.0s' {1..1022}) 
" with FAKE_LONG_PATHS=1 "$fake" list -n --raw -o SNAPID,IMAGE qcow12
}

test_list_sizes()
{
	local row size text

	fresh_machine
	for row in 0:0B 1:1B 1023:1023B 1536:1.5K 1048575:1M 1572863:1.5M \
		2097152:2M 1125899906842624:1P 18446744073709551615:16E; do
		size=${row%:*}
		text=${row#*:}
		device 0 0 "$size" 512 3 0 /i
		succeeds "size $size is $text" "$text$nl" \
			"$fake" list -n --raw -o SIZE
	done
	succeeds "the largest size in bytes" "18446744073709551615$nl" \
		"$fake" list -n --raw -b -o SIZE
}

# json_is NAME FILTER VALUE ARGUMENTS...: what python reads from the JSON
json_is()
{
	local name=$1 expression=$2 want=$3

	shift 3
	run "$fake" list --json "$@"
	is "$name" [ "$(python3 -c "
import json, sys
data = json.loads(open(sys.argv[1], 'rb').read().decode('utf-8', 'strict'))
print(ascii($expression))" "$tmp/out")" = "$want" ]
}

test_json()
{
	fresh_machine
	json_is "JSON of no device is an empty array" data \
		"{'qcowdevices': []}"
	two_devices
	json_is "JSON has a type for each column" "data['qcowdevices'][1]" \
		"{'name': '/dev/qcow12', 'size': '1.5G', 'cluster': '512B', 'ro': True, 'dio': True, 'pass': False, 'nounref': False, 'state': 'needs-check', 'version': 2, 'used': 0, 'snapid': None, 'snapshot': None, 'image': '/images/b c.qcow2'}"
	json_is "JSON with --bytes has numbers" "data['qcowdevices'][0]" \
		"{'size': 1073741824, 'cluster': 65536}" -b -o size,cluster
	export FAKE_LONG_PATHS=1
	json_is "JSON of a path that fits in no buffer is null" \
		"data['qcowdevices'][0]['image']" None
	unset FAKE_LONG_PATHS
	device 0 0 1024 512 3 0 $'/q"\\\n\e\x7f\xff/é'
	json_is "JSON stays JSON whatever the name" \
		"data['qcowdevices'][0]['image']" \
		"'/q\"\\\\\\n\\x1b\\x7f\\\\xff/\\xe9'" -o image
}

test_strange_names()
{
	fresh_machine
	device 0 0 1024 512 3 0 $'/a\n\e[31m\xc2\x9b\xff'
	run "$fake" list -n -o IMAGE
	is "list shows a strange name on one line" [ "$(wc -l <"$tmp/out")" = 1 ]
	is "list shows no control character" \
		[ "$(tr -d '\n' <"$tmp/out" | LC_ALL=C grep -c '[[:cntrl:]]')" = 0 ]
	is "list shows no raw byte" \
		[ "$(LC_ALL=C grep -c $'[\x80-\xff]' "$tmp/out")" = 0 ]
	run "$fake" list -n --raw -o IMAGE
	is "list --raw shows a strange name on one line" \
		[ "$(wc -l <"$tmp/out")" = 1 ]
	is "list --raw shows no control character" \
		[ "$(tr -d '\n' <"$tmp/out" | LC_ALL=C grep -c '[[:cntrl:]]')" = 0 ]
}

test_many_devices()
{
	local i

	fresh_machine
	for ((i = 0; i < 200; i++)); do
		device "$i" 0 1024 512 3 0 "/image$i"
	done
	run "$fake" list -n --raw -o NAME
	is "list of 200 devices" \
		[ "$(cat "$tmp/out")" = "$(seq -f /dev/qcow%g 0 199)" ]
}

## Columns, completion, manual

columns="NAME SIZE CLUSTER RO DIO PASS NOUNREF STATE VERSION USED SNAPID SNAPSHOT IMAGE"

test_columns()
{
	local column

	succeeds "--list-columns" "${columns// /$nl}$nl" \
		"$real" list --list-columns
	run "$real" list --help
	for column in $columns; do
		grep -q "^ $column  *[a-z]" "$tmp/out" || break
		grep -q "^\.It Cm $column\$" "$tool_dir/qcowctl.8" || break
		column=
	done
	is "each column is in --help and in the manual" [ -z "$column" ]
}

test_options()
{
	local option

	run "$real" attach --help
	for option in read-only direct-io pass-discard discard-no-unref \
		cache-size snapshot probe-backing; do
		grep -q "^ .* --${option}[ =[]" "$tmp/out" || break
		grep -q "^\.It .*Fl -$option" "$tool_dir/qcowctl.8" || break
		option=
	done
	is "each option of attach is in --help and in the manual" \
		[ -z "$option" ]
}

# completes NAME WANTED WORDS...: the last word is the one to complete
completes()
{
	local name=$1 want=$2

	shift 2
	# shellcheck disable=SC2016
	run "$BASH" -c '
		compopt() { :; }
		source "$1" || exit
		_qcowctl_devices() { echo /dev/qcow0; echo /dev/qcow1; }
		COMP_WORDS=(qcowctl "${@:3}")
		COMP_CWORD=$(($# - 2))
		_qcowctl "$2" "${@: -1}" "${@: -2:1}"
		printf "%s|" "${COMPREPLY[@]}"
	' bash "$tool_dir/qcowctl.bash-completion" "$real" "$@"
	verify "completion: $name" 0 "$want" ""
}

test_completion()
{
	: >"picture one.qcow2"
	completes "commands" "attach|detach|list|--help|--version|" ""
	completes "a command" "detach|" d
	completes "options of attach" \
		"--cache-size|--direct-io|--discard-no-unref|--help|--pass-discard|--probe-backing|--read-only|--snapshot|" \
		attach -
	completes "a switch" "on|off|" attach --pass-discard ""
	completes "a switch, begun" "off|" attach --pass-discard of
	# bash takes the equals sign for a word.
	completes "a switch after an equals sign" "on|off|" \
		attach --discard-no-unref =
	completes "a switch after an equals sign, begun" "off|" \
		attach --discard-no-unref = of
	completes "the size of the cache" "default|" attach --cache-size d
	completes "the size of the cache after an equals sign" "default|" \
		attach --cache-size = ""
	completes "no file for the name of a snapshot" "|" \
		attach --snapshot pict
	completes "no file for the name of a snapshot after an equals sign" "|" \
		attach --snapshot = pict
	completes "a file after a switch that needs no value" \
		"picture one.qcow2|" attach --discard-no-unref pict
	completes "a file after a switch" "picture one.qcow2|" \
		attach --pass-discard = off pict
	completes "files, with blanks" "picture one.qcow2|" attach -r pict
	completes "devices" "/dev/qcow0|/dev/qcow1|" detach /dev/q
	completes "columns" "SIZE|STATE|SNAPID|SNAPSHOT|" list -o s
	completes "columns that are not there yet" "NAME,SIZE,STATE|" \
		list --output name,size,st
}

test_manual()
{
	succeeds "the manual has no errors" "" \
		mandoc -T lint -W warning "$tool_dir/qcowctl.8"
	is "the manual has all exit codes" \
		[ "$(grep -c '^\.It [0-8]$' "$tool_dir/qcowctl.8")" = 9 ]
}

test_install()
{
	run make -s -C "$tool_dir" install DESTDIR="$tmp/dest" PREFIX=/usr
	is "install puts three files in place" \
		[ "$(cd "$tmp/dest" && find . -type f | sort | tr '\n' ' ')" = \
		"./usr/sbin/qcowctl ./usr/share/bash-completion/completions/qcowctl ./usr/share/man/man8/qcowctl.8 " ]
}

# shellcheck source=tools/qcowctl/tests/chains.sh
. "$here/chains.sh"
# shellcheck source=tools/qcowctl/tests/locks.sh
. "$here/locks.sh"

## All of it

echo "1..$PLAN"
self_check
test_help
test_usage
test_cache_size_usage
test_image_open
test_permission
test_control_node
test_attach
test_cache_size
test_attach_refused
test_chain_names
test_chain_layers
test_chain_formats
test_chain_protocols
test_chain_missing
test_chain_loops
test_chain_data_file
test_chain_hostile
test_chain_json
test_chain_json_overrides
test_chain_json_refused
test_chain_json_hostile
test_chain_length
test_chain_real
test_snapshot
test_lock_attached
test_lock_read_only
test_lock_backing
test_lock_data_file
test_lock_foreign
test_lock_snapshot
test_lock_errors
test_take_back
test_interrupt
test_detach_names
test_detach_without_node
test_detach_refused
test_list
test_list_states
test_list_snapshots
test_list_sizes
test_json
test_strange_names
test_many_devices
test_columns
test_options
test_completion
test_manual
test_install

echo "# $((count - failed)) passed, $failed failed"
if [[ $count != "$PLAN" ]]; then
	echo "# $count tests ran, $PLAN were planned"
	exit 1
fi
[[ $failed == 0 ]]
