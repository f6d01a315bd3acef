# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Progress lines on stderr, for the scripts whose stdout is a result.

say() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
	say "$*"
	exit 1
}

# Until it is killed, say every ten seconds how far LABEL got: DONE_PATTERN's
# lines in LOG are counted. TOTAL ("3", "about 1600") may be empty. The read is a sleep without a process of its own,
# so that nothing is left over that holds the caller's stderr.
tick() {
	local label=$1 log=$2 done_pattern=$3 total=$4 started=$SECONDS nap

	exec {nap}<> <(:)
	while :; do
		read -rt 10 -u "$nap" || :
		say "$label: $((SECONDS - started)) s," \
			"$(grep -cE "$done_pattern" "$log")${total:+ of $total} done"
	done
}

# run_logged LABEL LOG DONE_PATTERN TOTAL COMMAND…: COMMAND's output goes to LOG,
# of which the end is shown when it fails.
run_logged() {
	local label=$1 log=$2 done_pattern=$3 total=$4 started=$SECONDS status=0 ticker
	shift 4

	say "$label …"
	: >"$log"
	tick "$label" "$log" "$done_pattern" "$total" &
	ticker=$!
	# Also when a signal ends the script: the ticker must not outlive it.
	# shellcheck disable=SC2064
	trap "kill $ticker 2>/dev/null || :" EXIT
	"$@" >"$log" 2>&1 </dev/null || status=$?
	kill "$ticker" 2>/dev/null || :
	wait "$ticker" 2>/dev/null || :
	trap - EXIT
	if [ "$status" -ne 0 ]; then
		tail -n 30 "$log" >&2
		die "$label failed (status $status)"
	fi
	say "$label: done in $((SECONDS - started)) s"
}
