"""Prints the rows of a query of an SQLite database as JSON. No database or no table yet: no rows.
With "write" for a query it runs the SQL of its standard input on the database, which it makes.

usage: rows.py FILE SQL|write
"""
import json
import sqlite3
import sys
import urllib.parse

file, sql = sys.argv[1:3]
if sql == "write":
    with sqlite3.connect(file) as db:
        db.executescript(sys.stdin.read())
    sys.exit()
try:
    # A client may be writing: the database is only read, and its owner's log is taken into account.
    rows = sqlite3.connect("file:%s?mode=ro" % urllib.parse.quote(file), uri=True, timeout=10).execute(sql).fetchall()
except sqlite3.OperationalError as e:
    if "unable to open" not in str(e) and "no such table" not in str(e):
        raise
    rows = []
print(json.dumps(rows))
