"""How fast our flows are, beside the fastest hand-written loop on the same machine in the same minutes.

    $ python -m tests.benchmarks                                     # or: make bench
    $ python -m tests.benchmarks --rows 10000000 --paths kafka-postgresql --runs 1
    $ python -m tests.benchmarks --paths kafka-postgresql --latency

For each path the same data is moved by a raw loop (`raw/`) and by `airflow-connect run FLOW.yaml --drain --json`, each
in a process of its own, alternating, because what else runs on the machine changes with time. The table shows medians.
After each run the target is counted; one lost, repeated or spoilt record fails the benchmark. The figures also go to
`build/bench.json`.

* `rows_per_s`: rows by the seconds from just before the first connection until the last commit; start-up and imports
  are left out on both sides, and shown as `first record` below the table.
* `ratio`: ours by raw.
* `peak_rss_mb`, `cpu_seconds`: of our process, from its start to its end, as the kernel counts them.

Modules: `dataset`: the records. `paths`, `paths_…`: what is measured. `raw`: the loops. `measure`: a process and what
it used. `latency`: first record, and from the source's timestamp to the commit.
"""
