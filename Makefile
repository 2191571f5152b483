# SPDX-License-Identifier: GPL-2.0-only
#
# make help tells what there is. The kernel's build reads Kbuild instead.

# KDIR is the kernel build directory, KSRC a source tree or tarball of that
# kernel, for what KDIR lacks. Both have good defaults.
KDIR ?=
KSRC ?=
export KDIR KSRC

PACKAGES := scripts/install-packages

# The recipes find the kernel when they run: its headers may have been
# installed a moment ago. Two makes at once in one tree take turns, since
# the kernel's build writes next to the sources.
kbuild = kdir=$$(scripts/kernel-dir) && \
	 headers=$$(scripts/private-headers $$kdir) && mkdir -p build && \
	 flock build/lock $(MAKE) --no-print-directory -C $$kdir M=$(CURDIR) PRIVATE_HEADERS=$$headers

all: modules

modules:
	@$(PACKAGES) build
	@+$(kbuild) modules

install:
	@scripts/install-module

# The kernel's own target, to compare with. Tests that need it are skipped
# where there is no such thing.
peer:
	@$(PACKAGES) source
	@scripts/build-peer --if-missing || true

# TESTS= selects some by a part of their names: see scripts/check for more.
check: modules peer
	@$(PACKAGES) check check-tools
	@+$(MAKE) --no-print-directory -C tests all halts
	@+$(MAKE) --no-print-directory -C tools tests
	@+$(MAKE) --no-print-directory -C tests/fuzz
	@scripts/check $(TESTS)

# The programs for users: tools/Makefile. PREFIX= and DESTDIR= as usual.
tools:
	@$(PACKAGES) tools
	@+$(MAKE) --no-print-directory -C tools

install-tools: tools
	@+$(MAKE) --no-print-directory -C tools install

check-tools:
	@$(PACKAGES) check-tools
	@+$(MAKE) --no-print-directory -C tools check

fuzz-tools:
	@$(PACKAGES) fuzz-tools
	@+$(MAKE) --no-print-directory -C tools fuzz

style:
	@scripts/check-style

# KERNEL= selects some of 6.1, 6.12 and newest; PART=core some of the tests.
check-kernels:
	@KERNEL="$(KERNEL)" PART="$(PART)" scripts/check-kernels $(TESTS)

# ROOTS= selects some of Debian's releases.
check-install: modules
	@$(PACKAGES) check demo install
	@+$(MAKE) --no-print-directory -C tests
	@scripts/check-install

# Debian packages, in build/deb: see debian.
deb:
	@$(PACKAGES) deb
	@scripts/build-deb && ls build/deb/*.deb

# ROOTS= as for check-install; with nothing for lintian alone.
check-deb:
	@scripts/check-deb

# KERNEL= selects one.
check-tree:
	@scripts/check-tree

# TREE= is a kernel's source tree.
patch-series:
	@scripts/make-patch-series $(TREE)

# ARCHES= selects some, TESTS= other tests than the core.
check-arch: modules tools
	@$(PACKAGES) check
	@+$(MAKE) --no-print-directory -C tests
	@TESTS="$(TESTS)" scripts/check-arch $(ARCHES)

check-fuzz: modules peer
	@$(PACKAGES) check
	@+$(MAKE) --no-print-directory -C tests/fuzz
	@tests/fuzz/run $(if $(SEED),--seed $(SEED)) $(FUZZ)

# DEBUG= selects one of the kernels, kasan and kcsan.
check-debug:
	@$(PACKAGES) check debug
	@+$(MAKE) --no-print-directory -C tests
	@scripts/check-debug $(DEBUG)

check-crash: modules
	@$(PACKAGES) check
	@+$(MAKE) --no-print-directory -C tests
	@tests/crash/run --states $(or $(STATES),20000) --faults all --again 8 --shaken 4 \
		$(if $(SEED),--seed $(SEED))

soak: modules
	@$(PACKAGES) check
	@+$(MAKE) --no-print-directory -C tests
	@MINUTES=$(or $(MINUTES),5) SEED=$(SEED) scripts/soak $(TESTS)

# --into= puts the tables and plots into a document: BENCH="--into=FILE". fio is
# one of those for the tests.
bench: modules peer
	@$(PACKAGES) check bench
	@+$(MAKE) --no-print-directory -C tests
	@tests/bench/io $(BENCH)

bench-hydration: modules peer
	@$(PACKAGES) bench
	@+$(MAKE) --no-print-directory -C tests
	@tests/bench/hydration $(BENCH)

# A run that fails leaves the picture as it is.
demo-picture: modules tools
	@$(PACKAGES) demo
	@mkdir -p build/demo
	tests/demo/host >build/demo/text
	tests/demo/picture <build/demo/text >build/demo/picture.svg
	mv build/demo/picture.svg Documentation/dmclone.svg

demo: modules tools
	@$(PACKAGES) demo
	@tests/demo/host $(if $(IMAGE),--image "$(IMAGE)") $(if $(REGION),--region $(REGION)) $(if $(DELAY),--delay $(DELAY))

shell: modules
	@$(PACKAGES) vm
	@tests/vm/run --disk 8M --interactive tests/vm/guest-shell

clean:
	@+if kdir=$$(scripts/kernel-dir); then \
		$(MAKE) --no-print-directory -C $$kdir M=$(CURDIR) clean; \
	fi
	rm -rf build

help:
	@sed -n 's/^#: \{0,1\}//p' Makefile

#: Targets:
#:   make demo       a file system of real files, from a slow remote source, is cloned,
#:                   mounted at once and copied while in use, in a virtual machine
#:   make demo-picture   the picture of the demo in the README, from a run of it
#:   make            build dm-clone.ko for the running kernel or, where that has
#:                   no headers, the newest kernel installed
#:   make install    install the module (as root) and tell what modprobe will load
#:   make tools      build dmclone, and clone_check and the other tools for metadata
#:   make install-tools   install them (as root) with their manual pages, in PREFIX
#:   make deb        build the Debian packages dm-clone-dkms and dm-clone-tools, in
#:                   build/deb
#:   make clean      remove everything that was built
#:
#:   make check      run the tests in a virtual machine; last line: N passed, N failed
#:   make style      check the sources and the documents with checkpatch, sparse, shellcheck
#:                   and docutils; last line: N passed, N failed
#:   make check-fuzz try hostile table lines, messages and metadata images, for
#:                   about half an hour; last line: N passed, N failed
#:   make check-crash   replay what power cuts would have left, at 20000 moments, in
#:                   about ten minutes; last line: N passed, N failed
#:   make check-debug   run the tests, and more, in kernels with KASAN, lockdep, fault
#:                   injection and KCSAN; builds them first: hours in an emulated
#:                   machine; last line: N passed, N failed
#:   make check-kernels build for Debian's kernels, 6.1, 6.12 and the newest, boot them
#:                   and run the tests there; fetches those that are not installed
#:   make check-arch build for arm64, armhf, i386 and s390x, and let no warning pass;
#:                   boot all but armhf, and run the core of the tests there;
#:                   last line: N passed, N failed
#:   make check-tools   try the tools on files, in a minute, also part of make check;
#:                   last line: N passed, N failed
#:   make fuzz-tools look for input that the tools cannot stand, with libFuzzer, for
#:                   FUZZ_SECONDS each; last line: N passed, N failed
#:   make check-install   install on fresh roots of Debian 12 and 13, by hand and with
#:                   dkms, and run the demo on their kernels; last line: N passed, N failed
#:   make check-deb  build the Debian packages, ask lintian, and install, upgrade, use,
#:                   remove and purge them on such roots; last line: N passed, N failed
#:   make check-tree   build it with the kernel, from the source of several, and apply
#:                   the patch series; last line: N passed, N failed
#:   make patch-series TREE=   patches for the device-mapper list, in build/patch-series
#:   make soak       everything at once and for long; last line: N passed, N failed
#:   make bench      count what I/O costs, beside dm-linear, the kernel's own target and
#:                   others, in about 15 minutes: tables, and build/bench/io.json, io.rst
#:                   and io-*.svg; BENCH=--plain measures time instead, on 1, 2 and 4 CPUs
#:   make bench-hydration   measure hydration beside the kernel's own target, in about
#:                   20 minutes: tables, and build/bench/hydration.json and .rst
#:   make shell      a shell in a virtual machine where the module is loaded
#:   tests/vm/run        runs any command there: see tests/vm/run --help
#:
#: Variables:
#:   KDIR=           another kernel's build directory
#:   KSRC=           that kernel's source, a tree or a tarball: its own headers of
#:                   drivers/md are then used, in place of those in headers/
#:   W=1, C=2        more warnings; sparse, as in every kernel build
#:   TESTS=          with make check: only tests with this in their names
#:   CHECK_TIMEOUT=  with make check: the time limit in seconds (4200)
#:   CHECK_MACHINES= with make check: how many virtual machines share the tests (2)
#:   ROOTS=          with make check-install and check-deb: some of bookworm,
#:                   bookworm-backports, trixie, trixie-backports
#:   SEED=           with make check-fuzz, check-crash and soak: repeat an earlier run
#:   KERNEL=         with make check-kernels: only some of 6.1, 6.12 and newest
#:   PART=core       with make check-kernels: only the tests that depend most on the kernel
#:   ARCHES=         with make check-arch: only these
#:   STATES=         with make check-crash: how many states (20000)
#:   FUZZ=           with make check-fuzz: options, as --only random:17; see
#:                   build/tests/fuzz/hostile --help
#:   PREFIX=         with make install-tools: where to (/usr/local); DESTDIR= as usual
#:   FUZZ_SECONDS=   with make fuzz-tools: how long for each kind of input (60)
#:   MINUTES=        with make soak: how many (5); each is a test of its own
#:   BENCH=          with make bench and bench-hydration: options, as --only=rate; see
#:                   tests/bench/io --help and tests/bench/hydration --help
#:   IMAGE=          with make demo: your own image of a file system; it is only read
#:   REGION=         with make demo: the region size in KiB (64)
#:   DELAY=          with make demo: how many ms the source takes for a read (20)
#:   INSTALL_PACKAGES=no   do not install missing Debian packages

.PHONY: all modules peer install tools install-tools check check-tools fuzz-tools \
	check-kernels check-arch check-install deb check-deb check-tree patch-series style soak \
	check-fuzz check-crash check-debug bench bench-hydration demo demo-picture shell clean help
