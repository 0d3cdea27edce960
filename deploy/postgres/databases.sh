#!/bin/sh
# A role and a database of its own for each name in MODELYARD_DATABASES, with the password in
# NAME_DB_PASSWORD. The image runs this once, when the data directory is made.
set -eu
for name in $MODELYARD_DATABASES; do
  variable="$(printf %s "$name" | tr '[:lower:]' '[:upper:]')_DB_PASSWORD"
  DB_PASSWORD="$(printenv "$variable")" || { echo "$variable is missing" >&2; exit 1; }
  # By the environment: a command line can be read by every process.
  export DB_PASSWORD
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=name="$name" \
    --username="${POSTGRES_USER:-postgres}" --dbname="${POSTGRES_DB:-postgres}" <<'SQL'
\getenv password DB_PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
