"""Metrics as Prometheus reads them: a catalogue, readings of what is counted elsewhere, and who may have them.

Nothing is counted here. A page is read off the counters that gateway, engines and kvstore keep anyway, when it is asked
for; each series is on one page alone, so that whoever scrapes them all counts nothing twice.
"""
