"""What is sent to operators when billing needs one of them: see docs/alerts.md."""
