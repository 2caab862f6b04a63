# Sourced by the scripts beside it. Which PostgreSQL there is, as Freehold's lab sees it: src/lab/majors.rs, and a test
# holds the two together.

# One line for each major, oldest first: the major and the directory of its programs.
postgresql_programs() {
    local places=() place home version major seen=" "
    IFS=: read -r -a places <<<"${FREEHOLD_PG_DIRS:-}"
    places+=(/usr/lib/postgresql /usr/local/lib/freehold/postgresql)
    places+=("${XDG_DATA_HOME:-${HOME:-/}/.local/share}/freehold/postgresql")
    for place in "${places[@]}"; do
        for home in "$place" "$place"/*; do
            for program in postgres initdb psql pg_dump; do
                [ -f "$home/bin/$program" ] || continue 2
            done
            version=$("$home/bin/postgres" --version 2>/dev/null) || continue
            [[ $version =~ \)\ ([0-9]+) ]] || continue
            major=${BASH_REMATCH[1]}
            # Older ones cannot be moved; the first of a major wins.
            [ "$major" -ge 14 ] && [[ $seen != *" $major "* ]] || continue
            seen+="$major "
            echo "$major $home/bin"
        done
    done | sort -n -k 1,1
}
