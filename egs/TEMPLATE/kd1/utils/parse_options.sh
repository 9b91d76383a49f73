#!/usr/bin/env bash
# Sourced: `. utils/parse_options.sh FILE... -- "$@"` sets the options that FILE... declare, by the command line.
#
# An option is a line `name=default  # what it is` between "# options" and "# end of options"; a comment that
# starts with "list:" allows several words, further lines of comment continue it. The caller has run these lines
# already. Positional arguments, unknown options and missing values are errors; --help prints the block with the
# defaults in force.
# Reads: python
# Sets: option_files option_is_list, and the options

option_files=()
while [ "$1" != -- ]; do
    option_files+=("$1")
    shift
done
shift

option_error() {
    echo "${0##*/}: error: $1" >&2
    exit 2
}

option_block() {
    sed -n '/^# options$/,/^# end of options$/p' "${option_files[@]}" | sed '/^# options$/d; /^# end of options$/d'
}

# print_help: print the options in their groups; the default comes last, after all lines of the comment.
print_help() {
    local line name text default=''
    printf 'usage: %s [--option value]...' "$0"
    while IFS= read -r line; do
        if [[ ${line} =~ ^\ +#\ (.*) ]]; then
            printf '\n  %-26s %s' "" "${BASH_REMATCH[1]}"
            continue
        fi
        printf '%s' "${default}"
        default=
        if [[ ${line} =~ ^([a-z][a-z0-9_]*)= ]]; then
            name=${BASH_REMATCH[1]}
            [[ ${line} == *' # '* ]] && text=${line#* # } || text=
            printf '\n  --%-24s %s' "${name}" "${text}"
            default=" (default: \"${!name}\")"
        elif [[ ${line} =~ ^#\ (.*) ]]; then
            printf '\n\n%s' "${BASH_REMATCH[1]}"
        fi
    done < <(option_block)
    printf '%s\n' "${default}"
}

# "; did you mean --x?" for a misspelt option.
near_misses() {
    "${python:-python3}" - "$1" "${!option_is_list[@]}" 2> /dev/null << 'END' || true
import difflib, sys
found = difflib.get_close_matches(sys.argv[1], sys.argv[2:], 3, 0.7)
print("; did you mean " + " or ".join("--" + name for name in found) + "?" if found else "", end="")
END
}

declare -A option_is_list=()
while IFS= read -r line; do
    if [[ ${line} =~ ^([a-z][a-z0-9_]*)= ]]; then
        [[ ${line} == *'# list:'* ]] && option_is_list[${BASH_REMATCH[1]}]=yes || option_is_list[${BASH_REMATCH[1]}]=no
    fi
done < <(option_block)

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) print_help; exit 0 ;;
        --?*) ;;
        *) option_error "'$1' is not an option: options start with --" ;;
    esac
    option=${1%%=*}
    option=${option#--}
    option=${option//-/_}
    [ -n "${option_is_list[${option}]:-}" ] ||
        option_error "unknown option --${option}$(near_misses "${option}"); --help lists them all"
    if [[ $1 == *=* ]]; then
        value=${1#*=}
    else
        # A value may start with -- (--student_args "--seed 2"), but another option of ours is none.
        following=${2-}
        following=${following#--}
        if [ $# -lt 2 ] || { [[ $2 == --* ]] && [ -n "${option_is_list[${following//-/_}]:-}" ]; }; then
            option_error "--${option} needs a value"
        fi
        value=$2
        shift
    fi
    shift
    while [ $# -gt 0 ] && [[ $1 != --* ]]; do
        [ "${option_is_list[${option}]}" = yes ] || option_error "--${option} takes one value: '${value}' is followed by '$1'"
        value+=" $1"
        shift
    done
    printf -v "${option}" '%s' "${value}"
done
unset option value following line
