"""Mail to users about their invoices: off unless MAIL_URL is set, because Stripe sends its own."""
