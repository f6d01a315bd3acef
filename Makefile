# SPDX-License-Identifier: GPL-2.0-only
#
# make demo	set everything up, then attach an image and use it
# make check	set everything up, then run every test
# make check-long	the same with many more rounds; takes hours
# make bench	measure beside loop, the raw file, device mapper and qemu-nbd; an hour
# make bench-quick	the same in 6 minutes; its figures say nothing
#			(both also with KERNEL=6.12: Debian's kernel in QEMU, slower)
# make bench-engine	measure the allocator in an image that is nearly full, and count
#			the instructions of a look-up
#
# All work on a fresh Debian 12.  What they build is kept in build/ and, for
# kernels, in ~/.cache/qcow2-ko; a second run takes what is there.

.PHONY: all setup kernel module tool demo check check-long clean help
.PHONY: check-builds check-tool check-kunit check-engine check-fuzz check-guest check-e2e
.PHONY: check-iotests check-qemu bench bench-quick bench-engine

all: module tool

help:
	@sed -n '3,/^$$/s/^# \{0,1\}//p' Makefile
	@echo 'Parts of make check: check-builds check-tool check-kunit check-engine check-fuzz check-guest check-qemu check-e2e'
	@echo 'Part of it, but whole: check-iotests, half an hour and more'

setup:
	@scripts/setup

kernel: setup
	@scripts/kernel uml

module: kernel
	@scripts/build-module uml

tool: setup
	@$(MAKE) --no-print-directory -C tools/qcowctl

demo: module tool
	@scripts/demo

check:
	@scripts/check

check-builds check-tool check-kunit check-engine check-fuzz check-guest check-e2e: setup
	@scripts/check $(@:check-%=%)

check-qemu: setup
	@scripts/check qemu-6.1 qemu-6.12 qemu-7.3

check-iotests: setup
	@scripts/check iotests-all

check-long:
	@scripts/check --long

# BENCH="--rounds=9 zlib zstd": see scripts/bench --help.
bench: $(if $(KERNEL),setup,kernel)
	@scripts/bench $(if $(KERNEL),--kernel=$(KERNEL)) $(BENCH)

bench-quick: $(if $(KERNEL),setup,kernel)
	@scripts/bench $(if $(KERNEL),--kernel=$(KERNEL)) --quick

bench-engine: setup
	@$(MAKE) --no-print-directory -s -C userspace-tests/engine \
		$(CURDIR)/build/engine/plain/bench $(CURDIR)/build/engine/plain/lookups
	@build/engine/plain/bench
	@mkdir -p build/engine/images build/engine/work
	@build/engine/plain/lookups build/engine/images build/engine/work

clean:
	rm -rf build
	@$(MAKE) --no-print-directory -C tools/qcowctl clean
