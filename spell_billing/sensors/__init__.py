"""What watches billing and acts or tells people, one sensor a file: see docs/alerts.md.

A sensor that cannot tell people fails its tick with the reason, and tries again with the next one.
"""
