#!/bin/sh
# A sample application that nobody here wrote: pgbench, through the one DSN of its database.
set -eu

dsn=$(cat /shared/dsn)
psql -X -q "$dsn" -c 'SELECT count(*) FROM pgbench_accounts' >/dev/null 2>&1 || pgbench -i -s 10 "$dsn"
exec pgbench --protocol=prepared --client=16 --jobs=2 --rate=300 --progress=5 --time=86400 "$dsn"
