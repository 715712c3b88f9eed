"""Prints the rows of a query of an SQLite database as JSON. No database or no table yet: no rows.
With "write" for a query it runs the SQL of its standard input on the database, which it makes.

usage: rows.py FILE SQL|write
"""
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import urllib.parse

file, sql = sys.argv[1:3]
if sql == "write":
    with sqlite3.connect(file) as db:
        db.executescript(sys.stdin.read())
    sys.exit()
# A client may be writing, and some end if they find their database locked. So a copy of it is read, with the log of what
# is not in it yet. A copy that was made while it was written may be damaged: the next one is not.
with tempfile.TemporaryDirectory() as folder:
    copy = os.path.join(folder, "copy")
    try:
        for end in ("", "-wal"):
            if os.path.exists(file + end):
                shutil.copyfile(file + end, copy + end)
        rows = sqlite3.connect("file:%s?mode=rw" % urllib.parse.quote(copy), uri=True).execute(sql).fetchall()
    except sqlite3.DatabaseError as e:
        known = "unable to open", "no such table", "malformed", "not a database"
        if not any(text in str(e) for text in known):
            raise
        rows = []
    except FileNotFoundError:
        rows = []
print(json.dumps(rows))
