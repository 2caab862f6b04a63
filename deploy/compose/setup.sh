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

for major in 16 18; do
    ask "CREATE SYSTEM pg$major HOST 'pg$major' PORT 5432 ROLE freehold PASSWORD FILE '/run/secrets/platform-password'"
done
ask "CREATE TEAM payments CONTACT '#payments'"

# The password is in this answer and nowhere else: name, id, dsn, role, password, system.
answer=$(ask "CREATE DATABASE shop OWNER payments PURPOSE 'orders and payments of the shop' ON SYSTEM pg16")
password=$(echo "$answer" | cut -d ' ' -f 5)
echo "postgres://shop:$password@freehold:6432/shop" >"$dsn.new"
mv "$dsn.new" "$dsn"
echo "setup: database shop is on system pg16"
