# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For scripts that add up what others say in their last line, "N passed, N failed".
# To be sourced; passed and failed are the caller's.

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
