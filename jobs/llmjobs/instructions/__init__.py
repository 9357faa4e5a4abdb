"""Raw instruction files become a validated, deduplicated, split and published dataset version.

A run goes through these modules, in this order:

* `night`: one run, from its question to audit and version; `intake`: reads and examines files chunk by chunk
* `tables`, `parts`: rows on their way, as columns and on disk; `identity`: what a row is, says and asks, as hashes
* `ends`: published, quarantined, duplicate or left out; `expectations`: the verdict of Great Expectations
* `published`, `audit`, `quarantine`: what lies in the lake afterwards; `problems`: why rows cannot be read, in words
* `evaluation`: rows of evaluation sets; `examined_files`: parts that are kept in the lake; `replay`: the quarantine

Packages:

* `raw`: files, packed or broken, as rows; `rules`: what is wrong with a row, repairs, personal data
* `alike`: near rows, sides of the split, leaks; `choice`: scores, budgets, mixes
* `report`: the page, and the diff with the last version; `rendered`: published rows as training text
* `history`: who did what, and what was made from which rows; `checking`: a contract looked at and tried

Jobs, which Airflow starts, and commands, which a person types: ``python -m llmjobs.instructions.<name>``

* `prepare`: files to a version (job); `files`, `examine`: list them, and examine one (jobs of ``map_files``)
* `publish`: make a version current that a person approved (job)
* `check`: lint a contract, and try it on files
* `corrections`: keep rows that were put right in a copy of the quarantine file
* `takedown`: remove rows for good, and say what saw them
* `versions`: list, roll back, publish by hand, and name adapters
"""

from __future__ import annotations

import os

# Polars' allocator keeps freed memory for half a second, so each of our steps, chunk by chunk, asks the kernel for its
# pages again. With five seconds a million rows cost 1.6 s less of the system and 13 MB more, four million 130 MB more
# of 1.5 GB. It is read once, when polars is loaded; a value of the environment is stronger, and without jemalloc
# nobody reads it.
os.environ["_RJEM_MALLOC_CONF"] = ",".join(filter(None, ["dirty_decay_ms:5000", os.environ.get("_RJEM_MALLOC_CONF")]))
