# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Packages of Debian's archive, and what is made of them, once; for the scripts
# that keep that in ${XDG_CACHE_HOME:-~/.cache}/qcow2-ko. Needs progress.sh.
#
# Each is made under a temporary name and moved to its own at the end, so what
# has a name is whole.

cache=${XDG_CACHE_HOME:-${HOME:?neither XDG_CACHE_HOME nor HOME is set}/.cache}/qcow2-ko
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# ---------------------------------------------------------------------------
# Debian's archive, through a private apt state: the machine's own sources and
# package lists stay as they are, its proxies and the like apply.

# The mirror that the machine takes its own release from. The package lists need
# not have been fetched for this.
machine_mirror() {
	local release

	release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")
	apt-get --print-uris update 2>/dev/null |
		sed -n "s|^'\(.*\)/dists/$release/InRelease'.*|\1|p" | head -n 1
}

# MIRROR SUITE of all that belongs to the machine's release.
machine_suites() {
	local release

	release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")
	apt-get --print-uris update 2>/dev/null |
		sed -n "s|^'\(.*\)/dists/\(${release}[^/]*\)/InRelease'.*|\1 \2|p"
}

# private_apt DIR PROGRAM ARGUMENT…
private_apt() {
	local dir=$1 program=$2
	shift 2

	# The sandbox user could not write into DIR: root would get a warning.
	# Of what is installed nothing is known: a newer version than the archive's, from
	# another suite, would be what apt looks for there.
	"$program" -o Dir::State="$dir/state" -o Dir::State::status=/dev/null \
		-o Dir::Cache="$dir/cache" \
		-o Dir::Etc::sourcelist="$dir/sources.list" \
		-o Dir::Etc::sourceparts=/dev/null \
		-o APT::Sandbox::User="$(id -un)" "$@"
}

# open_archive DIR SUITE…
open_archive() {
	local dir=$1 mirror
	shift

	mirror=$(machine_mirror)
	[ -n "$mirror" ] || die "the machine's apt sources name no Debian mirror"
	say "package lists of $* from $mirror"
	fetch_lists "$dir" "$(printf "deb [signed-by=$keyring] $mirror %s main\n" "$@")"
}

# open_sources DIR: the source packages of the machine's own release, with its
# updates.
open_sources() {
	local dir=$1 lines

	lines=$(machine_suites | sed "s|^|deb-src [signed-by=$keyring] |; s|\$| main|")
	[ -n "$lines" ] || die "the machine's apt sources name no Debian mirror"
	say "lists of source packages from $(machine_mirror)"
	fetch_lists "$dir" "$lines"
}

# fetch_lists DIR LINES: LINES are apt's sources.
fetch_lists() {
	local dir=$1 lines=$2

	mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial"
	echo "$lines" >"$dir/sources.list"
	private_apt "$dir" apt-get -qq --error-on=any update >&2 ||
		die "cannot read the package lists of: $lines"
}

# PACKAGE VERSION if the archive still has it, else the newest of the series.
choose_package() {
	local dir=$1 package=$2 version=$3 series=$4 found

	if private_apt "$dir" apt-cache madison "$package" 2>/dev/null |
		awk '{ print $3 }' | grep -qxF "$version"; then
		echo "$package $version"
		return
	fi
	found=$(private_apt "$dir" apt-cache search --names-only "$series" |
		awk '{ print $1 }' | sort -V | tail -n 1)
	[ -n "$found" ] || die "the archive has nothing like $series"
	version=$(private_apt "$dir" apt-cache madison "$found" |
		awk '{ print $3 }' | sort -V | tail -n 1)
	echo "$found $version"
}

# fetch_package DIR PACKAGE[=VERSION]: unpacked into DIR/root.
fetch_package() {
	local dir=$1 package=$2

	mkdir -p "$dir/debs" "$dir/root"
	(cd "$dir/debs" && private_apt "$dir" apt-get -q download "$package") &&
		dpkg -x "$dir"/debs/*.deb "$dir/root" &&
		rm -r "$dir/debs"
}

# ---------------------------------------------------------------------------
# Making things once.

# make_once NAME FUNCTION ARGUMENT…: run FUNCTION TEMPORARY_DIRECTORY ARGUMENT…
# unless the cache has NAME; FUNCTION fills the directory that becomes NAME.
make_once() {
	local name=$1 function=$2 work lock
	shift 2

	[ ! -e "$cache/$name" ] || return 0
	mkdir -p "$cache"
	exec {lock}>"$cache/$name.lock"
	if ! flock -n "$lock"; then
		say "waiting for another run that makes $name"
		flock "$lock"
	fi
	if [ ! -e "$cache/$name" ]; then
		work=$cache/$name.tmp
		rm -rf "$work"
		mkdir "$work"
		"$function" "$work" "$@"
	fi
	exec {lock}>&-
}

# The package whose pin is gone goes by the pin's name too, so that a later run
# need not ask the archive again.
keep() {
	local work=$1 prefix=$2 wanted=$3 got=$4

	rm -rf "${cache:?}/$prefix-$got"
	mv -T "$work" "$cache/$prefix-$got"
	[ "$wanted" = "$got" ] || ln -sfn "$prefix-$got" "$cache/$prefix-$wanted"
}

# Say at each run that the pin was not what was used.
report_substitute() {
	local path=$cache/$1

	[ ! -L "$path" ] ||
		say "$1 has left the archive, using $(readlink "$path") instead"
}
