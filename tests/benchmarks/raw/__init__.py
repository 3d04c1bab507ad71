"""The raw limits: the fastest hand-written loops we know how to write on the same clients.

None of them promises anything: no checkpoint, no retry, no fencing, no dead letters, no transform, no metrics; a crash
loses or repeats rows. Each prints one line of JSON, `{"records": …, "seconds": …}`, the seconds from just before it
connects until the last row is committed; interpreter start and imports are not counted, for these as for ours.
"""
