-- The role that the ledger is used with at run time (DATABASE_URL). It changes no table's form, neither the
-- audit trail nor a grant of money afterwards, and nothing outside the ledger.
--
-- Once, by an administrator:  CREATE ROLE billing_ledger LOGIN;  \password billing_ledger
-- Then this file, by the tables' owner, after each `spell-billing init-db` of a new version.
-- PostgreSQL 17 and later: GRANT MAINTAIN ON ledger_invoices TO billing_ledger; lets the drafts of many users be
-- analyzed at once; else autovacuum does it.

GRANT USAGE ON SCHEMA public TO billing_ledger;
GRANT SELECT ON ledger_version TO billing_ledger;
GRANT SELECT, INSERT, UPDATE, DELETE ON ledger_invoices TO billing_ledger;
GRANT SELECT, INSERT, UPDATE ON ledger_months TO billing_ledger;
GRANT SELECT, INSERT ON ledger_audit TO billing_ledger;
GRANT SELECT, INSERT, UPDATE ON ledger_payments TO billing_ledger;
GRANT SELECT, INSERT, UPDATE, DELETE ON ledger_events TO billing_ledger;
GRANT SELECT, INSERT, UPDATE, DELETE ON ledger_cursors TO billing_ledger;
GRANT SELECT, INSERT, UPDATE ON ledger_dunning TO billing_ledger;
GRANT SELECT, INSERT ON ledger_runs TO billing_ledger;
GRANT SELECT, INSERT, UPDATE, DELETE ON ledger_reviews TO billing_ledger;
GRANT SELECT, INSERT ON ledger_decisions TO billing_ledger;
GRANT SELECT, INSERT ON ledger_moves TO billing_ledger;
GRANT SELECT, INSERT, UPDATE ON ledger_stripe_account TO billing_ledger;
GRANT SELECT, INSERT, UPDATE, DELETE ON ledger_outbox TO billing_ledger;
GRANT SELECT, INSERT, UPDATE ON ledger_charges TO billing_ledger;
GRANT SELECT, INSERT, UPDATE ON ledger_credit_notes TO billing_ledger;
GRANT SELECT, INSERT ON ledger_credits TO billing_ledger;
GRANT USAGE ON SEQUENCE ledger_invoices_id_seq TO billing_ledger;
GRANT USAGE ON SEQUENCE ledger_audit_id_seq TO billing_ledger;
GRANT USAGE ON SEQUENCE ledger_runs_id_seq TO billing_ledger;
GRANT USAGE ON SEQUENCE ledger_decisions_id_seq TO billing_ledger;
GRANT USAGE ON SEQUENCE ledger_moves_id_seq TO billing_ledger;
GRANT USAGE ON SEQUENCE ledger_outbox_id_seq TO billing_ledger;
