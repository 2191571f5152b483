# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Completion of dmclone for bash.

# The names of clones that have a description
_dmclone_names()
{
	local file
	for file in /etc/dmclone/*.conf; do
		[ -e "$file" ] && basename "$file" .conf
	done
}

_dmclone_words()
{
	local action=$1 position=$2
	case $action in
	create)
		[ "$position" -le 1 ] || compgen -f -- "${COMP_WORDS[COMP_CWORD]}"
		echo --region-size --no-hydration --hydrate-on-read --rate \
			--new-destination --auto-finish --exec --first --force
		;;
	lvm)
		echo --from --thinpool --region-size --no-hydration --hydrate-on-read --rate \
			--force
		;;
	open) _dmclone_names; echo --all --force --wait-for-devices ;;
	close) _dmclone_names; echo --all ;;
	status) _dmclone_names; echo --json --watch --lvm-filter ;;
	wait) _dmclone_names; echo --progress-json ;;
	finish) _dmclone_names; echo --no-wait --progress-json ;;
	adopt)
		[ ! -e /etc/clonetab ] || sed -n 's/^[[:space:]]*\([^#[:space:]]\+\).*/\1/p' /etc/clonetab
		echo --progress-json
		;;
	rate) _dmclone_names; echo none ;;
	hydrate)
		[ "$position" -le 1 ] || compgen -f -- "${COMP_WORDS[COMP_CWORD]}"
		_dmclone_names
		echo --range --file --list
		;;
	monitor) _dmclone_names; echo --auto-finish --exec --off ;;
	record) _dmclone_names; echo --output ;;
	grow) _dmclone_names; echo --zero-tail ;;
	abort) _dmclone_names; echo --force ;;
	pause | resume | map | remove) _dmclone_names ;;
	esac
	echo --batch-mode --quiet
}

_dmclone()
{
	local current=${COMP_WORDS[COMP_CWORD]} words
	if [ "$COMP_CWORD" -eq 1 ]; then
		words="create lvm open close status wait pause resume rate hydrate record grow
			monitor map metrics finish adopt remove abort --help --version"
	else
		words=$(_dmclone_words "${COMP_WORDS[1]}" $((COMP_CWORD - 1)))
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -o default -F _dmclone dmclone
