# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2154
#
# Part of test-qcowctl.sh: the files that an image refers to. Each row judges
# which files the kernel gets, in which order and as what, or the one line that
# says why not.

make_image()
{
	"$here/make-image.py" "$@" || bail_out "cannot make $1"
}

# chain NAME FILES IMAGE OPTIONS...: FILES are lines "FORMAT FILE[ data]" with
# names below $tmp
chain()
{
	local name=$1 want=$2 image=$3 got

	shift 3
	fresh_machine
	rm -f files.log
	run with FAKE_FILES_LOG=files.log "$fake" attach "$@" "$image"
	got=$(sed "s|$tmp/||" files.log 2>/dev/null)
	if [[ $rc == 0 && $got == "$want" ]]; then
		result ok "chain: $name"
		return
	fi
	explain "files" "$want" "$got"
	sed 's/^/# /' err
	result bad "chain: $name"
}

# no_chain NAME EXIT TEXT IMAGE OPTIONS...
no_chain()
{
	local name=$1 want=$2 text=$3 image=$4

	shift 4
	fresh_machine
	fails "no chain: $name" "$want" "$text" "$fake" attach "$@" "$image"
	nothing_attached || bail_out "a refused image was attached"
}

## Plain names

test_chain_names()
{
	mkdir -p d/e
	echo bytes >d/base.raw
	echo bytes >cwd.raw
	make_image top.qcow2
	chain "an image alone" "qcow2 top.qcow2" top.qcow2
	make_image d/base.qcow2
	make_image d/o backing=base.raw format=raw
	chain "a name is relative to the overlay" "qcow2 d/o${nl}raw d/base.raw" d/o
	chain "of an overlay with an absolute name" \
		"qcow2 d/o${nl}raw d/base.raw" "$tmp/d/o"
	make_image d/e/o backing=../base.raw format=raw
	chain "a name with a directory" "qcow2 d/e/o${nl}raw d/base.raw" d/e/o
	make_image d/o backing="$tmp/d/base.qcow2" format=qcow2
	chain "an absolute name" "qcow2 d/o${nl}qcow2 d/base.qcow2" d/o
	make_image d/o version=2 backing=base.raw format=raw
	chain "version 2" "qcow2 d/o${nl}raw d/base.raw" d/o
	chain "read-only" "qcow2 d/o${nl}raw d/base.raw" d/o -r
	make_image d/o backing=file:cwd.raw format=raw
	chain "file: is relative to the current directory, as in QEMU" \
		"qcow2 d/o${nl}raw cwd.raw" d/o
	make_image d/o backing="file:$tmp/d/base.raw" format=raw
	chain "file: and an absolute name" "qcow2 d/o${nl}raw d/base.raw" d/o
	make_image d/o backing=./a:b format=raw
	: >d/a:b
	chain "a colon behind a slash is none of a protocol" \
		"qcow2 d/o${nl}raw d/a:b" d/o
	make_image d/o backing=base.raw format=file
	chain "format file is raw" "qcow2 d/o${nl}raw d/base.raw" d/o
	make_image d/o backing=base.raw format=raw backing_size=5
	echo short >d/base.
	chain "a name ends where its length says" "qcow2 d/o${nl}raw d/base." d/o
	mkdir -p links
	make_image d/linked backing=beside.raw format=raw
	ln -sf ../d/linked links/overlay
	echo bytes >links/beside.raw
	chain "the directory is that of the name, not of what a link points to" \
		"qcow2 d/linked${nl}raw links/beside.raw" links/overlay
}

test_chain_layers()
{
	mkdir -p d/e
	echo bytes >d/e/base.raw
	make_image d/e/mid backing=base.raw format=raw
	make_image d/o backing=e/mid format=qcow2
	chain "three layers, each relative to the one before" \
		"qcow2 d/o${nl}qcow2 d/e/mid${nl}raw d/e/base.raw" d/o
	make_image d/e/raw-with-header backing=nothing format=qcow2
	make_image d/o backing=e/raw-with-header format=raw
	chain "a raw file that looks like qcow2 has no backing file" \
		"qcow2 d/o${nl}raw d/e/raw-with-header" d/o
	make_image d/o backing=e/mid format=qcow2 backing_offset=0
	chain "no offset, no backing file" "qcow2 d/o" d/o
	make_image d/o backing=e/mid format=qcow2 backing_size=0
	chain "no length, no backing file" "qcow2 d/o" d/o
	make_image d/o ext=0xe2792aca:5:qcow2
	chain "a format and no backing file" "qcow2 d/o" d/o
	make_image d/o backing=e/mid ext=0x12345678:3:abc ext=0x6803f857:0: \
		format=qcow2
	chain "unknown extensions in front" \
		"qcow2 d/o${nl}qcow2 d/e/mid${nl}raw d/e/base.raw" d/o
	make_image d/o cluster_bits=21 backing=e/mid format=qcow2 \
		backing_offset=2000000
	chain "a name far behind the header" \
		"qcow2 d/o${nl}qcow2 d/e/mid${nl}raw d/e/base.raw" d/o
}

test_chain_formats()
{
	local format

	echo bytes >base.raw
	make_image base.qcow2
	make_image old magic=0x514649fb version=1
	make_image o backing=base.raw
	no_chain "no format" 5 \
		"o: its backing file 'base.raw': its format is not named; name it with 'qemu-img rebase -u -F FORMAT -b BACKING IMAGE', or use --probe-backing if you trust whoever could write to it" \
		o
	chain "no format, but probing, raw" "qcow2 o${nl}raw base.raw" o \
		--probe-backing
	make_image o backing=base.qcow2
	chain "no format, but probing, qcow2" "qcow2 o${nl}qcow2 base.qcow2" o \
		--probe-backing
	make_image o backing=old
	no_chain "probing finds a version that does not exist" 4 \
		"o: its backing file 'old': has no valid qcow2 header" o \
		--probe-backing
	make_image o backing=base.qcow2 format=raw
	chain "probing does not change a format that is named" \
		"qcow2 o${nl}raw base.qcow2" o --probe-backing
	make_image o backing=base.raw ext=0xe2792aca:0:
	no_chain "an empty format" 5 \
		"o: its backing file 'base.raw': its format is not named; name it with 'qemu-img rebase -u -F FORMAT -b BACKING IMAGE', or use --probe-backing if you trust whoever could write to it" \
		o
	for format in vmdk qcow qed luks nbd QCOW2; do
		make_image o backing=base.raw format=$format
		no_chain "format $format" 5 \
			"o: its backing file 'base.raw': has the format '$format'; only qcow2 and raw are served ('qemu-img convert' makes one of the other)" \
			o
	done
	make_image o backing=base.raw format=qcow2
	no_chain "a qcow2 that is none" 4 \
		"o: its backing file 'base.raw': is no qcow2 image, although it should be one" \
		o
}

test_chain_protocols()
{
	local name protocol

	for name in nbd://host/export nbd:unix:/x http://host/x https://host/x \
		ssh://host/x iscsi://host/x rbd:pool/x gluster://host/x \
		fat:/directory blkdebug::base.raw a:b; do
		protocol=${name%%:*}
		make_image o backing="$name" format=raw
		no_chain "$name" 5 \
			"o: its backing file '$name': is reached by the protocol '$protocol'; only local files and block devices are served" \
			o
	done
}

test_chain_missing()
{
	mkdir -p d directory
	mkfifo d/fifo 2>/dev/null
	make_image d/mid backing=gone.raw format=raw
	make_image d/o backing=mid format=qcow2
	no_chain "a missing file says who refers to it" 3 \
		"d/mid: its backing file 'gone.raw': no such file; put it there, or name another with 'qemu-img rebase -u -F FORMAT -b BACKING IMAGE'" d/o
	make_image d/o backing=../directory format=raw
	no_chain "a directory" 3 \
		"d/o: its backing file '../directory': is a directory" d/o
	make_image d/o backing=fifo format=raw
	no_chain "a pipe" 3 \
		"d/o: its backing file 'fifo': is neither a file nor a block device" \
		d/o
	make_image d/o backing=$'a\nb\e[2J' format=raw
	no_chain "a name with control characters" 3 \
		"d/o: its backing file 'a\\nb\\x1b[2J': no such file; put it there, or name another with 'qemu-img rebase -u -F FORMAT -b BACKING IMAGE'" d/o
	make_image d/o data=gone.raw
	no_chain "a missing data file" 3 \
		"d/o: its data file 'gone.raw': no such file in the current directory, where QEMU looks for it too" \
		d/o
	make_image d/o data=/gone.raw
	no_chain "a missing data file with an absolute name" 3 \
		"d/o: its data file '/gone.raw': no such file; put it there" d/o
}

test_chain_loops()
{
	make_image self backing=self format=qcow2
	no_chain "an image that is its own backing file" 4 \
		"self: its backing file 'self': is in the chain already, as 'self'" \
		self
	make_image a backing=b format=qcow2
	make_image b backing=c format=qcow2
	make_image c backing=./a format=qcow2
	no_chain "a loop of three" 4 \
		"c: its backing file './a': is in the chain already, as 'a'" a
	make_image b backing=link-to-a format=qcow2
	ln -sf a link-to-a
	no_chain "a loop over a link" 4 \
		"b: its backing file 'link-to-a': is in the chain already, as 'a'" a
	make_image b backing=hard-a format=qcow2
	ln -f a hard-a
	no_chain "a loop over a hard link" 4 \
		"b: its backing file 'hard-a': is in the chain already, as 'a'" a
	make_image b backing=a format=raw
	no_chain "a loop whose last link is raw" 4 \
		"b: its backing file 'a': is in the chain already, as 'a'" a
	make_image own data=own
	no_chain "an image that is its own data file" 4 \
		"own: its data file 'own': is in the chain already, as 'own'" own
}

test_chain_data_file()
{
	local row

	mkdir -p d
	echo bytes >data.raw
	echo bytes >d/base.raw
	make_image d/o data=data.raw
	chain "a data file is relative to the current directory, as in QEMU" \
		"qcow2 d/o${nl}raw data.raw data" d/o
	make_image d/o data="$tmp/data.raw" backing=base.raw format=raw
	chain "data file, then backing file" \
		"qcow2 d/o${nl}raw data.raw data${nl}raw d/base.raw" d/o
	chain "data file, read-only" \
		"qcow2 d/o${nl}raw data.raw data${nl}raw d/base.raw" d/o -r
	make_image d/top backing=o format=qcow2
	chain "the data file of a backing file" \
		"qcow2 d/top${nl}qcow2 d/o${nl}raw data.raw data${nl}raw d/base.raw" \
		d/top
	make_image d/o data=data.raw incompatible=0
	chain "a name and no data file" "qcow2 d/o" d/o
	make_image d/o data=file:data.raw
	chain "a data file with file:" "qcow2 d/o${nl}raw data.raw data" d/o
	for row in '{"driver":"file","filename":"data.raw"}' \
		'{"filename":"data.raw"}' \
		'{"driver":"raw","file.filename":"data.raw"}' \
		'{"driver":"host_device","filename":"data.raw"}'; do
		make_image d/o data="json:$row"
		chain "a data file described as $row" \
			"qcow2 d/o${nl}raw data.raw data" d/o
	done
	make_image d/o data='json:{"driver":"qcow2","file.filename":"data.raw"}'
	no_chain "a data file that is qcow2" 5 \
		"d/o: its data file 'json:{\"driver\":\"qcow2\",\"file.filename\":\"data.raw\"}': needs QEMU's driver 'qcow2'; only qcow2 and raw images in local files and block devices are served" \
		d/o
	make_image d/o data=nbd://host/x
	no_chain "a data file elsewhere" 5 \
		"d/o: its data file 'nbd://host/x': is reached by the protocol 'nbd'; only local files and block devices are served" \
		d/o
	make_image d/o incompatible=4
	no_chain "a data file without a name" 4 \
		"d/o: its data is in another file, but no such file is named" d/o
	make_image d/o data=
	no_chain "a data file with an empty name" 4 \
		"d/o: its data is in another file, but no such file is named" d/o
}

## Hostile headers

test_chain_hostile()
{
	local long

	echo bytes >base.raw
	long=$(printf 'x%.0s' {1..1024})
	make_image o backing="$long" format=raw
	no_chain "a name of 1024 bytes" 4 \
		"o: the name of the backing file is too long, 1024 bytes or more" o
	make_image o backing="./${long:3}" format=raw
	no_chain "a name of 1023 bytes is looked for" 3 \
		"o: its backing file './${long:3}': cannot open: File name too long" o
	make_image o backing=base.raw format=raw backing_size=0xffffffff
	no_chain "a name that is longer than the cluster" 4 \
		"o: the name of the backing file is outside of the first cluster" o
	make_image o backing=base.raw format=raw backing_offset=0x7ffffffffffffff0
	no_chain "a name far outside" 4 \
		"o: the name of the backing file is outside of the first cluster" o
	make_image o backing=base.raw format=raw \
		backing_offset=0xffffffffffffffff backing_size=2
	no_chain "an offset that wraps around" 4 \
		"o: the name of the backing file is outside of the first cluster" o
	make_image o backing=base.raw format=raw backing_offset=65535
	no_chain "a name across the end of the cluster" 4 \
		"o: the name of the backing file is outside of the first cluster" o
	make_image o backing=base.raw format=raw backing_offset=4
	chain "a name on top of the header ends the extensions" "qcow2 o" o
	make_image o ext=0x12345678:0xffffffff:
	no_chain "an extension of 4 GiB" 4 \
		"o: a header extension is longer than the room for it" o
	make_image o ext=0x12345678:0xfffffff9:
	no_chain "an extension whose length wraps around when it is rounded" 4 \
		"o: a header extension is longer than the room for it" o
	make_image o backing=base.raw ext=0xe2792aca:100:raw
	no_chain "a format that reaches into the name" 4 \
		"o: a header extension is longer than the room for it" o
	make_image o backing=base.raw format=abcdefghijklmnop
	no_chain "a format of 16 bytes" 4 \
		"o: the header extension with the format of the backing file is too long" \
		o
	make_image o data="$long$long$long$long"
	no_chain "a data file with a name of 4096 bytes" 4 \
		"o: the header extension with the name of the data file is too long" o
	make_image o backing=base.raw format=raw file_size=100
	chain "a file that ends within the header: the kernel will tell" \
		"qcow2 o" o
	make_image o backing=base.raw format=raw file_size=104
	chain "a file that ends behind the header names nothing" "qcow2 o" o
	make_image o backing=base.raw format=raw file_size=4
	chain "only the magic number" "qcow2 o" o
	make_image o backing=base.raw format=raw version=4
	chain "version 4" "qcow2 o" o
	make_image o backing=base.raw format=raw cluster_bits=22
	chain "clusters of 4 MiB" "qcow2 o" o
	make_image o backing=base.raw format=raw cluster_bits=0xffffffff
	chain "clusters beyond all numbers" "qcow2 o" o
	make_image o backing=base.raw format=raw header_length=0xfffffff8
	chain "a header of 4 GiB" "qcow2 o" o
	make_image o backing=base.raw format=raw header_length=65536
	no_chain "a header of one cluster has no extensions" 5 \
		"o: its backing file 'base.raw': its format is not named; name it with 'qemu-img rebase -u -F FORMAT -b BACKING IMAGE', or use --probe-backing if you trust whoever could write to it" \
		o
}

## Descriptions

# described NAME FILES JSON [FORMAT]: an overlay whose backing file is JSON
described()
{
	local name=$1 want=$2 json=$3

	shift 3
	make_image o backing="json:$json" ${1:+format=$1}
	chain "json: $name" "qcow2 o$nl$want" o
}

# not_described NAME EXIT TEXT JSON [FORMAT]
not_described()
{
	local name=$1 want=$2 text=$3 json=$4

	shift 4
	make_image o backing="json:$json" ${1:+format=$1}
	no_chain "json: $name" "$want" "o: its backing file 'json:$json': $text" o
}

test_chain_json()
{
	local file='"file":{"driver":"file","filename":"base.raw"}'

	mkdir -p d
	echo bytes >base.raw
	echo bytes >d/deep.raw
	echo bytes >"größe A"
	make_image base.qcow2
	make_image d/mid backing=deep.raw format=raw
	described "raw" "raw base.raw" "{\"driver\":\"raw\",$file}"
	described "qcow2" "qcow2 base.qcow2" \
		'{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}'
	described "dots" "qcow2 base.qcow2" \
		'{"driver":"qcow2","file.driver":"file","file.filename":"base.qcow2"}'
	described "dots and objects mixed" "raw base.raw" \
		'{"driver":"raw","file.filename":"base.raw","file":{"driver":"file"}}'
	described "single quotes" "raw base.raw" \
		"{'driver':'raw','file':{'driver':'file','filename':'base.raw'}}"
	described "blanks" "raw base.raw" \
		' { "driver" : "raw" , "file.filename" : "base.raw" }'
	described "host_device" "raw base.raw" \
		'{"driver":"raw","file":{"driver":"host_device","filename":"base.raw"}}'
	described "a file without a format" "raw base.raw" \
		'{"driver":"file","filename":"base.raw"}'
	described "no driver of the file" "raw base.raw" \
		'{"driver":"raw","file.filename":"base.raw"}'
	described "the format comes from the overlay" "raw base.raw" \
		'{"file.filename":"base.raw"}' raw
	described "the overlay's format counts, as in QEMU" "raw base.qcow2" \
		'{"driver":"qcow2","file.filename":"base.qcow2"}' raw
	described "raw on raw" "raw base.raw" \
		'{"driver":"raw","file":{"driver":"raw","offset":0,"file":{"driver":"file","filename":"base.raw"}}}'
	described "names below it are relative to the file's directory" \
		"qcow2 d/mid${nl}raw d/deep.raw" \
		'{"driver":"qcow2","file.filename":"d/mid"}'
	described "options that change nothing" "qcow2 base.qcow2" \
		'{"driver":"qcow2","node-name":"n","read-only":true,"discard":"unmap","cache":{"direct":true,"no-flush":false},"l2-cache-size":"1M","file":{"driver":"file","filename":"base.qcow2","aio":"native","locking":"auto"}}'
	described "letters beyond ASCII, and an escape" "raw größe A" \
		'{"driver":"raw","file.filename":"gr\u00f6ße \u0041"}'
}

test_chain_json_overrides()
{
	mkdir -p d
	echo bytes >base.raw
	echo bytes >other.raw
	make_image mid backing=base.raw format=raw
	make_image alone
	not_described "no backing file after all" 5 \
		"is described without a backing file, but has one" \
		'{"driver":"qcow2","backing":null,"file.filename":"mid"}'
	not_described "a backing file after all" 5 \
		"is described with a backing file, but has none" \
		'{"driver":"qcow2","backing":{"driver":"raw","file.filename":"other.raw"},"file.filename":"alone"}'
	described "no backing file, as the image says" "qcow2 alone" \
		'{"driver":"qcow2","backing":null,"file.filename":"alone"}'
	described "another backing file" "qcow2 mid${nl}raw other.raw" \
		'{"driver":"qcow2","backing":{"driver":"raw","file.filename":"other.raw"},"file.filename":"mid"}'
	described "another backing file, in dots" "qcow2 mid${nl}raw other.raw" \
		'{"driver":"qcow2","backing.driver":"raw","backing.file.filename":"other.raw","file.filename":"mid"}'
	make_image o backing='json:{"driver":"qcow2","backing":{"driver":"raw","file.filename":"gone"},"file.filename":"mid"}'
	no_chain "json: the other backing file is missing" 3 \
		"mid: its backing file 'json:{\"driver\":\"raw\",\"file\":{\"filename\":\"gone\"}}': no such file; put it there" \
		o
	make_image o backing='json:{"driver":"qcow2","backing":"node0","file.filename":"mid"}'
	no_chain "json: a node instead of a backing file" 5 \
		"mid: its backing file 'json:\"node0\"': is a node of a running QEMU; only files are served" \
		o
	make_image mid data=base.raw
	described "another data file" "qcow2 mid${nl}raw other.raw data" \
		'{"driver":"qcow2","data-file":{"driver":"file","filename":"other.raw"},"file.filename":"mid"}'
	make_image o backing='json:{"driver":"qcow2","data-file":null,"file.filename":"mid"}'
	no_chain "json: no data file where one must be" 4 \
		"o: its backing file 'json:{\"driver\":\"qcow2\",\"data-file\":null,\"file.filename\":\"mid\"}': its data is in another file, but no such file is named" \
		o
}

test_chain_json_refused()
{
	local served="only qcow2 and raw images in local files and block devices are served"
	local part="is a part of a raw file, given by 'offset' and 'size'; only whole files are served"
	local driver

	echo bytes >base.raw
	make_image base.qcow2
	for driver in nbd https ssh blkdebug quorum throttle vmdk luks copy-on-read; do
		not_described "driver $driver" 5 \
			"needs QEMU's driver '$driver'; $served" \
			"{\"driver\":\"$driver\",\"file.filename\":\"base.raw\"}"
		not_described "driver $driver below" 5 \
			"needs QEMU's driver '$driver'; $served" \
			"{\"driver\":\"qcow2\",\"file\":{\"driver\":\"$driver\",\"host\":\"h\"}}"
	done
	not_described "qcow2 in qcow2" 5 "needs QEMU's driver 'qcow2'; $served" \
		'{"driver":"qcow2","file":{"driver":"qcow2","file.filename":"base.raw"}}'
	not_described "offset" 5 "$part" \
		'{"driver":"raw","offset":512,"file.filename":"base.raw"}'
	not_described "offset as text" 5 "$part" \
		'{"driver":"raw","offset":"1M","file.filename":"base.raw"}'
	not_described "size" 5 "$part" \
		'{"driver":"raw","size":512,"file.filename":"base.raw"}'
	not_described "size below" 5 "$part" \
		'{"driver":"qcow2","file":{"driver":"raw","size":512,"file.filename":"base.raw"}}'
	not_described "encryption" 5 "is encrypted; encryption is not served" \
		'{"driver":"qcow2","encrypt.format":"luks","encrypt.key-secret":"s","file.filename":"base.qcow2"}'
	not_described "an option of nobody" 5 \
		"the description in this name has the option 'colour', which is not served" \
		'{"driver":"raw","colour":"red","file.filename":"base.raw"}'
	not_described "an option of nobody below" 5 \
		"the description in this name has the option 'pr-manager', which is not served" \
		'{"driver":"raw","file":{"filename":"base.raw","pr-manager":"x"}}'
	not_described "no format" 5 \
		"its format is not named; name it with 'qemu-img rebase -u -F FORMAT -b BACKING IMAGE', or use --probe-backing if you trust whoever could write to it" \
		'{"file.filename":"base.raw"}'
	not_described "a filename where a file should be" 5 \
		"the description in this name has the option 'filename', which is not served" \
		'{"driver":"raw","filename":"base.raw"}'
	not_described "no file" 4 "the description in this name has no 'file'" \
		'{"driver":"raw"}'
	not_described "a node instead of a file" 4 \
		"the description in this name has no 'file'" \
		'{"driver":"raw","file":"node0"}'
	not_described "no filename" 4 \
		"the description in this name has no 'filename'" \
		'{"driver":"raw","file.driver":"file"}'
	make_image o backing='json:{"driver":"raw","file.filename":"base.raw\u0000.txt"}'
	no_chain "json: a filename with a zero byte" 4 \
		"o: its backing file 'json:{\"driver\":\"raw\",\"file.filename\":\"base.raw\\\\u0000.txt\"}': the description in this name has no 'filename'" \
		o
	not_described "a driver that is no text" 4 \
		"the 'driver' in this name is no text" \
		'{"driver":1,"file.filename":"base.raw"}'
}

test_chain_json_hostile()
{
	local json text="is not a JSON object" dots contradict="its options contradict each other"

	echo bytes >base.raw
	for json in "" "null" "[]" "1" '"x"' "{" '{"driver"' '{"driver":"raw"' \
		'{"driver":"raw"} x' '{"driver":"raw"}}' "$(printf '[%.0s' {1..900})" \
		"$(printf '{"a":%.0s' {1..150})" "{$(printf '"":{%.0s' {1..40})"; do
		not_described "broken: ${json:0:20}" 4 "$text" "$json"
	done
	not_described "a file and its parts" 4 "$contradict" \
		'{"file":"x","file.filename":"y"}'
	not_described "the same option twice" 4 "$contradict" \
		'{"file.filename":"x","file":{"filename":"y"}}'
	not_described "an object and a text" 4 "$contradict" \
		'{"a.b":"x","a.b.c":"y"}'
	dots=$(printf 'a.%.0s' {1..480})
	not_described "500 dots" 5 \
		"the description in this name has the option 'a', which is not served" \
		"{\"driver\":\"raw\",\"$dots\":1}"
	not_described "nothing but dots" 5 \
		"the description in this name has the option '', which is not served" \
		'{"driver":"raw","...":1}'
}

## Length

# long_chain DEPTH: layers l1 (raw) to lDEPTH
long_chain()
{
	python3 - "$here/make-image.py" "$1" <<-'END' || bail_out "cannot make a chain"
	import runpy, sys
	script, depth = sys.argv[1], int(sys.argv[2])
	open("l1", "w").close()
	for i in range(2, depth + 1):
	    sys.argv = [script, f"l{i}", f"backing=l{i - 1}", "cluster_bits=9",
	                "format=" + ("raw" if i == 2 else "qcow2")]
	    runpy.run_path(script)
	END
}

with_few_files()
(
	ulimit -S -n 40
	"$@"
)

with_few_files_for_ever()
(
	ulimit -n 40
	"$@"
)

test_chain_length()
{
	local i want=""

	mkdir -p long
	cd long || bail_out "cannot enter long"
	long_chain 4097
	for i in {200..2}; do
		want+="qcow2 long/l$i$nl"
	done
	ulimit -S -n 1024
	chain "200 layers" "${want}raw long/l1" l200
	fresh_machine
	succeeds "200 layers and 40 descriptors, but more to be had" \
		"/dev/qcow0$nl" with_few_files "$fake" attach l200
	fresh_machine
	run with_few_files_for_ever "$fake" attach l200
	is "200 layers and 40 descriptors: exits 1" [ "$rc" = 1 ]
	is "200 layers and 40 descriptors: says so" \
		grep -qx "qcowctl: l[0-9]*: its backing file 'l[0-9]*': cannot be opened beside so many other files; raise the limit ('ulimit -n')" \
		"$tmp/err"
	fresh_machine
	ulimit -S -n "$(ulimit -H -n)"
	if (($(ulimit -n) > 4200)); then
		succeeds "4096 layers" "/dev/qcow0$nl" "$fake" attach l4096
		fresh_machine
		fails "4097 layers" 5 \
			"l2: its backing file 'l1': the chain is longer than 4096 files" \
			"$fake" attach l4097
	else
		skip "4096 layers" "too few descriptors to be had"
		skip "4097 layers" "too few descriptors to be had"
	fi
	ulimit -S -n 1024
	cd "$tmp" || bail_out "cannot enter $tmp"
	rm -rf long
}

## Real images: the same files that qemu-img lists

# as_qemu NAME IMAGE: the files of the chain are those of qemu-img info
as_qemu()
{
	local name=$1 image=$2 want got

	want=$(qemu-img info --backing-chain --output=json "$image" | python3 -c '
import json, sys
for image in json.load(sys.stdin):
    print(image["format"], image["filename"])
    data = image.get("format-specific", {}).get("data", {}).get("data-file")
    if data:
        print("raw", data, "data")')
	fresh_machine
	rm -f files.log
	run with FAKE_FILES_LOG=files.log "$fake" attach "$image"
	# Both as resolved paths: the fake kernel has no others.
	got=$(cat files.log)
	want=$(while read -r format path rest; do
		echo "$format $(realpath "$path")${rest:+ $rest}"
	done <<<"$want")
	if [[ $rc == 0 && -n $got && $got == "$want" ]]; then
		result ok "as QEMU: $name"
		return
	fi
	explain "files of QEMU" "$want" "$got"
	sed 's/^/# /' err
	result bad "as QEMU: $name"
}

qemu_create()
{
	qemu-img create -q -f qcow2 "$@" || bail_out "qemu-img create $*"
}

test_chain_real()
{
	mkdir -p real/sub
	truncate -s 1M real/base.raw
	qemu_create -F raw -b ../base.raw real/sub/mid 1M
	qemu_create -F qcow2 -b sub/mid real/top 1M
	as_qemu "three layers" real/top
	qemu_create -o compat=0.10 -F qcow2 -b sub/mid real/v2 1M
	as_qemu "version 2" real/v2
	qemu_create -F qcow2 -b "$tmp/real/sub/mid" real/absolute 1M
	as_qemu "absolute" real/absolute
	qemu_create -o data_file=real/data.raw real/external 1M
	as_qemu "data file" real/external
	qemu_create -F qcow2 -b external real/over-external 1M
	as_qemu "data file of a backing file" real/over-external
	qemu_create -F qcow2 -b "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"$tmp/real/top\"}}" \
		real/json 1M
	as_qemu "json" real/json
	qemu_create -F raw -b file:real/base.raw real/prefix 1M
	as_qemu "file:" real/prefix
	rm -rf real
}
