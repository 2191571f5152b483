# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For scripts that end with "N passed, N failed", and those that add up what others
# say so. To be sourced; passed and failed are the caller's, and so are name, of what
# is tried, and log, where output of what try() runs goes.

# add_summary LOG STATUS: what ended with STATUS and wrote LOG. One that says
# nothing at its end has died: then the lines of its tests count, and one failure.
# A bad status without a failure is one.
add_summary()
{
	local numbers
	numbers=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed(, .*)?$/\1 \2/p' "$1" | tail -n 1)
	if [ -z "$numbers" ]; then
		echo "It ended with status $2, without a word"
		numbers="$(grep -acE '^  pass ' "$1") $(($(grep -acE '^  FAIL ' "$1") + 1))"
	elif [ "$2" -ne 0 ] && [ "${numbers#* }" -eq 0 ]; then
		echo "It ended with status $2"
		numbers="${numbers% *} 1"
	fi
	passed=$((passed + ${numbers% *}))
	failed=$((failed + ${numbers#* }))
}

# say_summary: the last line; fails unless something passed and nothing failed
say_summary()
{
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

# verdict NAME STATUS: what it said is at the end of the log
verdict()
{
	if [ "$2" -eq 0 ]; then
		passed=$((passed + 1))
		echo "  pass   $name: $1"
	else
		failed=$((failed + 1))
		echo "  FAIL   $name: $1"
		tail -n 25 "$log" | sed 's/^/             /'
	fi
	[ "$2" -eq 0 ]
}

# try NAME COMMAND...: a verdict on that
try()
{
	local what=$1
	shift
	echo "== $what" >>"$log"
	"$@" >>"$log" 2>&1
	verdict "$what" $?
}
