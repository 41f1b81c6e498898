"""Monthly usage billing for the Spell Platform: usage rows in, finalized Stripe invoices out, once."""
