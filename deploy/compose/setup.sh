#!/bin/sh
# Makes two systems, a team and a database known to Freehold, once; leaves the database's DSN for the sample load.
set -eu

admin="host=freehold port=6433 user=admin dbname=freehold"
dsn=/shared/dsn

ask() { PGPASSWORD=change-me psql -X -A -t -F ' ' -v ON_ERROR_STOP=1 "$admin" -c "$1"; }

if [ -s "$dsn" ]; then
    echo "setup: done before"
    exit 0
fi

# It may have broken off anywhere the last time: each thing is made only where it is not there yet.
has() { ask "SHOW $1" | cut -d ' ' -f 1 | grep -qx "$2"; }

for major in 16 18; do
    has SYSTEMS "pg$major" ||
        ask "CREATE SYSTEM pg$major HOST 'pg$major' PORT 5432 ROLE freehold PASSWORD FILE '/run/secrets/platform-password'"
done
has TEAMS payments || ask "CREATE TEAM payments CONTACT '#payments'"

# A database whose password was never written down is of use to nobody, and the load has not begun: nothing is in it.
if has DATABASES shop; then
    ask "DROP DATABASE shop CONFIRM 'shop' REASON 'its password was lost when the setup broke off'"
fi

# The password is in this answer and nowhere else: name, id, dsn, role, password, system.
answer=$(ask "CREATE DATABASE shop OWNER payments PURPOSE 'orders and payments of the shop' ON SYSTEM pg16")
password=$(echo "$answer" | cut -d ' ' -f 5)
echo "postgres://shop:$password@freehold:6432/shop" >"$dsn.new"
mv "$dsn.new" "$dsn"
echo "setup: database shop is on system pg16"
