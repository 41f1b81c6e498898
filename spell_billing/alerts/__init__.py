"""What people are told when billing needs one of them: see docs/alerts.md."""
