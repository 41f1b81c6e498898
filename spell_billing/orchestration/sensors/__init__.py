"""What watches billing and acts or alerts: see docs/alerts.md.

A sensor that cannot send its alert fails its tick with the reason, and tries again with the next one.
"""
